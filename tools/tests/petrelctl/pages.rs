//! The pages for those who run a broker: each example in them is run, or read as the broker reads it.

mod admin;
mod configuration;
mod linux;
mod metrics;
mod traces;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The blocks of a document of one kind.
pub fn blocks<'d>(document: &'d str, kind: &str) -> Vec<&'d str> {
    fenced(document).into_iter().filter(|(of, _)| *of == kind).map(|(_, text)| text).collect()
}

/// All blocks of a document, each with its kind.
fn fenced(document: &str) -> Vec<(&str, &str)> {
    let parts: Vec<_> = document.split("\n```").collect();
    assert!(parts.len() % 2 == 1, "a block has no end");
    let inside = parts.into_iter().skip(1).step_by(2);
    inside.map(|block| block.split_once('\n').expect("a block with something in it")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const CHECK: &str = "tools/packaging/check.py";
const MANIFESTS: &str = "tools/packaging/check_manifests.py";
const PROGRAMS: &str = "tools/packaging/pages.py";
const CONFIGURATIONS: (&str, &str) =
    ("tools/tests/petrelctl/pages/configuration.rs", "every_configuration_that_is_shown_is_good");
const DOCUMENTS: &str = "tools/tests/petrelctl/documents.rs";
const TROUBLESHOOT: &str = "tools/tests/petrelctl/troubleshoot.rs";

/// Page, kind of block, and where the test is that runs all blocks of that kind on that page.
const RUN_BY: [(&str, &str, (&str, &str)); 26] = [
    ("README.md", "sh", (PROGRAMS, "readme")),
    ("README.md", "toml", CONFIGURATIONS),
    ("docs/BACKUP.md", "sh", ("tools/tests/petrelctl/storage.rs", "the_page_is_followed")),
    (
        "docs/CONFIGURATION.md",
        "json",
        ("engine/access/src/http/tests.rs", "what_is_shown_is_asked"),
    ),
    ("docs/CONFIGURATION.md", "toml", CONFIGURATIONS),
    (
        "docs/operate/ADMIN.md",
        "sh",
        ("tools/tests/petrelctl/pages/admin.rs", "the_page_is_followed"),
    ),
    (
        "docs/operate/ADMIN.md",
        "toml",
        ("tools/tests/petrelctl/pages/admin.rs", "the_page_is_followed"),
    ),
    ("docs/operate/INSTALL.md", "sh", (CHECK, "follow_install")),
    ("docs/operate/INSTALL.md", "toml", (CHECK, "follow_install")),
    ("docs/operate/LOG.md", "json", ("engine/tests/event_log.rs", "examples")),
    (
        "docs/operate/METRICS.md",
        "yaml",
        ("tools/tests/petrelctl/pages/metrics.rs", "what_is_scraped_is_served"),
    ),
    ("docs/operate/PROBE.md", "console", (DOCUMENTS, "what_is_shown_is_what_is_printed")),
    (
        "docs/operate/PROBE.md",
        "sh",
        ("tools/tests/petrelctl/pages/metrics.rs", "the_exporter_is_what_is_scraped"),
    ),
    ("docs/operate/PROBE.md", "text", (DOCUMENTS, "a_round_that_fails_says_what_is_shown")),
    (
        "docs/operate/PROBE.md",
        "yaml",
        ("tools/tests/petrelctl/pages/metrics.rs", "the_exporter_is_what_is_scraped"),
    ),
    ("docs/operate/SECURE.md", "toml", (DOCUMENTS, "the_secure_configuration_is_a_good_one")),
    (
        "docs/operate/SIZE.md",
        "sh",
        ("tools/tests/petrelctl/pages/linux.rs", "what_measures_a_machine_is_there"),
    ),
    (
        "docs/operate/TRACES.md",
        "http",
        ("tools/tests/petrelctl/pages/traces.rs", "the_requests_are_answered"),
    ),
    ("docs/operate/TRACES.md", "json", ("engine/tests/traces.rs", "hold")),
    (
        "docs/operate/TRACES.md",
        "sh",
        ("tools/tests/petrelctl/pages/traces.rs", "the_commands_are_run"),
    ),
    ("docs/operate/TRACES.md", "text", ("engine/tests/traces.rs", "hold")),
    ("docs/operate/TROUBLESHOOT.md", "console", (TROUBLESHOOT, "the_reason_is_found_in_each_case")),
    ("docs/operate/TROUBLESHOOT.md", "text", (TROUBLESHOOT, "the_first_question_is_one")),
    ("docs/operate/UPGRADE.md", "sh", (CHECK, "follow_upgrade")),
    ("docs/operate/INSTALL.md", "sh", (MANIFESTS, "follow_container")),
    ("docs/operate/INSTALL.md", "sh", (MANIFESTS, "follow_kubernetes")),
];

/// A block that no test runs is an example that may be wrong.
#[test]
fn every_block_has_a_test() {
    let mut pages: Vec<_> = std::fs::read_dir(root().join("docs/operate"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/operate/{name}"))
        .collect();
    pages.extend(
        ["README.md", "docs/BACKUP.md", "docs/CONFIGURATION.md", "docs/TUNING.md"]
            .map(str::to_owned),
    );
    let mut shown = BTreeSet::new();
    for page in &pages {
        for (kind, text) in fenced(&read(page)) {
            let is_run = RUN_BY.iter().any(|(of, what, _)| of == page && *what == kind);
            assert!(is_run, "{page}: no test runs a block of kind {kind:?}:\n{text}");
            shown.insert((page.clone(), kind.to_owned()));
        }
    }
    for (page, kind, (file, test)) in RUN_BY {
        assert!(
            shown.contains(&(page.to_owned(), kind.to_owned())),
            "{page} has no block of kind {kind}"
        );
        let text = read(file);
        let is_there = ["fn ", "def "].iter().any(|word| text.contains(&format!("{word}{test}(")));
        assert!(is_there, "{file} has no {test}");
    }
}
