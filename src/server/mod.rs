//! Puts the parts together: what starts when, what stops when.
//!
//! ```text
//! start   lock the data directory -> bind every socket -> admin port answers (503) -> parts open and recover
//!         -> front ends serve -> "listening ..." lines -> "ready", /readyz 200
//! stop    SIGTERM or SIGINT -> /readyz 503 -> listeners and connections end -> parts finish within -stop-timeout
//!         -> admin port ends -> the lock goes with the process
//! now     a second SIGTERM or SIGINT, at any point of the stop, or any one before "ready"
//! ```
//!
//! Sockets are bound before recovery, so that a taken port is told at once and not after minutes; nobody is accepted
//! before recovery, so that clients wait in the backlog and meet no half-open broker.
//!
//! Seams. [`run_with`] takes what opens the parts: a function from [`Context`] to [`Parts`]. A front end is a
//! function of its bound sockets and a token that says stop ([`Serve`]). That is all that this folder knows of them, so its
//! own tests run it with parts of a few lines. `parts.rs` names the real ones.
//!
//! Exit codes: [`Error::exit_code`].
//!
//! Where to look next: `run.rs` for the order, `listen.rs` for what `localhost:0` binds.

mod data_dir;
mod disk;
mod error;
mod healthcheck;
mod listen;
mod local_log;
mod offline;
mod parts;
mod process;
mod run;
mod signals;
mod storage;

pub use data_dir::DataDir;
pub use error::Error;
pub use healthcheck::healthcheck;
pub use listen::{Advertised, Listener};
pub use process::prepare_process;
pub use run::{Context, Parts, Serve, Stop, run, run_with};
