//! Names that come from outside.

use std::fmt;
use std::sync::Arc;

/// A name that is no legal topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is no topic name: 1 to 249 characters of [a-zA-Z0-9._-] are needed, and not `.` or `..`"
)]
pub struct InvalidTopicName {
    /// The name as given, cut to 64 characters.
    pub name: String,
}

/// A legal topic name: 1 to 249 characters of `[a-zA-Z0-9._-]`, not `.` or `..`. Source: Kafka's `Topic` class.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidTopicName`].
    pub fn new(name: &str) -> Result<Self, InvalidTopicName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let refused = name.is_empty()
            || name.len() > 249
            || name == "."
            || name == ".."
            || !name.bytes().all(legal);
        if refused {
            return Err(InvalidTopicName { name: name.chars().take(64).collect() });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it collides with others: Kafka's metrics cannot tell `.` from `_`, so two topics may not differ
    /// in these alone.
    #[must_use]
    pub fn collision_key(&self) -> String {
        self.0.replace('.', "_")
    }

    /// Names starting with two underscores are for internal topics.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for TopicName {
    type Error = InvalidTopicName;
    fn try_from(name: String) -> Result<Self, InvalidTopicName> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> String {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_and_illegal_names() {
        for name in ["a", "vdisk-1", "A.b_c", &"x".repeat(249)] {
            assert!(TopicName::new(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(TopicName::new(name).is_err(), "{name}");
        }
    }
}
