//! routeshare-speaker
mod transport;
fn main() {}
