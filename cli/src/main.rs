//! The one binary of Tribune.
fn main() {}
