//! Compaction: what newer records have made needless goes, and every offset stays where it is.
//!
//! ```text
//!   dirty part        0 a=1 | 1 b=1 | 2 a=2 | 3 c=1 || 4 b=- | 5 c=2 || 6 ...      two sealed segments, the active one
//!   Pass::begin       newest: a 2, b 4, c 5                                          `keys`, or `extents` for a vdisk
//!   Pass::step        [ gap 0-1 | 2 a=2 | gap 3 | 4 b=- | 5 c=2 ]                   one file of both, under another name
//!   Log::replace      begin_replacement -> Replacement::install -> end_replacement
//!   after the horizon [ gap 0-1 | 2 a=2 | gap 3-4 | 5 c=2 ] 6 ...                    the deletion goes with a later pass
//! ```
//!
//! # What goes
//! * **By key**: a record of which a newer one with its key is below the end of the pass. A deletion (null value), when
//!   its batch's delete horizon has passed: it is set when a pass first meets the deletion, `delete.retention.ms` ahead,
//!   so that a reader which is no further behind than that still sees it. Records without a key stay.
//! * **By extent**, for a vdisk: a record of which later ones cover every byte. A zeroing under which there is no data of
//!   an older record that stays, when the horizon has passed as above. Never the one that makes the disk as long as it is.
//!   What is left replays to the same image, its length included.
//! * Control batches and those of transactions stay as they are, and count for nothing: what they supersede is known only
//!   with the outcome of their transactions. Neither do records that cannot be decoded, nor those of a batch of more than
//!   256 Ki, which would take much memory. Below such a one, deletions stay too: it may be what they delete.
//! * The newest batch of an idempotent producer stays as an empty batch, so that its sequence is in the log.
//!
//! Where the tier keeps the records too, a deletion goes only if it lies below the offset up to which the tier has just what
//! the log has ([`Rules::kept_elsewhere`]), and if what it deletes was gone before the pass: a reader may begin there and go on
//! here. So any beginning of the one with the rest of the other says the same as the log.
//!
//! # Why offsets have no gaps
//! Kafka leaves holes between the batches of a compacted segment. Here they are filled, by one batch without records (61
//! bytes) for each run of offsets that are gone. So each batch begins where the one before it ends, in compacted segments
//! as in all others: a lost batch shows, on disk, in the tier and at a client, and needs no mark that says where holes
//! are right. Clients know such batches from Kafka, which keeps empty ones for producers.
//!
//! # Memory
//! [`crate::types::limits::COMPACTION_KEYS`] keys are mapped at once. Where a log has more, the pass ends at the first one
//! without room ([`Pass::clean_upto`]), and the next goes on from there. Of a vdisk, what does not fit stays.
//!
//! # Invariants
//! * Segments are replaced from the oldest on: a deletion never goes before what it deletes.
//! * Only sealed segments below the recovery point are replaced: recovery never writes to them again.
//! * A pass over damage fails: what cannot be read may be what a deletion deletes. Each batch is held against its CRC as it
//!   is read, for a new CRC may stand over what is left of it.
//! * The image of a vdisk, and the newest value of each key, are at every moment those before the pass.
//!
//! # Replacing files
//!
//! ```text
//!   1  write  <base>.log.new .index.new .timeindex.new .check.new       sync each, sync the directory
//!   2  rename <base>.log.new -> <base>-<next>.swap                      sync the directory: from here on it counts
//!   3  unlink all files of the segments from <base> up to <next>        sync the directory
//!   4  rename the three others to their names, then .swap -> <base>.log   sync the directory
//! ```
//!
//! Recovery drops what has `.new` at its end and does 3 and 4 again for a `.swap`, whose name says which segments it
//! replaces; indexes and sidecar are made anew where they are missing. A reader that was taken before still reads the
//! old files, which stay open; nothing is made anew for it under their names. Where step 1 fails nothing is left of it.
//!
//! Where to look next: `pass` (what goes), `keys`, `extents`, `output` (the new file), `replacement` (the swap),
//! `position` (how far a log is clean).

mod extents;
mod keys;
mod output;
mod pass;
mod position;
mod replacement;

pub use pass::{By, Pass, Rules};
pub use position::Position;
pub use replacement::{Installed, Replacement};

pub(super) use replacement::complete_replacements;

#[cfg(test)]
mod tests;
