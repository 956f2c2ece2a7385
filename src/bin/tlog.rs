//! The tool of operators and persons; each subcommand is a file of `cli`.

fn main() {}
