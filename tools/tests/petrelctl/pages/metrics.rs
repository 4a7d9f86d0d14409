//! What Prometheus is told to fetch, and from where: docs/operate/METRICS.md and docs/operate/PROBE.md.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use petrel_engine::config::{Protocol, TlsFiles};

use super::admin::Shown;
use super::{blocks, read};
use crate::broker::{listener, start};
use crate::secure::certificates;
use crate::support::petrelctl;

const PATIENCE: Duration = Duration::from_secs(60);

fn fetch(url: &str) -> String {
    ureq::get(url).call().expect("it answers").body_mut().read_to_string().expect("text")
}

/// The target that a block tells Prometheus of.
fn target(block: &str) -> &str {
    let (_, rest) = block.split_once("targets: [\"").expect("a target");
    rest.split('"').next().expect("an end")
}

#[test]
fn what_is_scraped_is_served() {
    let page = read("docs/operate/METRICS.md");
    let [scrape] = blocks(&page, "yaml")[..] else { panic!("one block") };
    // Where the page on the interface has it, and the package.
    for file in ["docs/operate/ADMIN.md", "tools/packaging/petrel.toml"] {
        let address = format!("[admin]\naddress = \"{}\"\n", target(scrape));
        assert!(read(file).contains(&address), "{file} has another address than METRICS.md");
    }
    let shown = Shown::start(1);
    let text = fetch(&format!("{}/metrics", shown.broker.admin_url().expect("it listens")));
    assert!(text.contains("\npetrel_connections{") && text.ends_with("# EOF\n"), "{text}");
    shown.broker.stop().expect("it stops");
}

/// The command, the target and the rule are about one thing.
#[test]
fn the_exporter_is_what_is_scraped() {
    let page = read("docs/operate/PROBE.md");
    let [command] = blocks(&page, "sh")[..] else { panic!("one command") };
    let [scrape, rules] = blocks(&page, "yaml")[..] else { panic!("a target and a rule") };
    let (_, port) = target(scrape).rsplit_once(':').expect("a port");
    assert!(command.contains(&format!("--serve {port} ")), "the target is another one: {command}");

    let folder = certificates();
    let (cert, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let broker =
        start(1, vec![listener(Protocol::Mqtts, Some(TlsFiles { cert: cert.clone(), key }))]);
    let place =
        format!("-h 127.0.0.1 -p {} --cafile {}", broker.addresses()[0].port(), cert.display());
    let line = command
        .replace(&format!("--serve {port}"), "--serve 0")
        .replace("-h broker.example", &place);
    assert!(line.contains(&place), "{command}");
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let mut child = petrelctl(&words).stdout(Stdio::piped()).spawn().expect("petrelctl starts");
    let mut url = String::new();
    BufReader::new(child.stdout.take().expect("a pipe"))
        .read_line(&mut url)
        .expect("where it serves");
    let begin = Instant::now();
    let metrics = loop {
        let text = fetch(url.trim_end());
        if text.contains("\npetrel_probe_rounds_total 1\n") {
            break text;
        }
        assert!(begin.elapsed() < PATIENCE, "no round is done: {text}");
    };
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    broker.stop().expect("it stops");
    assert!(metrics.contains("\npetrel_probe_success 1"), "{metrics}");
    let is_name = |char: char| char.is_ascii_lowercase() || char == '_';
    let names = rules.split(|char| !is_name(char)).filter(|word| word.starts_with("petrel_"));
    let mut count = 0;
    for name in names {
        assert!(metrics.contains(&format!("\n{name} ")), "{name} is not served: {metrics}");
        count += 1;
    }
    assert!(count >= 2, "{rules}");
}
