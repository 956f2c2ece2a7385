//! The YAML file: the original's, with one more section of ours.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{Problem, nearest};
use super::options::{OPTIONS, Places, Spec};
use super::settings::{Origin, Setting};
use super::values::{HostPort, parts};

/// A configuration is written by hand: this is far beyond any, and bounds what is read.
const FILE_BYTES: u64 = 1024 * 1024;

const OURS: &str = "tlogserver";

const USE_FLAGS: &str = "name the shard servers by -storage-addresses and remove the section";
const NO_VDISKS: &str = "vdisks come to be when their clients attach; remove the section";

/// Sections of the original's files, with what to do instead of them.
const ORIGINAL: &[(&str, &str)] = &[
    ("storageClusters", USE_FLAGS),
    ("vdisks", NO_VDISKS),
    (
        "tlogClusters",
        "clients are told where the server is by their own configuration; remove the section",
    ),
    ("zeroStorClusters", USE_FLAGS),
    ("tlogrpc", "give the address to listen on by -address and remove the key"),
];

/// What the file gives.
#[derive(Debug, Default)]
pub struct Content {
    /// Options of the section `tlogserver:`.
    pub given: Vec<Setting>,
    /// Said at start.
    pub notices: Vec<String>,
}

/// Reads `path`. A file that was `named` must exist, and parse whole; the default one is used only when it has a known
/// section.
pub fn read(path: &Path, named: bool) -> Result<Content, Vec<Problem>> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Content::default());
        }
        Err(error) => {
            let value = path.to_string_lossy();
            let is_server = |part: &str| part.parse::<HostPort>().is_ok();
            if error.kind() == std::io::ErrorKind::NotFound && parts(&value).all(is_server) {
                return Err(vec![Problem::Etcd { value: value.into_owned() }]);
            }
            return Err(vec![Problem::UnreadableFile { path: path.to_owned(), source: error }]);
        }
    };
    parse(path, &text, named)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES {
        return Err(std::io::Error::other("longer than 1 MiB, which no configuration is"));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str, named: bool) -> Result<Content, Vec<Problem>> {
    // Without snippets: an error must not show the line of a key.
    let options = serde_saphyr::options! { with_snippet: false };
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| {
        de.deserialize_any(TopVisitor)
    });
    let file = match parsed {
        Ok(file) => file,
        Err(_) if !named && !looks_known(text) => return Ok(ignored(path)),
        Err(error) => {
            let message = error.to_string();
            return Err(vec![Problem::UnparsableFile { path: path.to_owned(), message }]);
        }
    };
    if !named && !file.sections.iter().any(|section| is_known(section)) {
        return Ok(ignored(path));
    }
    let mut problems = Vec::new();
    for section in &file.sections {
        if section == OURS {
            continue;
        }
        problems.push(match ORIGINAL.iter().find(|(name, _)| name == section) {
            Some((section, cure)) => {
                Problem::OriginalSection { path: path.to_owned(), section, cure }
            }
            None => Problem::UnknownSection {
                path: path.to_owned(),
                key: section.clone(),
                nearest: nearest(section, known_sections()),
            },
        });
    }
    let mut content = Content::default();
    for (key, value) in file.values {
        let origin = Origin::File(path.to_owned());
        match Spec::find(&key) {
            None => problems.push(Problem::UnknownKey {
                path: path.to_owned(),
                nearest: nearest(&key, OPTIONS.iter().map(|spec| spec.name)),
                key,
            }),
            Some(spec) if spec.places != Places::All => {
                problems.push(Problem::WrongPlace { name: spec.name, places: spec.places, origin });
            }
            Some(spec) => content.given.push(Setting::new(spec, origin, value)),
        }
    }
    if problems.is_empty() { Ok(content) } else { Err(problems) }
}

fn known_sections() -> impl Iterator<Item = &'static str> {
    ORIGINAL.iter().map(|(name, _)| *name).chain([OURS])
}

fn is_known(section: &str) -> bool {
    known_sections().any(|known| known == section)
}

/// Whether a file that does not parse was meant for us.
fn looks_known(text: &str) -> bool {
    text.lines().filter_map(|line| line.split_once(':')).any(|(key, _)| is_known(key))
}

fn ignored(path: &Path) -> Content {
    let notice = format!(
        "{} is ignored: it has none of the sections {}; name it by -config if it is meant",
        path.display(),
        known_sections().collect::<Vec<_>>().join(", ")
    );
    Content { given: Vec::new(), notices: vec![notice] }
}

