//! House rules that are tests: who may name whom, a page for every module, no file beyond a sitting.
//!
//! The source is read as text. An edge that [`MAY_NAME`] lacks fails with the file that draws it: then either the
//! code moves down, or the table (and the map in `lib.rs`) is changed on purpose.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines of a file beyond which it has grown a second purpose.
const FILE_LINES: usize = 900;

const BASE: &[&str] = &["types", "clock", "task", "disk"];

/// Each area of `src/` with the areas that it may name beside itself; what those may name, it may name too, see
/// [`allowed`]. `area::module` allows that module alone.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("clock", &[]),
    ("task", &[]),
    ("disk", &[]),
    ("record", BASE),
    ("wal", &["record"]),
    ("log", &["record"]),
    ("tier", &["wal", "log"]),
    ("broker", &["tier"]),
    ("coordinator", &["broker"]),
    ("kafka", &["coordinator"]),
    ("tlog", &["coordinator"]),
    ("ldlm", &["coordinator"]),
    ("comlog", &["coordinator"]),
    ("gazette", &["coordinator"]),
    ("admin", &["task"]),
    ("client", &["types", "record", "clock", "task", "kafka::protocol", "tlog::protocol"]),
    ("config", &["types", "telemetry"]),
    ("telemetry", &[]),
    ("inspect", &["coordinator"]),
    ("server", &["config", "telemetry", "admin", "kafka", "tlog", "ldlm", "comlog", "gazette"]),
    (
        "cli",
        &[
            "config",
            "telemetry",
            "client",
            "inspect",
            "admin",
            "kafka",
            "tlog",
            "ldlm",
            "comlog",
            "gazette",
        ],
    ),
    ("bin", &["server", "cli", "config", "telemetry"]),
];

/// Front ends meet a partition only by the face that the broker shows: these stay hidden from them.
const FRONT_ENDS: &[&str] = &["kafka", "tlog", "ldlm", "comlog", "gazette"];
const HIDDEN_FROM_FRONT_ENDS: &[&str] = &["wal", "log", "tier"];

/// Areas that only tests have; they may name anything.
const TEST_AREAS: &[&str] = &["tidy", "sim"];

/// What an area may name: what its row lists, and what the rows of those may name, but for the row of `client`, which
/// is meant to the letter.
fn allowed(area: &str) -> BTreeSet<String> {
    let row = |area: &str| MAY_NAME.iter().find(|(name, _)| *name == area).map(|(_, may)| *may);
    let mut all = BTreeSet::from([area.to_owned()]);
    let mut open: Vec<&str> = row(area).unwrap_or_default().to_vec();
    while let Some(next) = open.pop() {
        if all.insert(next.to_owned()) && area != "client" {
            open.extend(row(next).unwrap_or_default());
        }
    }
    if FRONT_ENDS.contains(&area) {
        all.retain(|name| !HIDDEN_FROM_FRONT_ENDS.contains(&name.as_str()));
    }
    all
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All Rust files below `src/` with their path from there, sorted.
fn sources() -> Vec<(PathBuf, String)> {
    let root = source_root();
    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

fn is_generated(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("generated"))
}

/// The first part of the path from `src/`, without `.rs`.
fn area_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The paths below the crate that a source names, one or two parts long: `crate::a::b` and `crate::{a::b, c}`.
/// Comments do not count; `tlog::` counts in binaries.
fn named_paths(text: &str, root: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            None => found.extend(leading_path(rest)),
            Some(group) => {
                found.extend(group_members(group).iter().filter_map(|m| leading_path(m)))
            }
        }
    }
    found
}

/// The members of a `{a, b::{c, d}}` whose opening brace is taken off already.
fn group_members(group: &str) -> Vec<String> {
    let mut members = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ => {}
        }
        if let Some(last) = members.last_mut() {
            last.push(c);
        }
    }
    members.iter().map(|member| member.trim_start_matches(',').trim().to_owned()).collect()
}

/// `a::b` of `a::b::C`, `a` of `a`, nothing where no name stands.
fn leading_path(text: &str) -> Option<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let first = name(text);
    if first.is_empty() {
        return None;
    }
    let second = text[first.len()..].strip_prefix("::").map(name).unwrap_or_default();
    if second.is_empty() || second.starts_with(char::is_uppercase) {
        return Some(first);
    }
    Some(format!("{first}::{second}"))
}

#[test]
fn imports_only_point_down() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let area = area_of(&path);
        if area == "lib" || TEST_AREAS.contains(&area.as_str()) {
            continue;
        }
        if !MAY_NAME.iter().any(|(name, _)| *name == area) {
            faults.push(format!("{}: area `{area}` has no row in MAY_NAME", path.display()));
            continue;
        }
        let may = allowed(&area);
        let mut named = named_paths(&text, "crate::");
        if area == "bin" {
            named.extend(named_paths(&text, "tlog::"));
        }
        for target in named {
            let first = target.split("::").next().unwrap_or_default();
            if !may.contains(first) && !may.contains(&target) {
                faults.push(format!("{}: `{area}` may not name `{target}`", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_of_the_map_has_a_page() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let top = path.components().count() == 1 || area_of(&path) == "bin";
        if (top || path.ends_with("mod.rs")) && !is_generated(&path) && !text.starts_with("//! ") {
            faults.push(format!("{}: does not open with a module page (//!)", path.display()));
        }
    }
    let root = source_root();
    for (path, _) in sources() {
        let Some(dir) = path.parent().filter(|dir| dir.components().count() > 0) else { continue };
        let file = root.join(dir).with_extension("rs");
        if !root.join(dir).join("mod.rs").exists() && !file.exists() && !dir.ends_with("bin") {
            faults.push(format!("{}: a folder without mod.rs", dir.display()));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(path, text)| !is_generated(path) && text.lines().count() > FILE_LINES)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {FILE_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn grouped_and_plain_paths_are_found_and_comments_are_not() {
    let text = "use crate::{wal::Wal, log::{Log, Reader}, types};\n// crate::kafka\nlet x = crate::tier::Tier;";
    let expected = ["log", "tier", "types", "wal"].map(str::to_owned);
    assert_eq!(named_paths(text, "crate::"), BTreeSet::from(expected));
    let text = "use crate::kafka::protocol::Frame; use kafka_crate::x;";
    assert_eq!(named_paths(text, "crate::"), BTreeSet::from(["kafka::protocol".to_owned()]));
}

#[test]
fn the_table_knows_the_layers() {
    assert!(allowed("kafka").contains("types"));
    assert!(!allowed("wal").contains("log"));
    assert!(!allowed("kafka").contains("tlog"));
    assert!(!allowed("kafka").contains("tier"));
    assert!(!allowed("client").contains("broker"));
    assert!(!allowed("tier").contains("broker"));
}
