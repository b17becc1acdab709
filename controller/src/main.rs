//! routeshare-controller

fn main() {}
