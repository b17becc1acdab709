//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "routeshare/bfd/v1/bfd.proto",
        "routeshare/controller/v1/config.proto",
        "routeshare/controller/v1/admin.proto",
        "routeshare/speaker/v1/speaker.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Lean")
        .compile_fds(descriptors)?;
    Ok(())
}
