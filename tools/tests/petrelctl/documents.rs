//! Examples in documents: every command line is one, and what it prints looks as it is shown.

use std::collections::VecDeque;

use petrel_engine::config::Config;

use crate::broker::plain;
use crate::support::{outcome, petrelctl};

const PROBE: &str = include_str!("../../../docs/operate/PROBE.md");
/// All pages with command lines that are shown without what they print.
const PAGES: [&str; 3] = [
    PROBE,
    include_str!("../../../docs/operate/ADMIN.md"),
    include_str!("../../../docs/operate/TRACES.md"),
];

/// The blocks of a document of one kind.
fn blocks<'d>(document: &'d str, kind: &str) -> Vec<&'d str> {
    let begin = format!("```{kind}\n");
    let parts = document.split(&begin).skip(1);
    parts.map(|rest| rest.split("```").next().expect("a part")).collect()
}

/// What is left when numbers, bars and the width of columns are taken out.
fn shape(printed: &str) -> Vec<String> {
    let is_figure = |char: char| char.is_ascii_digit() || char == '.' || char == '#';
    let word = |word: &str| match word.trim_matches(is_figure) {
        "" => "0".to_owned(),
        other => other.chars().filter(|&char| !is_figure(char)).collect(),
    };
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(word).collect();
        // A bar may have no length.
        words.join(" ").replace("| 0", "|")
    };
    printed.lines().map(line).collect()
}

#[test]
fn what_is_shown_is_what_is_printed() {
    let (broker, port) = plain(2);
    let port = port.to_string();
    let examples = blocks(PROBE, "console");
    assert!(examples.len() >= 3, "the document has examples");
    for example in examples {
        let (line, shown) = example.split_once('\n').expect("a command and its output");
        let mut words: VecDeque<_> = line.split_whitespace().collect();
        assert_eq!((words.pop_front(), words.pop_front()), (Some("$"), Some("petrelctl")));
        words.extend(["-p", &port]);
        let (code, stdout, stderr) = outcome(&mut petrelctl(words.make_contiguous()));
        assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
        assert_eq!(shape(&stdout), shape(shown), "{line}:\n{stdout}");
    }
    broker.stop().expect("it stops");
}

#[test]
fn command_lines_that_are_shown_are_understood() {
    let lines = PAGES.iter().map(|page| blocks(page, "sh").into_iter().flat_map(str::lines));
    let lines: Vec<Vec<_>> = lines.map(Iterator::collect).collect();
    assert!(lines.iter().all(|lines| !lines.is_empty()));
    for line in lines.into_iter().flatten() {
        let words: Vec<_> = line.split_whitespace().skip(1).chain(["--help"]).collect();
        let (code, stdout, stderr) = outcome(&mut petrelctl(&words));
        assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
        assert!(stdout.contains("Usage: "), "{line}");
    }
}

#[test]
fn every_step_and_metric_of_the_document_is_one() {
    let exporter = include_str!("../../src/probe/exporter.rs");
    let rows = PROBE.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut count = 0;
    for name in rows.filter_map(|row| row.split('`').next()) {
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(exporter.contains(&format!("\"{name}\"")), "{name}");
        count += 1;
    }
    assert_eq!(count, exporter.matches("family(\"petrel_probe_").count(), "a metric has no row");
}

/// The configuration that is shown to those who secure a broker is one, with its rules.
#[test]
fn the_secure_configuration_is_a_good_one() {
    let page = include_str!("../../../docs/operate/SECURE.md");
    let blocks = blocks(page, "toml");
    let [config, rules] = blocks[..] else { panic!("a configuration and its rules") };
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(["broker.example".to_owned()]).expect("made");
    std::fs::write(place("server.pem"), made.cert.pem()).expect("written");
    std::fs::write(place("server.key"), made.signing_key.serialize_pem()).expect("written");
    std::fs::write(place("users"), "").expect("written");
    std::fs::write(place("rules.toml"), rules).expect("written");
    std::fs::write(place("petrel.toml"), config).expect("written");
    let tokens = place("tokens");
    let tokens = tokens.to_str().expect("UTF-8");
    assert_eq!(outcome(&mut petrelctl(&["token", tokens, "support"])).0, 0);
    let config = Config::load(&place("petrel.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.read_rules().expect("good rules").is_some());
    petrel_engine::admin::check(config.admin.as_ref().expect("it listens")).expect("good tokens");
}
