//! `petrelctl stress`: many clients, whose messages all come back or are missed by name.

use std::fs;

use serde_json::Value;

use crate::access;
use crate::broker::{done, plain};
use crate::support::{outcome, petrelctl};

#[test]
fn everything_comes_back_at_every_qos() {
    let (broker, port) = plain(2);
    for qos in 0..=2 {
        // Few enough that no queue of the broker is full at QoS 0.
        let line = format!("stress --clients 25 --messages 40 -q {qos} --ramp-up 0.05 --json");
        let said: Value = serde_json::from_str(&done(port, &line)).expect("JSON");
        for (key, expected) in [("clients", 25), ("failed", 0), ("published", 1000)] {
            assert_eq!(said[key], expected, "{key}: {said}");
        }
        assert_eq!(said["received"], 1000, "{said}");
        for side in ["publish_per_second", "receive_per_second"] {
            let rates = ["slowest", "median", "fastest"].map(|it| said[side][it].as_f64());
            assert!(rates[0] > Some(0.0) && rates.is_sorted(), "{said}");
            let bars = said[side]["histogram"].as_array().expect("bars");
            let counted: u64 = bars.iter().filter_map(|bar| bar["clients"].as_u64()).sum();
            assert_eq!(counted, 25, "{said}");
        }
    }
    let said = done(port, "stress --clients 2 --messages 3 -V 31 -I c-");
    for line in ["clients    2 good, 0 failed\n", "messages   6 published, 6 received, in "] {
        assert!(said.contains(line), "{said}");
    }
    broker.stop().expect("it stops");
}

#[test]
fn who_fails_is_counted_by_its_step() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nallow = \"subscribe\"\ntopics = [\"s/0\", \"s/1\", \"s/2\"]\n\
                 [[rule]]\nallow = \"publish\"\ntopics = [\"s/0\", \"s/3\"]\n";
    fs::write(folder.path().join("rules.toml"), rules).unwrap();
    let broker = access::start(folder.path(), "[access]\nrules = \"rules.toml\"\n");
    let port = broker.addresses()[0].port().to_string();
    let line = "stress --clients 4 --messages 5 --topic-prefix s --json -h 127.0.0.1 -p";
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.push(&port);
    let (code, stdout, stderr) = outcome(&mut petrelctl(&words));
    let said: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &said["failed"], &said["received"]), (1, &3.into(), &5.into()), "{said}");
    let by_step = &said["failed_by_step"];
    assert_eq!((&by_step["subscribe"], &by_step["publish"]), (&1.into(), &2.into()), "{said}");
    let begin = "petrelctl: 3 of 4 clients failed, the first was client ";
    assert!(stderr.starts_with(begin) && stderr.ends_with(" not authorized (0x87)\n"), "{stderr}");
    words.retain(|word| *word != "--json");
    let (_, stdout, _) = outcome(&mut petrelctl(&words));
    let expected = "clients    1 good, 3 failed: 1 in step subscribe, 2 in step publish\n";
    assert!(stdout.contains(expected), "{stdout}");
    broker.stop().expect("it stops");
}
