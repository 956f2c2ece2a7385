//! All options of the server: one table, four places to set them, one typed result.
//!
//! ```text
//!            options.rs: name, kind, default, help, whether it acts
//!                 |
//!   flags.rs   environment   file.rs         report.rs
//!  -data-dir   TLOG_DATA_DIR  tlogserver:    -help, -check, sample file
//!        \          |         /
//!         settings.rs: flags > environment > file > defaults, each value with its origin
//!                 |
//!         resolve.rs: typed, checked against each other -> Config, or every problem at once
//! ```
//!
//! Invariants:
//! * What stands in the table is all there is: help, the names of environment variables, the keys of the section
//!   `tlogserver:` and the sample file (`docker/config.sample.yml`) derive from it.
//! * Nothing that was given is ignored in silence. It acts, or a notice (a warning at start) says that it does not,
//!   or the start is refused by a message that names the place and the cure.
//! * The value of a secret is in no message, no log and no listing ([`Secret`]).
//!
//! Exit codes: 64 when the command line cannot be read, 78 when the configuration is refused.
//!
//! The command line is Go's, as the original's users type it: `-flush-size 25`, `-flush-size=25`, also with two
//! dashes; switches are `-dev` or `-dev=false`; of a repeated flag the last one wins. That is less code than to bend
//! a parser of another style to it, and its messages can name the nearest option.
//!
//! Where to look next: `server.rs` turns a [`Config`] into running parts.

mod error;
mod file;
mod flags;
mod load;
mod options;
mod report;
mod resolve;
mod secret;
mod settings;
mod values;

pub use error::{Error, Problem};
pub use load::{Invocation, load};
pub use options::{Group, Kind, OPTIONS, Places, Spec, Standing};
pub use report::{check_text, help, sample_file};
pub use resolve::{Config, DEFAULT_KEY_NOTICE, KafkaListener, Storage};
pub use secret::Secret;
pub use settings::{Origin, Setting, Settings};
pub use values::{HostPort, ServerAddress};
