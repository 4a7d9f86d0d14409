//! Examples in documents: what a command prints looks as it is shown, and what is configured is good.

use std::collections::VecDeque;

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot;
use petrel_engine::config::Config;

use crate::broker::{plain, plain_config};
use crate::pages::blocks;
use crate::support::{outcome, petrelctl};

const PROBE: &str = include_str!("../../../docs/operate/PROBE.md");
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

/// Rules are in the way of the probe, as in the sentence that is shown.
#[test]
fn a_round_that_fails_says_what_is_shown() {
    let [shown] = blocks(PROBE, "text")[..] else { panic!("one sentence") };
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, "[[rule]]\nallow = \"publish\"\ntopics = [\"#\"]\n").expect("written");
    let mut config = plain_config();
    config.access.rules = Some(rules);
    let broker = boot::start(config, &AuthMethods::default());
    let broker = broker.unwrap_or_else(|error| panic!("{error}"));
    let port = broker.addresses()[0].port().to_string();
    let words = ["probe", "-h", "127.0.0.1", "-p", &port, "--interval", "0"];
    let (code, _, stderr) = outcome(&mut petrelctl(&words));
    assert_eq!((code, stderr.trim_end()), (1, shown));
    broker.stop().expect("it stops");
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
