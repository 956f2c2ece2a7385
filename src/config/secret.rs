//! Text that must not be shown.

use std::fmt;

use zeroize::Zeroizing;

/// A secret of the configuration: overwritten when dropped, shown as `(hidden)`, never serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that uses it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_no_formatter() {
        let secret = Secret::new("open sesame".to_owned());
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)).matches("sesame").count(), 0);
        assert_eq!(secret.reveal(), "open sesame");
    }
}
