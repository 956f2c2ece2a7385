//! An error for people.

use std::error::Error;

/// An error and all its causes in one line, the outermost first. Messages do not repeat their causes.
#[must_use]
pub fn in_words(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn every_cause_is_said() {
        let error = Outer(std::io::Error::other("no space"));
        assert_eq!(in_words(&error), "cannot write: no space");
        assert_eq!(in_words(&std::io::Error::other("alone")), "alone");
    }
}
