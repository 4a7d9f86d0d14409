//! Finds the tags in the tree.
//!
//! A tag in a test, in the comment above it or inside it, belongs to that test. Every other tag
//! belongs to its file: to code, or to a file of tests (vectors, a harness that checks every
//! packet, an oracle of the simulator).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use crate::Number;

/// Where a tag stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, from the root of the repository.
    pub path: String,
    /// The test, if it is in one.
    pub test: Option<String>,
}

/// All tags of the tree.
#[derive(Debug, Default)]
pub struct Tree {
    /// Where code says that it fulfils a statement.
    pub code: BTreeMap<Number, BTreeSet<Place>>,
    /// Where tests say that they hold one.
    pub tests: BTreeMap<Number, BTreeSet<Place>>,
}

/// Folders of the root that are looked through.
const FOLDERS: [&str; 6] = ["proto", "shard", "net", "engine", "tools", "bench"];

impl Tree {
    /// Collects the tags of all sources and vectors below `root`.
    ///
    /// # Errors
    /// If a file or folder cannot be read.
    pub fn scan(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        for folder in FOLDERS {
            tree.folder(root, folder)?;
        }
        Ok(tree)
    }

    fn folder(&mut self, root: &Path, path: &str) -> io::Result<()> {
        if !root.join(path).exists() {
            return Ok(());
        }
        for entry in fs::read_dir(root.join(path))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{path}/{name}");
            if entry.file_type()?.is_dir() {
                // This crate's own tags are examples.
                let skipped = name.starts_with('.')
                    || matches!(name.as_str(), "target" | "node_modules" | "conformance");
                if !skipped {
                    self.folder(root, &path)?;
                }
            } else if name.ends_with(".rs") {
                self.source(&path, &fs::read_to_string(entry.path())?);
            } else if path.contains("/vectors/") && name.ends_with(".txt") {
                let text = fs::read_to_string(entry.path())?;
                for (_, number) in tags(&text) {
                    self.note(true, number, Place { path: path.clone(), test: None });
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, is_test: bool, number: Number, place: Place) {
        let map = if is_test { &mut self.tests } else { &mut self.code };
        map.entry(number).or_default().insert(place);
    }

    fn source(&mut self, path: &str, text: &str) {
        let file_of_tests =
            ["/tests/", "/tests.rs", "/oracle/"].iter().any(|part| path.contains(part));
        let tests_from = text.find("#[cfg(test)]").unwrap_or(text.len());
        let functions = functions(text);
        for (at, number) in tags(text) {
            let function = functions.iter().rev().find(|function| function.from <= at);
            let test = function.filter(|function| function.is_test).map(|f| f.name.to_owned());
            let is_test = file_of_tests || at >= tests_from;
            self.note(is_test, number, Place { path: path.to_owned(), test });
        }
    }
}

/// A function with the comments and attributes above it.
struct Function<'a> {
    from: usize,
    name: &'a str,
    is_test: bool,
}

fn functions(text: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    let (mut at, mut from, mut is_test) = (0, 0, false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with("///") || trimmed.starts_with("#[") {
            is_test |= trimmed.starts_with("#[test]");
        } else {
            if let Some(name) = function_name(trimmed) {
                found.push(Function { from, name, is_test });
            }
            is_test = false;
            from = at + line.len();
        }
        at += line.len();
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    words.by_ref().take(4).find(|word| *word == "fn")?;
    let name = line.split_once("fn ")?.1;
    name.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()
}

/// Every tag and where it begins, with those that a range such as `[MQTT5-3.3.1-5] to -11` means.
fn tags(text: &str) -> Vec<(usize, Number)> {
    let mut found: Vec<(usize, Number)> = Vec::new();
    for (at, _) in text.match_indices("[MQTT") {
        let Some((tag, rest)) = text[at + 1..].split_once(']') else { continue };
        let Some(number) = Number::parse(tag) else { continue };
        found.push((at, number));
        let Some(last) = range_end(rest) else { continue };
        for between in number.parts[3] + 1..=last {
            let [a, b, c, _] = number.parts;
            found.push((at, Number { parts: [a, b, c, between], ..number }));
        }
    }
    found
}

/// The last number of a range, if one begins here; it may go on in the next line of a comment.
fn range_end(rest: &str) -> Option<u16> {
    let rest = between_words(rest).strip_prefix("to")?;
    let rest = between_words(rest);
    let last = match rest.strip_prefix('-') {
        Some(last) => last,
        None => {
            let tag = rest.strip_prefix('[')?.split_once(']')?.0;
            return Number::parse(tag).map(|number| number.parts[3]);
        }
    };
    let digits = last.bytes().take_while(u8::is_ascii_digit).count();
    last[..digits].parse().ok()
}

fn between_words(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '/', '!'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<String> {
        tags(text).iter().map(|(_, number)| number.to_string()).collect()
    }

    #[test]
    fn ranges_are_all_that_they_span() {
        assert_eq!(
            numbers("([MQTT5-3.1.2-1] to -3)"),
            [1, 2, 3].map(|n| format!("MQTT5-3.1.2-{n}"))
        );
        let wrapped = "/// [MQTT5-3.1.2-1] to\n    /// [MQTT5-3.1.2-2].";
        assert_eq!(numbers(wrapped), ["MQTT5-3.1.2-1", "MQTT5-3.1.2-2", "MQTT5-3.1.2-2"]);
        assert_eq!(numbers("[MQTT5-3.1.2-9] to the end, [MQTT5-3.8], [MQTT5]"), ["MQTT5-3.1.2-9"]);
    }

    #[test]
    fn a_tag_belongs_to_the_test_below_or_around_it() {
        let text = "//! [MQTT5-1.1.1-1]\nfn code() { /* [MQTT5-1.1.1-2] */ }\n\
                    #[cfg(test)]\nmod tests {\n/// [MQTT5-1.1.1-3]\n#[test]\nfn holds() {\n\
                    x(\"[MQTT5-1.1.1-4]\");\n}\nfn helps() { /* [MQTT5-1.1.1-5] */ }\n}\n";
        let mut tree = Tree::default();
        tree.source("a/src/b.rs", text);
        let number = |last| Number::parse(&format!("MQTT5-1.1.1-{last}")).unwrap();
        let test = |last| tree.tests[&number(last)].first().unwrap().test.as_deref();
        assert!(tree.code.contains_key(&number(1)) && tree.code.contains_key(&number(2)));
        assert_eq!((test(3), test(4), test(5)), (Some("holds"), Some("holds"), None));
    }
}