/// A file, before its names are looked up.
#[derive(Default)]
struct File {
    sections: Vec<String>,
    values: Vec<(String, String)>,
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of sections")
    }

    fn visit_unit<E>(self) -> Result<File, E> {
        Ok(File::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let mut file = File::default();
        while let Some(section) = map.next_key::<String>()? {
            if section == OURS {
                map.next_value_seed(SectionSeed { values: &mut file.values })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            file.sections.push(section);
        }
        Ok(file)
    }
}

struct SectionSeed<'a> {
    values: &'a mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for SectionSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SectionSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of options")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let value = match Spec::find(&key) {
                Some(spec) if spec.kind.is_list() => map.next_value_seed(ListSeed)?,
                // As text, whatever it looks like: a key of digits must not become a number.
                Some(_) => map.next_value::<String>()?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                    String::new()
                }
            };
            self.values.push((key, value));
        }
        Ok(())
    }
}

/// A list, as a sequence or in one text by comma.
struct ListSeed;

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a sequence of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(String::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<String, A::Error> {
        let mut all = Vec::new();
        while let Some(part) = sequence.next_element::<String>()? {
            all.push(part);
        }
        Ok(all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str, named: bool) -> Result<Content, Vec<String>> {
        parse(Path::new("c.yml"), text, named)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_keep_the_text_that_was_written() {
        let text = "tlogserver:\n  k: 3\n  dev: true\n  priv-key: 01234567890123456789012345678901\n  \
                    nonce: 37e8\n  storage-addresses: [a:1, 'b:2@3']\n";
        let content = parse_text(text, true).unwrap();
        let values: Vec<&str> = content.given.iter().map(Setting::raw).collect();
        assert_eq!(values, ["3", "true", "01234567890123456789012345678901", "37e8", "a:1,b:2@3"]);
    }

    #[test]
    fn an_empty_section_and_an_empty_file_give_nothing() {
        assert!(parse_text("tlogserver:\n", true).unwrap().given.is_empty());
        assert!(parse_text("", true).unwrap().given.is_empty());
        assert!(parse_text("# nothing\n", true).unwrap().given.is_empty());
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let problems =
            parse_text("tlogserver:\n  flush_size: 3\n  memorystorag: true\n", true).unwrap_err();
        assert_eq!(
            problems[0],
            "c.yml: unknown key `tlogserver.flush_size`; did you mean tlogserver.flush-size?"
        );
        assert!(problems[1].contains("tlogserver.memorystorage?"));
        let problems = parse_text("tlogservers: {}\n", true).unwrap_err();
        assert_eq!(problems[0], "c.yml: unknown section `tlogservers`; did you mean tlogserver?");
    }

    #[test]
    fn sections_of_the_original_are_refused_by_name_with_a_cure() {
        for named in [true, false] {
            let problems =
                parse_text("vdisks:\n  a: {}\nstorageClusters: {}\n", named).unwrap_err();
            assert!(
                problems[0].contains("section `vdisks` is not read yet; vdisks come"),
                "{problems:?}"
            );
            assert!(problems[1].contains("-storage-addresses"), "{problems:?}");
        }
    }

    #[test]
    fn a_stranger_by_the_default_name_is_ignored_with_a_notice() {
        for text in ["services:\n  web: {}\n", "a: [", "just text"] {
            let content = parse_text(text, false).unwrap();
            assert!(content.notices[0].starts_with("c.yml is ignored"), "{text}");
            assert!(parse_text(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn a_broken_file_of_ours_is_never_ignored() {
        let text = "tlogserver:\n  k: [\n";
        assert!(parse_text(text, false).is_err());
        assert!(parse_text("tlogserver:\n  k: 1\n  k: 2\n", false).is_err());
        assert!(parse_text("tlogserver: 5\n", false).is_err());
    }

    #[test]
    fn an_error_does_not_show_the_key() {
        let text = "tlogserver:\n  priv-key: topsecret\n  k: [\n";
        assert!(!parse_text(text, true).unwrap_err()[0].contains("topsecret"));
    }

    #[test]
    fn etcd_addresses_are_told_from_a_missing_file() {
        let problems = read(Path::new("etcd1:2379,etcd2:2379"), true).unwrap_err();
        assert!(matches!(problems[..], [Problem::Etcd { .. }]));
        let problems = read(Path::new("/nowhere/x.yml"), true).unwrap_err();
        assert!(matches!(problems[..], [Problem::UnreadableFile { .. }]));
        assert!(read(Path::new("/nowhere/config.yml"), false).unwrap().given.is_empty());
    }
}
