//! `tlog verify`: reads everything and names what is damaged or missing. Writes nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use super::args::VerifyArgs;
use super::failure::{Exit, Failure};
use super::output::out;
use super::progress::Progress;
use super::shards::Shards;
use crate::disk::FileDisk;
use crate::inspect::{InspectError, Report, check_data_dir};
use crate::tier::{
    BadShard, CheckedFragment, FetchError, RecoveredPartition, ShardError, TopicInfo,
};
use crate::types::{Offset, TopicPartition};

pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    match &args.data_dir {
        Some(dir) => {
            let report = tokio::task::block_in_place(|| data_dir(dir))?;
            out(format_args!(
                "{}: {} commits, {} partitions, {} batches ({} bytes)",
                dir.display(),
                report.commits,
                report.partitions,
                report.batches,
                report.bytes
            ));
            for torn in &report.torn {
                out(format_args!("torn end, mended by the next start: {torn}"));
            }
            for line in &report.damage {
                out(format_args!("damaged: {line}"));
            }
            conclude(report.damage.len() as u64, 0)
        }
        None => shards(&args).await,
    }
}

/// The last line, and the exit code.
fn conclude(damaged: u64, degraded: u64) -> Result<(), Failure> {
    let message = match (damaged, degraded) {
        (0, 0) => {
            out(format_args!("no damage found"));
            return Ok(());
        }
        (0, degraded) => format!("nothing is lost, but {degraded} fragments are degraded"),
        (damaged, 0) => format!("{damaged} damaged places"),
        (damaged, degraded) => {
            format!("{damaged} damaged places, and {degraded} fragments are degraded")
        }
    };
    Err(Failure::new(Exit::Damaged, message))
}

fn data_dir(dir: &std::path::Path) -> Result<Report, Failure> {
    let mut progress = Progress::new("verify", 0);
    let mut done = 0;
    let report = check_data_dir(&FileDisk, dir, &mut |bytes| {
        done += bytes;
        progress.set(done);
    });
    progress.finish();
    report.map_err(|error| {
        let exit = match &error {
            InspectError::NotADataDir { .. } => Exit::NotFound,
            InspectError::Locked { .. } => Exit::Locked,
            InspectError::Io { .. } => Exit::Error,
        };
        Failure::of(exit, &error)
    })
}

/// Opens every shard of every fragment of every topic, and checks seals, chain and batches.
async fn shards(args: &VerifyArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let shards = Shards::open(&args.storage).await?;
    let mut findings = Findings::default();
    let mut progress = Progress::new("verify", 0);
    for topic in shards.topics() {
        let info = TopicInfo { record: topic.record.clone(), vdisk: false };
        for (index, partition) in (0..).zip(&topic.partitions) {
            let id = TopicPartition { topic: info.record.id, partition: index };
            let reader = shards.reader(&info, id);
            findings.begin(format!("{}-{index}", topic.record.name), partition);
            let mut next = partition.log_start;
            while next < partition.shipped {
                next = match reader.check(next).await {
                    Ok(checked) => {
                        if let Err(error @ FetchError::Unavailable { .. }) = &checked.content {
                            return Err(shards.explain(error.clone().into()));
                        }
                        findings.fragment(&checked);
                        next.max(checked.last).saturating_add(1)
                    }
                    Err(FetchError::Damaged { first, last, what }) => {
                        findings.lost(first, last, &what);
                        findings.behind(next.max(last))
                    }
                    Err(error @ FetchError::Unavailable { .. }) => {
                        return Err(shards.explain(error.into()));
                    }
                };
                progress.set(findings.bytes);
            }
            findings.end();
        }
    }
    progress.finish();
    out(format_args!(
        "{} topics, {} records ({} bytes), {} fragments with {} good shards, {:.1} s",
        shards.topics().len(),
        findings.records,
        findings.bytes,
        findings.fragments,
        findings.good,
        started.elapsed().as_secs_f64()
    ));
    for (server, bad) in &findings.servers {
        out(format_args!("{server}: {} shards missing, {} damaged", bad.missing, bad.damaged));
    }
    for why in shards.silent() {
        out(format_args!("without {why}"));
    }
    conclude(findings.damaged, findings.degraded)
}

