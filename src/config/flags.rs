//! The command line, read as Go's `flag` package reads it.

use super::error::{Problem, nearest};
use super::options::{Kind, OPTIONS, Spec};

/// What stood on the command line, in its order, and what is wrong with it.
#[derive(Default)]
pub struct Line {
    /// Given options with their values; a later one of the same name wins.
    pub given: Vec<(&'static Spec, String)>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Reads the arguments without the program's name.
///
/// A flag takes the next word whatever it looks like, as in Go: `-nonce -v` gives `nonce` the value `-v`. A switch
/// never takes the next word. `--` ends the flags.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Line {
    let mut line = Line::default();
    let mut words = arguments.into_iter().peekable();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty() && !name.starts_with('-')) else {
            if word == "--" {
                line.problems
                    .extend(words.map(|argument| Problem::UnexpectedArgument { argument }));
                return line;
            }
            line.problems.push(Problem::UnexpectedArgument { argument: word });
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let Some(spec) = Spec::find(if name == "h" { "help" } else { name }) else {
            let names = OPTIONS.iter().map(|spec| spec.name);
            let flag = word.split('=').next().unwrap_or_default().to_owned();
            line.problems.push(Problem::UnknownFlag { flag, nearest: nearest(name, names) });
            // What follows is its value, most likely: not worth a message of its own.
            words.next_if(|word| value.is_none() && !word.starts_with('-'));
            continue;
        };
        let value = match value {
            Some(value) => Some(value),
            None if spec.kind == Kind::Switch => Some("true".to_owned()),
            None => words.next(),
        };
        match value {
            Some(value) => line.given.push((spec, value)),
            None => line.problems.push(Problem::MissingValue {
                name: spec.name,
                placeholder: spec.kind.placeholder(),
            }),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Vec<(&'static str, String)>, Vec<String>) {
        let line = parse(line.split_whitespace().map(str::to_owned));
        (
            line.given.into_iter().map(|(spec, value)| (spec.name, value)).collect(),
            line.problems.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn one_dash_two_dashes_and_equals_are_the_same() {
        let expected = vec![("flush-size", "30".to_owned()), ("k", "4".to_owned())];
        for line in ["-flush-size 30 -k 4", "--flush-size 30 --k=4", "-flush-size=30 -k=4"] {
            assert_eq!(read(line), (expected.clone(), vec![]), "{line}");
        }
    }

    #[test]
    fn a_switch_takes_no_word() {
        let (given, problems) = read("-dev false");
        assert_eq!(given, [("dev", "true".to_owned())]);
        assert!(problems[0].contains("unexpected argument `false`"), "{problems:?}");
        assert_eq!(read("-dev=false").0, [("dev", "false".to_owned())]);
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        assert_eq!(read("-nonce -v"), (vec![("nonce", "-v".to_owned())], vec![]));
        assert_eq!(read("-priv-key=a=b").0, [("priv-key", "a=b".to_owned())]);
    }

    #[test]
    fn an_unknown_flag_is_answered_with_the_nearest() {
        let (_, problems) = read("--flush-siez 3");
        assert_eq!(problems, ["unknown flag --flush-siez; did you mean -flush-size?"]);
    }

    #[test]
    fn a_flag_at_the_end_needs_a_value() {
        assert_eq!(read("-data-dir").1, ["-data-dir needs a value: -data-dir PATH"]);
    }

    #[test]
    fn nothing_follows_the_flags() {
        assert_eq!(read("-v -- x y").1.len(), 2);
        assert_eq!(read("x -v -").1.len(), 2);
        assert_eq!(read("---v").1.len(), 1);
    }
}
