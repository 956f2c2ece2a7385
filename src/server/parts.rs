//! The parts that this server is made of.

use super::error::Error;
use super::run::{Context, Parts};

/// Opens the parts.
///
/// # Errors
/// What a part refuses, or why it cannot start.
pub async fn open(_context: Context) -> Result<Parts, Error> {
    // The broker and the front ends take their place here; until then their ports stay closed, and this is said.
    Ok(Parts::default())
}
