//! Rules of the tree that the compiler does not hold: which crate may use which, how long a file
//! may be, where `unsafe` stands. Everything is checked by this crate's tests.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below `dir` whose name ends in `.{extension}`, build output left out, sorted.
///
/// # Panics
/// If a folder cannot be read.
#[must_use]
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" || name == "node_modules" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const LINES_MAX: usize = 1200;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    #[test]
    fn no_source_file_is_longer_than_the_style_allows() {
        let long: Vec<String> = files(&root(), "rs")
            .iter()
            .map(|path| (text(path).lines().count(), path))
            .filter(|(lines, _)| *lines > LINES_MAX)
            .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
            .collect();
        assert!(long.is_empty(), "over {LINES_MAX} lines: {long:#?}");
    }

    /// Crates of ours that each crate of ours uses, by its manifest; tests' own needs left out.
    fn manifest_arrows() -> BTreeMap<String, BTreeSet<String>> {
        let mut arrows = BTreeMap::new();
        for path in files(&root(), "toml") {
            if path.file_name().is_none_or(|name| name != "Cargo.toml") {
                continue;
            }
            let manifest: toml::Table = toml::from_str(&text(&path)).expect("a manifest is TOML");
            let Some(name) = manifest.get("package").and_then(|p| p.get("name")?.as_str()) else {
                continue;
            };
            if !name.starts_with("petrel-") || name.ends_with("-fuzz") {
                continue;
            }
            let used = manifest.get("dependencies").and_then(toml::Value::as_table);
            let ours = used.into_iter().flat_map(toml::Table::keys);
            let ours = ours.filter_map(|key| key.strip_prefix("petrel-")).map(str::to_owned);
            arrows.insert(name["petrel-".len()..].to_owned(), ours.collect());
        }
        arrows
    }

    /// The table "Allowed dependencies" of `docs/ARCHITECTURE.md`: `| crate | may use |`.
    fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
        let page = text(&root().join("docs/ARCHITECTURE.md"));
        let (_, table) = page.split_once("## Allowed dependencies").expect("the section exists");
        let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        rows.take_while(|line| line.starts_with('|'))
            .map(|row| {
                let mut cells = row.trim_matches('|').split('|');
                let names = |cell: Option<&str>| -> Vec<String> {
                    let cell = cell.unwrap_or_default();
                    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
                };
                let (name, uses) = (names(cells.next()), names(cells.next()));
                (name[0].clone(), uses.into_iter().collect())
            })
            .collect()
    }

    #[test]
    fn crates_use_only_what_the_architecture_allows() {
        let (manifests, allowed) = (manifest_arrows(), allowed_arrows());
        assert!(manifests.len() > 5, "the manifests were found: {manifests:?}");
        for (name, uses) in &manifests {
            let row = allowed.get(name).unwrap_or_else(|| panic!("{name} has no row in the table"));
            let excess: Vec<_> = uses.difference(row).collect();
            assert!(excess.is_empty(), "{name} must not use {excess:?}");
        }
    }

    #[test]
    fn unsafe_stands_only_where_a_record_says_so() {
        let allowed: BTreeSet<PathBuf> = text(&root().join("docs/adr/unsafe.txt"))
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| root().join(line))
            .collect();
        let marker = concat!("unsa", "fe {");
        let other = concat!("unsa", "fe impl");
        for path in files(&root(), "rs") {
            let source = text(&path);
            if source.contains(marker) || source.contains(other) {
                assert!(allowed.contains(&path), "{}: not in docs/adr/unsafe.txt", path.display());
                assert!(source.contains("// SAFETY:"), "{}: no SAFETY comment", path.display());
            }
        }
    }

    #[test]
    fn glommio_stands_in_two_files() {
        let allowed = ["net/src/runtime.rs", "engine/src/executor.rs"].map(|p| root().join(p));
        for path in files(&root(), "rs") {
            if path.starts_with(root().join("tools/tidy")) || allowed.contains(&path) {
                continue;
            }
            assert!(!text(&path).contains("glommio::"), "{}: uses glommio", path.display());
        }
    }

    #[test]
    fn every_test_runs() {
        let marker = concat!("#[ign", "ore");
        for path in files(&root(), "rs") {
            assert!(!text(&path).contains(marker), "{}: an ignored test", path.display());
        }
    }
}
