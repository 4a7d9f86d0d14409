//! What is wrong with a configuration file, for people.

use std::fmt;

/// One problem, at its place in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// A sentence without its final full stop.
    pub text: String,
}

/// Why there is no configuration. Every problem that could be found is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file as it was named.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// The file was read, and these things in it are wrong; at least one, in the file's order.
    Invalid {
        /// The file as it was named.
        file: String,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, reason } => {
                write!(f, "cannot read the configuration file {file}: {reason}")
            }
            Self::Invalid { file, problems } => {
                for (at, Problem { line, column, text }) in problems.iter().enumerate() {
                    let end = if at + 1 < problems.len() { "\n" } else { "" };
                    write!(f, "{file}:{line}:{column}: {text}{end}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Collects problems by their offset in the text.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// Adds a problem that starts at a byte offset of the text.
    pub fn add(&mut self, offset: usize, text: impl Into<String>) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.found.push(Problem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text: text.into(),
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All problems in the order of the file.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}

/// The candidate that was probably meant by `word`: the nearest within a third of its length.
pub(crate) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len().max(3)).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance with swaps of neighbours, in characters. Words beyond 64 characters are
/// far from everything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_key() {
        let keys = ["receive_maximum", "maximum_qos", "server_keep_alive_s"];
        assert_eq!(nearest("recieve_maximum", keys), Some("receive_maximum"));
        assert_eq!(nearest("server_keepalive", keys), Some("server_keep_alive_s"));
        assert_eq!(nearest("Maximum_QoS", keys), Some("maximum_qos"));
    }

    #[test]
    fn an_unrelated_word_finds_nothing() {
        assert_eq!(nearest("persistence", ["receive_maximum", "maximum_qos"]), None);
        assert_eq!(nearest(&"x".repeat(1000), ["receive_maximum"]), None);
    }
}
