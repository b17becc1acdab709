#!/bin/sh
# Builds the static programs that the images are made of, and holds them to being static.
#
#   deploy/images/build.sh DIRECTORY [TARGET]
#
# TARGET is x86_64-unknown-linux-musl (default) or aarch64-unknown-linux-musl. Needs the Rust target (`rustup
# target add TARGET`) and a C compiler for it: Debian's musl-tools on x86_64, or gcc-aarch64-linux-gnu to cross
# to aarch64.
set -eu
out=${1:?give a directory for the programs}
target=${2:-x86_64-unknown-linux-musl}
cd "$(dirname "$0")/../.."

strip=strip
case "$target-$(uname -m)" in
aarch64-unknown-linux-musl-x86_64)
    strip=aarch64-linux-gnu-strip
    export CC_aarch64_unknown_linux_musl="${CC_aarch64_unknown_linux_musl:-aarch64-linux-gnu-gcc}"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER="${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER:-rust-lld}"
    ;;
esac

cargo build --locked --release --target "$target" \
    --package routeshare-controller --package routeshare-speaker --package routeshare-bfd --package bgpctl \
    --package routeshare-cni

mkdir -p "$out"
built=${CARGO_TARGET_DIR:-target}/$target/release
for program in routeshare-controller routeshare-speaker routeshare-bfd routeshare-cni bgpctl; do
    # No interpreter, no libraries: in an image from scratch there is neither.
    if readelf --program-headers --dynamic "$built/$program" | grep -E 'INTERP|\(NEEDED\)'; then
        echo "$program is not static" >&2
        exit 1
    fi
    # Names of functions stay, for backtraces; line numbers are most of the size.
    "$strip" --strip-debug -o "$out/$program" "$built/$program"
    chmod 0755 "$out/$program"
done
