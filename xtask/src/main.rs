//! The gate and its mutating twin.
fn main() {}
