//! routeshare-speaker
mod fib;
mod transport;
fn main() {}
