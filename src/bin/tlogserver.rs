//! The broker: reads its options and runs the server.

use std::process::ExitCode;

use tlog::config::{self, Config, HostPort, Invocation};
use tlog::{server, telemetry};

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let invocation = match config::load(arguments, std::env::vars_os()) {
        Ok(invocation) => invocation,
        Err(error) => return refuse(&error, error.exit_code()),
    };
    match invocation {
        Invocation::Help => print!("{}", config::help()),
        Invocation::Version => println!("tlogserver {}", env!("CARGO_PKG_VERSION")),
        Invocation::Check { text, refused } => {
            print!("{text}");
            if let Some(error) = refused {
                return refuse(&error, error.exit_code());
            }
        }
        Invocation::Healthcheck(address) => return healthcheck(&address),
        Invocation::Run(config) => return run(*config),
    }
    ExitCode::SUCCESS
}

fn healthcheck(address: &HostPort) -> ExitCode {
    match server::healthcheck(address) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error, 1),
    }
}

fn run(config: Config) -> ExitCode {
    if let Err(error) = telemetry::init(&config.log) {
        return refuse(&error, 78);
    }
    server::prepare_process();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error, 1),
    };
    let outcome = runtime.block_on(server::run(config));
    // Connections that were cut, and a read that hangs, must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn refuse(error: &dyn std::error::Error, code: u8) -> ExitCode {
    for line in error.to_string().lines() {
        eprintln!("tlogserver: {line}");
    }
    if code == 64 {
        eprintln!("tlogserver: -help lists all options");
    }
    ExitCode::from(code)
}
