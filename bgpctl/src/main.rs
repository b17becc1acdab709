//! bgpctl

fn main() {}
