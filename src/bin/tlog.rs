//! The tool of operators and persons; each subcommand is a file of `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tlog::cli::main(std::env::args_os())
}
