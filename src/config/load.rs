//! From a command line and an environment to what is to be done.

use std::ffi::OsString;
use std::path::Path;

use super::error::{Error, Problem, nearest};
use super::options::{OPTIONS, Places, Spec};
use super::resolve::{Config, resolve};
use super::settings::{Origin, Setting, Settings};
use super::values::{HostPort, parse_switch};
use super::{file, flags, report};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run with this configuration.
    Run(Box<Config>),
    /// Show the help.
    Help,
    /// Show the version.
    Version,
    /// Ask the server at this admin address whether it is ready.
    Healthcheck(HostPort),
    /// Show the settings, then end; with the refusal that a start would meet.
    Check {
        /// The listing.
        text: String,
        /// Why a start would be refused.
        refused: Option<Error>,
    },
}

/// Reads flags (without the program's name), environment and file.
///
/// # Errors
/// All that is wrong with them.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, Error> {
    let mut problems = Vec::new();
    let mut notices = Vec::new();
    let line = flags::parse(as_text(arguments, &mut problems));
    problems.extend(line.problems);
    let asks = |name| {
        line.given.iter().any(|(spec, value)| spec.name == name && parse_switch(value) == Ok(true))
    };
    if !problems.is_empty() {
        return Err(Error { problems });
    }
    if asks("help") {
        return Ok(Invocation::Help);
    }
    if asks("version") {
        return Ok(Invocation::Version);
    }
    let (check, healthcheck) = (asks("check"), asks("healthcheck"));
    let mut given: Vec<Setting> = line
        .given
        .into_iter()
        .map(|(spec, value)| Setting::new(spec, Origin::Flag, value))
        .collect();
    read_environment(environment, &mut given, &mut problems, &mut notices);
    read_file(&mut given, &mut problems, &mut notices);

    let settings = Settings::merge(given);
    let resolved = resolve(&settings, &mut notices, &mut problems);
    let refused = (!problems.is_empty()).then_some(Error { problems });
    if check {
        let text = report::check_text(&settings, &notices);
        return Ok(Invocation::Check { text, refused });
    }
    match (resolved, refused) {
        (_, Some(error)) => Err(error),
        (Some(config), None) if healthcheck => Ok(Invocation::Healthcheck(config.admin_address)),
        (Some(mut config), None) => {
            config.notices = notices;
            Ok(Invocation::Run(Box::new(config)))
        }
        (None, None) => unreachable!("what does not resolve leaves a problem"),
    }
}

fn as_text(
    arguments: impl IntoIterator<Item = OsString>,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut words = Vec::new();
    for (position, argument) in arguments.into_iter().enumerate() {
        match argument.into_string() {
            Ok(word) => words.push(word),
            Err(_) => problems.push(Problem::NotText {
                place: format!("argument {}", position + 1),
                is_argument: true,
            }),
        }
    }
    words
}

/// The file of a secret instead of the secret: not shown by `/proc`, and what container engines mount.
const KEY_FILE_VARIABLE: &str = "TLOG_PRIV_KEY_FILE";

fn read_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    given: &mut Vec<Setting>,
    problems: &mut Vec<Problem>,
    notices: &mut Vec<String>,
) {
    for (variable, value) in environment {
        let Some(variable) = variable.to_str().filter(|name| name.starts_with("TLOG_")) else {
            continue;
        };
        let Ok(value) = value.into_string() else {
            let place = format!("environment {variable}");
            problems.push(Problem::NotText { place, is_argument: false });
            continue;
        };
        let origin = Origin::Environment(variable.to_owned());
        match OPTIONS.iter().find(|spec| spec.variable() == variable) {
            Some(spec) if spec.places == Places::FlagOnly => {
                problems.push(Problem::WrongPlace { name: spec.name, places: spec.places, origin });
            }
            Some(spec) => given.push(Setting::new(spec, origin, value)),
            None if variable == KEY_FILE_VARIABLE => {
                let spec = Spec::find("priv-key").expect("a name of the table");
                given.push(Setting::new(spec, origin, format!("@{value}")));
            }
            None => notices.push(unknown_variable(variable)),
        }
    }
    let keys: Vec<String> = given
        .iter()
        .filter(|setting| setting.spec.name == "priv-key" && setting.origin != Origin::Flag)
        .map(|setting| setting.origin.to_string())
        .collect();
    if let [first, second] = &keys[..] {
        problems.push(Problem::TwoKeys { first: first.clone(), second: second.clone() });
    }
}

/// A warning and no refusal: container engines add variables by the names of services.
fn unknown_variable(variable: &str) -> String {
    let names: Vec<String> = OPTIONS.iter().map(Spec::variable).collect();
    let nearest = nearest(variable, names.iter().map(String::as_str))
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default();
    format!("environment {variable} is ignored: no option has that name{nearest}")
}

fn read_file(given: &mut Vec<Setting>, problems: &mut Vec<Problem>, notices: &mut Vec<String>) {
    let named = given
        .iter()
        .filter(|setting| setting.spec.name == "config")
        .max_by_key(|setting| &setting.origin)
        .map(|setting| setting.raw().to_owned());
    let is_named = named.is_some();
    let default = || Spec::find("config").map(|spec| spec.default.to_owned()).unwrap_or_default();
    let path = named.unwrap_or_else(default);
    if path.is_empty() {
        return;
    }
    match file::read(Path::new(&path), is_named) {
        Ok(content) => {
            given.extend(content.given);
            notices.extend(content.notices);
        }
        Err(more) => problems.extend(more),
    }
}

#[cfg(test)]
mod tests;
