//! Placeholder until the first commit of this binary.
fn main() {}
