//! routeshare-speaker

fn main() {}
