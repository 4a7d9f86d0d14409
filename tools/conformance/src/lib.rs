//! Statement to code to test.
//!
//! Code and tests name the statements that they fulfil or hold, as `[MQTT5-x.y.z-n]` or
//! `[MQTT311-x.y.z-n]`. This crate collects the names, compares them with the list of all
//! statements and writes one document from both.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

mod scan;

pub use scan::{Place, Tree};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The number of a statement, in the order of the specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    /// The specification.
    pub specification: Specification,
    /// Section, three parts, then the statement's own number.
    pub parts: [u16; 4],
}

/// One of the two specifications with numbered statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specification {
    /// MQTT 5.0.
    Mqtt5,
    /// MQTT 3.1.1.
    Mqtt311,
}

/// Whom a statement binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binds {
    /// The server alone.
    Server,
    /// The client alone. A server may still have to refuse what breaks it.
    Client,
    /// Both.
    Both,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its number.
    pub number: Number,
    /// Whom it binds.
    pub binds: Binds,
    /// What it asks for, in our words.
    pub asks: &'static str,
}

impl Specification {
    /// The name in a tag.
    const fn tag(self) -> &'static str {
        match self {
            Self::Mqtt5 => "MQTT5",
            Self::Mqtt311 => "MQTT311",
        }
    }
}

impl Number {
    /// Reads a tag without its brackets; `None` if it is not a whole one.
    #[must_use]
    pub fn parse(tag: &str) -> Option<Self> {
        let (specification, rest) = match tag.split_once('-')? {
            ("MQTT5", rest) => (Specification::Mqtt5, rest),
            ("MQTT311", rest) => (Specification::Mqtt311, rest),
            _ => return None,
        };
        let (section, last) = rest.split_once('-')?;
        let mut parts = [0; 4];
        let mut given = section.split('.').chain([last]);
        for part in &mut parts {
            let text = given.next().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            *part = text?.parse().ok()?;
        }
        given.next().is_none().then_some(Self { specification, parts })
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, n] = self.parts;
        write!(f, "{}-{a}.{b}.{c}-{n}", self.specification.tag())
    }
}

/// All statements, from `statements.txt`.
///
/// # Panics
/// If a line of that file has another form.
#[must_use]
pub fn statements() -> Vec<Statement> {
    let lines = include_str!("../statements.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(statement).collect()
}

fn statement(line: &'static str) -> Statement {
    let mut columns = line.splitn(4, ' ');
    let mut column = || columns.next().unwrap_or_else(|| panic!("too few columns: {line}"));
    let tag = format!("{}-{}", column(), column());
    let number = Number::parse(&tag).unwrap_or_else(|| panic!("no statement: {line}"));
    let binds = match column() {
        "server" => Binds::Server,
        "client" => Binds::Client,
        "both" => Binds::Both,
        other => panic!("{other} in {line}"),
    };
    Statement { number, binds, asks: column() }
}

/// The text of `docs/CONFORMANCE.md`.
#[must_use]
pub fn document(statements: &[Statement], tree: &Tree) -> String {
    let mut out = String::from(
        "# Conformance\n\n\
         Every numbered statement of MQTT 5.0 and MQTT 3.1.1, the code that fulfils it and the \
         tests that hold it.\n\
         Written by `make conformance` from the tags in the tree; do not edit. The words are \
         ours, the specifications count.\n\
         A statement that binds clients is listed with what the broker does when a client breaks \
         it.\n\n",
    );
    summary(&mut out, statements, tree);
    missing(&mut out, statements, tree);
    for specification in [Specification::Mqtt5, Specification::Mqtt311] {
        let name = match specification {
            Specification::Mqtt5 => "MQTT 5.0",
            Specification::Mqtt311 => "MQTT 3.1.1",
        };
        let _ = writeln!(out, "## {name}\n");
        let own = |statement: &&Statement| statement.number.specification == specification;
        for statement in statements.iter().filter(own) {
            entry(&mut out, statement, tree);
        }
    }
    out
}

fn summary(out: &mut String, statements: &[Statement], tree: &Tree) {
    out.push_str(
        "| | bind the server | of these tested | bind clients alone | of these tested |\n\
         |---|---|---|---|---|\n",
    );
    for (specification, name) in
        [(Specification::Mqtt5, "MQTT 5.0"), (Specification::Mqtt311, "MQTT 3.1.1")]
    {
        let count = |server: bool, tested: bool| {
            let counts = |s: &&Statement| {
                s.number.specification == specification
                    && (s.binds != Binds::Client) == server
                    && (!tested || tree.tests.contains_key(&s.number))
            };
            statements.iter().filter(counts).count()
        };
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} |",
            count(true, false),
            count(true, true),
            count(false, false),
            count(false, true)
        );
    }
    out.push('\n');
}

fn missing(out: &mut String, statements: &[Statement], tree: &Tree) {
    out.push_str(
        "## Not yet tagged\n\nStatements that bind the server and that no test names.\n\n",
    );
    let missing: Vec<_> = statements
        .iter()
        .filter(|s| s.binds != Binds::Client && !tree.tests.contains_key(&s.number))
        .collect();
    for statement in &missing {
        let _ = writeln!(out, "* {} {}", statement.number, statement.asks);
    }
    out.push_str(if missing.is_empty() { "None.\n\n" } else { "\n" });
}

fn entry(out: &mut String, statement: &Statement, tree: &Tree) {
    let binds = match statement.binds {
        Binds::Server | Binds::Both => "",
        Binds::Client => " (client)",
    };
    let _ = writeln!(out, "**{}**{binds} {}", statement.number, statement.asks);
    let none = BTreeSet::new();
    let code = tree.code.get(&statement.number).unwrap_or(&none);
    if !code.is_empty() {
        let files: Vec<_> = code.iter().map(|place| format!("`{}`", place.path)).collect();
        let _ = writeln!(out, "* code: {}", files.join(", "));
    }
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for place in tree.tests.get(&statement.number).unwrap_or(&none) {
        by_file.entry(&place.path).or_default().extend(place.test.as_deref());
    }
    for (path, tests) in by_file {
        let colon = if tests.is_empty() { "" } else { ": " };
        let _ = writeln!(out, "* test: `{path}`{colon}{}", tests.join(", "));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_is_written() {
        let number = Number::parse("MQTT311-3.10.4-12").unwrap();
        assert_eq!(number.parts, [3, 10, 4, 12]);
        assert_eq!(number.to_string(), "MQTT311-3.10.4-12");
        for wrong in ["MQTT5-3.8", "MQTT5-3.8-1", "MQTT-3.1.2-1", "MQTT5-3.1.2-", "MQTT5-3.1.2-x"] {
            assert_eq!(Number::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_list_of_statements_is_in_order_and_has_none_twice() {
        let numbers: Vec<_> = statements().iter().map(|statement| statement.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!(numbers.len() > 380, "{}", numbers.len());
    }

    #[test]
    fn every_tag_names_a_statement_that_exists() {
        let known: BTreeSet<_> = statements().iter().map(|statement| statement.number).collect();
        let tree = Tree::scan(&root()).unwrap();
        let unknown: Vec<_> = tree
            .tests
            .iter()
            .chain(&tree.code)
            .filter(|(number, _)| !known.contains(number))
            .map(|(number, places)| format!("{number} in {places:?}"))
            .collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
    }

    #[test]
    fn the_document_is_not_stale() {
        let path = root().join("docs/CONFORMANCE.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let current = document(&statements(), &Tree::scan(&root()).unwrap());
        assert!(written == current, "docs/CONFORMANCE.md is stale: run `make conformance`");
    }
}
