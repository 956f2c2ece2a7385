//! The results, for a terminal or for the README.

use std::fmt::Write as _;

use super::limits::Limit;

/// One path and its samples, a pair per round, in bytes per second.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    samples: Vec<f64>,
    limits: Vec<Limit>,
}

impl Row {
    pub(super) fn new(name: String) -> Self {
        Self { name, samples: Vec::new(), limits: Vec::new() }
    }

    pub(super) fn add(&mut self, sample: f64, limit: Limit) {
        self.samples.push(sample);
        self.limits.push(limit);
    }

    fn cells(&self) -> [String; 5] {
        let megabytes = |rate: f64| format!("{:.1}", rate / 1e6);
        let (min, median, max) = spread(&self.samples);
        let rates: Vec<f64> = self.limits.iter().map(|limit| limit.rate()).collect();
        let (_, limit, _) = spread(&rates);
        let by_disk = self.limits.iter().filter(|limit| limit.disk <= limit.loopback).count();
        let which = if 2 * by_disk >= self.limits.len() { "write + sync" } else { "loopback" };
        let ratio = if limit > 0.0 { median / limit } else { 0.0 };
        [
            self.name.clone(),
            format!("{} / {} / {}", megabytes(min), megabytes(median), megabytes(max)),
            megabytes(limit),
            which.to_owned(),
            format!("{:.0} %", 100.0 * ratio),
        ]
    }
}

/// Least, median and greatest.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

/// What a [`Pair`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Given in bytes per second.
    MegabytesPerSecond,
    Seconds,
    Milliseconds,
    Microseconds,
    Kibibytes,
    Ratio,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::MegabytesPerSecond => format!("{:.0}", value / 1e6),
            Self::Microseconds => format!("{value:.0}"),
            Self::Milliseconds | Self::Kibibytes => format!("{value:.1}"),
            Self::Seconds | Self::Ratio => format!("{value:.2}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::MegabytesPerSecond => "MB/s",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Kibibytes => "KiB",
            Self::Ratio => "",
        }
    }
}

/// What a figure is meant to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Aim {
    /// Of server by bare program.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtMost(f64),
    None,
}

/// A figure of the server, and where there is one that of a bare program in the same round.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    name: String,
    bare: &'static str,
    unit: Unit,
    aim: Aim,
    samples: Vec<(f64, Option<f64>)>,
}

impl Pair {
    pub(super) fn new(name: String, bare: &'static str, unit: Unit, aim: Aim) -> Self {
        Self { name, bare, unit, aim, samples: Vec::new() }
    }

    /// In the unit's measure; rates in bytes per second.
    pub(super) fn add(&mut self, sample: f64, bare: Option<f64>) {
        self.samples.push((sample, bare));
    }

    pub(super) fn is_measured(&self) -> bool {
        !self.samples.is_empty()
    }

    fn cells(&self) -> [String; 6] {
        let three = |samples: &[f64]| {
            let (min, median, max) = spread(samples);
            [min, median, max].map(|value| self.unit.text(value)).join(" / ")
        };
        let ours: Vec<f64> = self.samples.iter().map(|(sample, _)| *sample).collect();
        let bare: Vec<f64> = self.samples.iter().filter_map(|(_, bare)| *bare).collect();
        let ratio = |(sample, bare): &(f64, Option<f64>)| Some(sample / bare.as_ref()?);
        let ratios: Vec<f64> = self.samples.iter().filter_map(ratio).collect();
        let (least, ratio, most) = spread(&ratios);
        let aim = match self.aim {
            Aim::RatioAtLeast(bound) => format!("ratio >= {bound}"),
            Aim::RatioAtMost(bound) => format!("ratio <= {bound}"),
            Aim::AtMost(bound) => format!("<= {bound} {}", self.unit.name()).trim_end().to_owned(),
            Aim::None => String::new(),
        };
        [
            self.name.clone(),
            format!("{} {}", three(&ours), self.unit.name()).trim_end().to_owned(),
            self.bare.to_owned(),
            if bare.is_empty() { String::new() } else { three(&bare) },
            if bare.is_empty() {
                String::new()
            } else {
                format!("{least:.2} / {ratio:.2} / {most:.2}")
            },
            aim,
        ]
    }
}

/// The table of paths beside their limits, a line per row.
pub(super) fn render(rows: &[Row], markdown: bool) -> String {
    let head = ["path", "MB/s min / median / max", "limit MB/s", "limited by", "of limit"];
    let cells = rows.iter().map(Row::cells).collect();
    lines(head, [false, true, true, false, true], cells, markdown)
}

/// The table of figures beside those of bare programs, a line per row.
pub(super) fn render_pairs(rows: &[Pair], markdown: bool) -> String {
    let head = ["figure", "min / median / max", "bare program", "its figure", "ratio", "aim"];
    let cells = rows.iter().map(Pair::cells).collect();
    lines(head, [false, true, false, true, true, false], cells, markdown)
}

/// Columns of equal width; `right` says which stand to the right.
fn lines<const N: usize>(
    head: [&str; N],
    right: [bool; N],
    rows: Vec<[String; N]>,
    markdown: bool,
) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows);
    let mut widths = [0; N];
    for line in &lines {
        let lengths = line.iter().map(|cell| cell.chars().count());
        widths.iter_mut().zip(lengths).for_each(|(width, length)| *width = length.max(*width));
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths).zip(right).map(|((cell, width), right)| {
            if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let cells: Vec<String> = cells.collect();
        // A String takes whatever is written to it.
        if markdown {
            writeln!(text, "| {} |", cells.join(" | ")).ok();
            if number == 0 {
                let marks = right.map(|right| if right { "---:" } else { "---" });
                writeln!(text, "|{}|", marks.join("|")).ok();
            }
        } else {
            writeln!(text, "{}", cells.join("  ").trim_end()).ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_spread_limit_and_ratio() {
        let mut row = Row::new("produce".to_owned());
        for megabytes in [30.0, 10.0, 20.0] {
            row.add(megabytes * 1e6, Limit { loopback: 1e9, disk: 40e6 });
        }
        let table = render(&[row], false);
        let line = table.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let expected = "produce 10.0 / 20.0 / 30.0 40.0 write + sync 50 %";
        assert_eq!(words.join(" "), expected);
        assert!(render(&[], true).starts_with("| path"));
    }

    #[test]
    fn a_pair_shows_the_median_of_the_ratios_of_its_rounds() {
        let aim = Aim::RatioAtMost(2.0);
        let mut pair = Pair::new("round".to_owned(), "loop", Unit::Milliseconds, aim);
        for (ours, bare) in [(10.0, 5.0), (30.0, 10.0), (2.0, 2.0)] {
            pair.add(ours, Some(bare));
        }
        let mut alone = Pair::new("start".to_owned(), "", Unit::Seconds, Aim::AtMost(2.0));
        alone.add(1.25, None);
        let table = render_pairs(&[pair, alone], false);
        let line = |number| {
            let line: &str = table.lines().nth(number).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let expected =
            "round 2.0 / 10.0 / 30.0 ms loop 2.0 / 5.0 / 10.0 1.00 / 2.00 / 3.00 ratio <= 2";
        assert_eq!(line(1), expected);
        assert_eq!(line(2), "start 1.25 / 1.25 / 1.25 s <= 2 s");
    }
}
