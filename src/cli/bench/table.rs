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

/// The table, a line per row.
pub(super) fn render(rows: &[Row], markdown: bool) -> String {
    let head = ["path", "MB/s min / median / max", "limit MB/s", "limited by", "of limit"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = [0; 5];
    for line in &lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(at, (cell, width))| match at {
                0 | 3 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        // A String takes whatever is written to it.
        if markdown {
            writeln!(text, "| {} |", cells.join(" | ")).ok();
            if number == 0 {
                text.push_str("|---|---:|---:|---|---:|\n");
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
}
