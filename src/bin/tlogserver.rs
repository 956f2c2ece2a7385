//! The broker: reads its options and runs the server.

fn main() {}
