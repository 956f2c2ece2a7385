//! From arguments to exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use super::args::{Cli, Command};
use super::failure::{Exit, Failure};
use super::output::tell;
use super::{bench, import, restore, topics, verify};

/// Runs the command `tlog` with these arguments, the program's name first.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return answer_usage(&error),
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(format_args!("tlog: {}", failure.message));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Help and version are answers; everything else is a wrong command line.
fn answer_usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // There is no one left to tell when the output is closed.
    let _ = error.print();
    if asked { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage as u8) }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Error, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Import(args) => import::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Topics(args) => topics::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_is_64_and_help_is_0() {
        let run = |line: &str| main(line.split(' ').map(OsString::from));
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(format!("{:?}", run("tlog --help")), code(0));
        assert_eq!(format!("{:?}", run("tlog --version")), code(0));
        assert_eq!(format!("{:?}", run("tlog import")), code(64));
        assert_eq!(format!("{:?}", run("tlog frobnicate")), code(64));
    }
}
