//! The broker: reads its options and runs the server.

use std::io::{self, Write as _};
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
        Invocation::Help => say(&config::help()),
        Invocation::Version => say(concat!("tlogserver ", env!("CARGO_PKG_VERSION"), "\n")),
        Invocation::Check { text, refused } => {
            say(&text);
            if let Some(error) = refused {
                return refuse(&error, error.exit_code());
            }
        }
        Invocation::Healthcheck(address) => return healthcheck(&address),
        Invocation::Run(config) => return run(*config),
    }
    ExitCode::SUCCESS
}

/// To standard output. A reader that has left is no error: `print!` would panic.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn healthcheck(address: &HostPort) -> ExitCode {
    match server::healthcheck(address) {
        Ok(answer) => {
            say(&format!("{answer}\n"));
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
    let mut text: String =
        error.to_string().lines().map(|line| format!("tlogserver: {line}\n")).collect();
    if code == 64 {
        text.push_str("tlogserver: -help lists all options\n");
    }
    // The exit code tells those who do not listen.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(code)
}