/// Bad shards of one server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Bad {
    missing: u64,
    damaged: u64,
}

/// Fragments one behind the other with the same shards missing: one line for all of them.
#[derive(Debug)]
struct Stretch {
    first: Offset,
    last: Offset,
    fragments: u64,
    /// Good and needed shards of each.
    left: (usize, usize),
    /// Servers that lack theirs.
    missing: Vec<String>,
}

/// What was found so far; lines go out as they are found, for there may be many.
#[derive(Debug, Default)]
struct Findings {
    partition: String,
    /// Ranges that were known to be lost when the shards were opened.
    known: Vec<(Offset, Offset)>,
    stretch: Option<Stretch>,
    servers: BTreeMap<String, Bad>,
    damaged: u64,
    degraded: u64,
    fragments: u64,
    good: u64,
    records: u64,
    bytes: u64,
}

impl Findings {
    fn begin(&mut self, name: String, partition: &RecoveredPartition) {
        self.partition = name;
        self.known.clone_from(&partition.lost);
        for (first, last) in &partition.lost {
            self.damaged += 1;
            out(format_args!("damaged: {}: offsets {first} to {last} are lost", self.partition));
        }
    }

    fn end(&mut self) {
        if let Some(stretch) = self.stretch.take() {
            out(format_args!("degraded: {}: {}", self.partition, degraded_line(&stretch)));
        }
    }

    fn lost(&mut self, first: Offset, last: Offset, what: &str) {
        if !self.known.iter().any(|(from, to)| *from <= first && last <= *to) {
            self.damaged += 1;
            out(format_args!("damaged: {}: offsets {first} to {last}: {what}", self.partition));
        }
    }

    /// Where to go on behind an offset: not within what is known to be lost.
    fn behind(&self, offset: Offset) -> Offset {
        let lost = self.known.iter().filter(|(from, to)| (*from..=*to).contains(&offset));
        lost.map(|(_, to)| *to).max().unwrap_or(offset).saturating_add(1)
    }

    fn fragment(&mut self, checked: &CheckedFragment) {
        self.fragments += 1;
        self.good += checked.good as u64;
        match &checked.content {
            Ok(bytes) => {
                self.bytes += bytes;
                self.records += u64::try_from(checked.last - checked.first + 1).unwrap_or(0);
                self.degraded += u64::from(!checked.bad.is_empty());
            }
            Err(error) => {
                let what = match error {
                    FetchError::Damaged { what, .. } => what.clone(),
                    FetchError::Unavailable { why } => why.clone(),
                };
                self.lost(checked.first, checked.last, &what);
            }
        }
        for BadShard { server, error, said } in &checked.bad {
            let known = self.servers.entry(server.clone()).or_default();
            if *error == ShardError::Missing {
                known.missing += 1;
            } else {
                known.damaged += 1;
                self.damaged += 1;
                let what = said.clone().unwrap_or_else(|| error.to_string());
                out(format_args!(
                    "damaged: {}: offsets {} to {}, fragment {}: the shard on {server}: {what}",
                    self.partition, checked.first, checked.last, checked.number
                ));
            }
        }
        self.extend(checked);
    }

    fn extend(&mut self, checked: &CheckedFragment) {
        let left = (checked.good, checked.needed);
        let lacking = checked.bad.iter().filter(|bad| bad.error == ShardError::Missing);
        let mut missing: Vec<String> = lacking.map(|bad| bad.server.clone()).collect();
        missing.sort();
        match &mut self.stretch {
            Some(stretch) if stretch.missing == missing && stretch.left == left => {
                stretch.last = checked.last;
                stretch.fragments += 1;
            }
            _ => {
                self.end();
                let (first, last) = (checked.first, checked.last);
                let is_whole = checked.bad.is_empty() || checked.content.is_err();
                let fragments = 1;
                self.stretch =
                    (!is_whole).then_some(Stretch { first, last, fragments, left, missing });
            }
        }
    }
}

