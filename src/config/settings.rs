//! Every option with its value and where that came from.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::options::{OPTIONS, Spec};

/// Where a value came from, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The table.
    Default,
    /// The section `tlogserver:` of this file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The value of one option.
pub struct Setting {
    /// Which option.
    pub spec: &'static Spec,
    /// Where the value came from.
    pub origin: Origin,
    value: Zeroizing<String>,
}

impl Setting {
    /// A value as it was given.
    #[must_use]
    pub fn new(spec: &'static Spec, origin: Origin, value: String) -> Self {
        Self { spec, origin, value: Zeroizing::new(value) }
    }

    /// The value as given, also of a secret.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.value
    }

    /// The value for messages and listings.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.spec.is_secret() { "(hidden)" } else { &self.value }
    }

    /// Whether somebody gave it.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.origin != Origin::Default
    }

    /// `storage-dir (flag)`, for messages.
    #[must_use]
    pub fn named(&self) -> String {
        format!("{} ({})", self.spec.name, self.origin)
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} ({})", self.spec.name, self.shown(), self.origin)
    }
}

/// One [`Setting`] for each entry of the table, in its order.
#[derive(Debug)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Takes, for every option, the last of the strongest origin that gives it, else its default.
    #[must_use]
    pub fn merge(given: Vec<Setting>) -> Self {
        let default = |spec| Setting::new(spec, Origin::Default, spec.default.to_owned());
        let mut all: Vec<Setting> = OPTIONS.iter().map(default).collect();
        for setting in given {
            let place = all.iter_mut().find(|known| known.spec.name == setting.spec.name);
            if let Some(place) = place.filter(|known| known.origin <= setting.origin) {
                *place = setting;
            }
        }
        Self(all)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// The setting of an option.
    ///
    /// # Panics
    /// When the table has no option of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> &Setting {
        self.0.iter().find(|setting| setting.spec.name == name).expect("a name of the table")
    }
}
