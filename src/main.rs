//! `hookpost`.

fn main() {}