fn degraded_line(stretch: &Stretch) -> String {
    let Stretch { first, last, fragments, left: (good, needed), missing } = stretch;
    let survives = match good.saturating_sub(*needed) {
        0 => "no further loss is survived".to_owned(),
        1 => "one further loss is survived".to_owned(),
        more => format!("{more} further losses are survived"),
    };
    let missing = match missing.as_slice() {
        [] => String::new(),
        servers => format!("; missing on {}", servers.join(", ")),
    };
    format!(
        "offsets {first} to {last}, {fragments} fragments with {good} good shards of which {needed} are needed: \
         {survives}{missing}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(first: Offset, bad: &[(&str, ShardError)]) -> CheckedFragment {
        let bad = bad.iter().map(|(server, error)| BadShard {
            server: (*server).to_owned(),
            error: error.clone(),
            said: None,
        });
        let bad: Vec<BadShard> = bad.collect();
        let good = 6 - bad.len();
        CheckedFragment {
            number: 7,
            first,
            last: first + 9,
            needed: 4,
            good,
            bad,
            content: Ok(100),
        }
    }

    #[test]
    fn fragments_that_lack_the_same_shards_are_one_line() {
        let mut findings = Findings::default();
        let lost = [("b", ShardError::Missing), ("a", ShardError::Missing)];
        findings.fragment(&checked(1, &lost));
        findings.fragment(&checked(11, &lost));
        let line = degraded_line(findings.stretch.as_ref().unwrap());
        assert!(line.starts_with("offsets 1 to 20, 2 fragments with 4 good shards"), "{line}");
        assert!(line.ends_with("no further loss is survived; missing on a, b"), "{line}");
        findings.fragment(&checked(21, &[("a", ShardError::Missing)]));
        let line = degraded_line(findings.stretch.as_ref().unwrap());
        assert!(line.contains("offsets 21 to 30") && line.contains("one further loss"), "{line}");
        findings.fragment(&checked(31, &[]));
        assert!(findings.stretch.is_none());
        assert_eq!(findings.servers["a"], Bad { missing: 3, damaged: 0 });
        assert_eq!((findings.degraded, findings.damaged), (3, 0));
        assert_eq!((findings.records, findings.bytes, findings.good), (40, 400, 4 + 4 + 5 + 6));
    }

    #[test]
    fn a_damaged_shard_is_counted_by_its_server_and_degrades_its_fragment() {
        let mut findings = Findings::default();
        findings.fragment(&checked(1, &[("a", ShardError::Rotten)]));
        assert_eq!(findings.servers["a"], Bad { missing: 0, damaged: 1 });
        assert_eq!((findings.degraded, findings.damaged), (1, 1));
        let line = degraded_line(findings.stretch.as_ref().unwrap());
        assert!(line.ends_with("one further loss is survived"), "{line}");
    }

    #[test]
    fn what_is_known_to_be_lost_is_counted_once_and_passed_over() {
        let mut findings = Findings { known: vec![(5, 1_000_000)], ..Findings::default() };
        findings.lost(7, 7, "no entry");
        assert_eq!((findings.damaged, findings.behind(7)), (0, 1_000_001));
        findings.lost(2, 3, "no entry");
        assert_eq!((findings.damaged, findings.behind(3)), (1, 4));
    }

    #[test]
    fn missing_shards_and_damage_end_with_code_2() {
        conclude(0, 0).unwrap();
        for (damaged, degraded) in [(1, 0), (0, 1), (1, 1)] {
            assert_eq!(conclude(damaged, degraded).unwrap_err().exit, Exit::Damaged);
        }
    }
}
