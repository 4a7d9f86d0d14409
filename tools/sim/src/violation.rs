//! What an oracle says when it sees a fault.

use std::fmt;

/// A rule that was broken: by whom it was seen and what exactly happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The oracle, by the name of its module.
    pub oracle: &'static str,
    /// The rule and the facts, with the statement where there is one.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oracle {}: {}", self.oracle, self.text)
    }
}

impl std::error::Error for Violation {}

/// What every check returns.
pub type Checked<T = ()> = Result<T, Violation>;

/// Returns a [`Violation`] from the calling function unless the condition holds.
#[macro_export]
macro_rules! hold {
    ($condition:expr, $oracle:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::violation::Violation { oracle: $oracle, text: format!($($text)+) });
        }
    };
}

/// The error that [`hold!`] would return, for use where a value is missing.
#[macro_export]
macro_rules! violated {
    ($oracle:expr, $($text:tt)+) => {
        $crate::violation::Violation { oracle: $oracle, text: format!($($text)+) }
    };
}
