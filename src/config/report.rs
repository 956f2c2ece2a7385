//! Texts that derive from the table: help, listing of the settings in effect, sample file.

use std::fmt::Write as _;

use super::options::{Group, Kind, OPTIONS, Places, Spec, Standing};
use super::settings::Settings;

const WIDTH: usize = 100;
const INDENT: usize = 6;

/// The text of `-help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "tlogserver keeps the transaction logs of virtual disks and serves them to TLog and Kafka clients.\n\n\
         Every option has a default: `tlogserver` alone runs. One dash or two, a space or = before the value.\n\
         An option can also be given as variable TLOG_NAME (-data-dir: TLOG_DATA_DIR) or in the section\n\
         tlogserver: of the file that -config names. Flags go over variables, variables over the file.\n",
    );
    for group in Group::ALL {
        let _infallible = write!(text, "\n{}:\n", group.title());
        for spec in OPTIONS.iter().filter(|spec| spec.group == group) {
            let _infallible = writeln!(text, "  -{} {}", spec.name, spec.kind.placeholder());
            text.push_str(&wrapped(&describe(spec), INDENT, ""));
        }
    }
    text.push_str(
        "\nExit codes: 0 ended as asked; 1 failed; 2 data is damaged; 11 the data directory is in use; 12 the shard\n\
         servers were written with another key; 64 the command line cannot be read; 70 a part of the server broke, and\n\
         the log says which; 71 the system gave no thread; 74 the file system failed while the server ran, and the log\n\
         says at what; 78 the configuration is refused.\n",
    );
    // A placeholder may be empty.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn describe(spec: &Spec) -> String {
    let mut text = match spec.standing {
        Standing::Acts => spec.help.to_owned(),
        Standing::Later(cure) => format!("{cure}."),
    };
    match spec.kind {
        Kind::Whole { min, max } if min > 0 || max < 1_000 => {
            let _infallible = write!(text, " From {min} to {max}.");
        }
        Kind::Bytes { min } => {
            let _infallible = write!(text, " At least {} MiB.", min >> 20);
        }
        Kind::Time { .. } => text.push_str(" Seconds, or with ms, s, m, h."),
        Kind::Choice(words) => {
            let _infallible = write!(text, " One of {}.", words.join(", "));
        }
        _ => {}
    }
    if spec.is_secret() {
        text.push_str(" Default: the one that the original was compiled with.");
    } else if !spec.default.is_empty() && spec.kind != Kind::Switch {
        let _infallible = write!(text, " Default {}.", spec.default);
    }
    text
}

/// Words in lines of [`WIDTH`], each behind `indent` spaces and `lead`.
fn wrapped(words: &str, indent: usize, lead: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() && indent + lead.len() + line.len() + 1 + word.len() > WIDTH {
            let _infallible = writeln!(lines, "{:indent$}{lead}{line}", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _infallible = writeln!(lines, "{:indent$}{lead}{line}", "");
    }
    lines
}

/// The text of `-check`: each setting in effect with its origin, then what would be warned of at start.
#[must_use]
pub fn check_text(settings: &Settings, notices: &[String]) -> String {
    let mut text = String::from("tlogserver:\n");
    for setting in settings.iter().filter(|setting| setting.spec.places != Places::FlagOnly) {
        let key = format!("{}:", setting.spec.name);
        let value = yaml(setting.shown());
        let _infallible = writeln!(text, "  {key:<26}{value:<36}  # {}", setting.origin);
    }
    for notice in notices {
        let _infallible = writeln!(text, "# warning: {notice}");
    }
    text
}

/// A text that YAML reads back as the same text.
fn yaml(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+".contains(c);
    let opens_plain =
        value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '.');
    if opens_plain && value.chars().all(plain) && !value.ends_with(':') {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "''"))
}

/// A file with every option at its default, commented out. Kept current as `docker/config.sample.yml`.
#[must_use]
pub fn sample_file() -> String {
    let mut text = String::from(
        "# Every option of tlogserver at its default. Name this file by -config, and take the # off what you change.\n\
         # Lists may be YAML sequences. Unknown keys refuse the start.\ntlogserver:\n",
    );
    for spec in OPTIONS.iter().filter(|spec| spec.places == Places::All) {
        if spec.group == Group::Later {
            continue;
        }
        text.push('\n');
        text.push_str(&wrapped(&describe(spec), 2, "# "));
        let default =
            if spec.is_secret() { "'@/path/of/key'".to_owned() } else { yaml(spec.default) };
        let _infallible = writeln!(text, "  # {}: {default}", spec.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_option_and_fits_the_width() {
        let help = help();
        for spec in OPTIONS {
            assert!(help.contains(&format!("\n  -{}", spec.name)), "{}", spec.name);
        }
        assert!(help.lines().all(|line| line.chars().count() <= WIDTH + 10), "{help}");
        assert!(!help.contains(crate::config::options::DEFAULT_KEY));
        let codes = help.split("Exit codes:").nth(1).unwrap();
        for code in ["0", "1", "2", "11", "12", "64", "70", "71", "74", "78"] {
            assert!(codes.split_whitespace().any(|word| word == code), "{code}");
        }
    }

    #[test]
    fn values_are_quoted_where_yaml_would_read_them_otherwise() {
        assert_eq!(yaml("localhost:9092"), "localhost:9092");
        assert_eq!(yaml(""), "''");
        assert_eq!(yaml("@x"), "'@x'");
        assert_eq!(yaml("it's"), "'it''s'");
    }

    /// `TLOG_TEST_REWRITE=1 cargo test` writes the file anew.
    #[test]
    fn the_sample_file_is_current() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/config.sample.yml");
        if std::env::var_os("TLOG_TEST_REWRITE").is_some() {
            std::fs::write(&path, sample_file()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), sample_file());
    }
}
