//! The gate is red when a regression is built in, names what is worse, and is green without it.
//!
//! `cargo test --release -p petrel-micro --features planted`

use std::path::Path;
use std::process::{Command, Output};

fn gate(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petrel-micro"))
        .args(["gate", "--only", "counters", "--baselines"])
        .arg(folder.join("baselines"))
        .arg("--results")
        .arg(folder.join("results"))
        .args(more)
        .output()
        .expect("it runs")
}

/// The names of the figures that the table calls worse.
fn worse(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let red = text.lines().filter(|line| line.contains(" WORSE "));
    red.filter_map(|line| Some(line.split_once("  ")?.0.to_owned())).collect()
}

#[test]
fn one_allocation_more_per_message_and_64_bytes_more_per_connection_turn_the_gate_red() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(gate(folder.path(), &["--write"]).status.success());

    let clean = gate(folder.path(), &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", String::from_utf8_lossy(&clean.stdout));
    assert_eq!(worse(&clean), [""; 0]);

    let allocation = gate(folder.path(), &["--plant", "allocation"]);
    assert_eq!(allocation.status.code(), Some(1));
    let names = worse(&allocation);
    for receivers in [1, 100] {
        for qos in 0..=2 {
            let name = format!("message qos{qos} to {receivers}: allocations");
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }

    let bytes = gate(folder.path(), &["--plant", "bytes"]);
    assert_eq!(bytes.status.code(), Some(1));
    let names = worse(&bytes);
    for state in ["connected", "with 1 subscription", "offline, 1 subscription"] {
        let name = format!("shard, client {state}: bytes");
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}
