//! `petrelctl storage` against what Petrel has kept.

use std::path::Path;

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::StorageConfig;

use crate::broker::{done, plain_config};
use crate::support::{outcome, petrelctl};

/// Has a broker keep two retained messages and a session in a folder.
fn keep(folder: &Path) {
    keep_and(folder, || {});
}

/// The same, and does something before the broker ends.
fn keep_and(folder: &Path, last: impl FnOnce()) {
    let running = start(folder);
    let port = running.addresses()[0].port();
    done(port, "pub -t a/1 -m one -r -q 1");
    done(port, "pub -t a/2 -m two -r -q 2");
    done(port, "sub -t b -q 1 -c -i keeper -E");
    done(port, "pub -t b -m waits -q 1");
    last();
    running.stop().unwrap();
}

fn start(folder: &Path) -> Running {
    let storage = StorageConfig { path: Some(folder.to_owned()), ..StorageConfig::default() };
    let config = petrel_engine::config::Config { storage, ..plain_config() };
    boot::start(config, &AuthMethods::default()).unwrap()
}

fn storage(what: &str, folder: &Path) -> (i32, String, String) {
    outcome(&mut petrelctl(&["storage", what, folder.to_str().unwrap()]))
}

#[test]
fn a_whole_folder_has_no_faults_and_says_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path());
    let (code, stdout, stderr) = storage("check", folder.path());
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("lane-0") && stdout.ends_with("0 faults\n"), "{stdout}");
    let (code, stdout, stderr) = storage("stat", folder.path());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("journals") && stdout.contains("\nlog "), "{stdout}");
}

#[test]
fn damage_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path());
    let log = std::fs::read_dir(folder.path().join("lane-0/log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "log"))
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(3).position(|window| window == b"one").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let (code, stdout, stderr) = storage("check", folder.path());
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("fault: ") && stdout.contains(".log cannot be read at byte"),
        "{stdout}"
    );
    assert!(stderr.contains("cannot be read"), "{stderr}");
    // The broker does not start on it either, and says the same.
    let kept = StorageConfig { path: Some(folder.path().into()), ..StorageConfig::default() };
    let config = petrel_engine::config::Config { storage: kept, ..plain_config() };
    let refused = boot::start(config, &AuthMethods::default()).err().unwrap().to_string();
    assert!(refused.contains("damaged"), "{refused}");
    // Until it is repaired: without the message that was hit, with the others.
    let (code, stdout, stderr) = storage("repair", folder.path());
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("damage: ") && stderr.contains("nothing was changed"), "{stderr}");
    let (code, stdout, stderr) =
        outcome(&mut petrelctl(&["storage", "repair", "--yes", folder.path().to_str().unwrap()]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains("lane-0.damaged-"), "{stdout}");
    let (code, stdout, _) = storage("check", folder.path());
    assert_eq!(code, 0, "{stdout}");
    let running = start(folder.path());
    let port = running.addresses()[0].port();
    assert_eq!(done(port, "sub -t a/2 -C 1"), "two\n");
    assert_eq!(done(port, "sub -t b -q 1 -c -i keeper -C 1"), "waits\n");
    assert_eq!(storage("repair", folder.path()).0, 3, "a broker has it");
    running.stop().unwrap();
    let (code, stdout, _) = storage("repair", folder.path());
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("nothing is damaged"), "{stdout}");
}

#[test]
fn a_folder_without_data_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = storage("check", folder.path());
    assert_eq!(code, 3);
    assert!(stderr.contains("holds nothing that a broker kept"), "{stderr}");
    let (code, _, stderr) = outcome(&mut petrelctl(&["storage", "mend", "x"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("petrelctl storage --help"), "{stderr}");
}

#[test]
fn a_broker_that_runs_answers_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    keep_and(folder.path(), || {
        let (code, stdout, stderr) = storage("check", folder.path());
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("lane-0") && stdout.ends_with("0 faults\n"), "{stdout}");
        let (code, stdout, stderr) = storage("stat", folder.path());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains("journals") && stdout.contains("\nlog "), "{stdout}");
    });
}

fn two(command: &str, one: &Path, other: &Path) -> (i32, String, String) {
    outcome(&mut petrelctl(&[command, one.to_str().unwrap(), other.to_str().unwrap()]))
}

#[test]
fn a_backup_of_a_broker_that_runs_or_not_becomes_a_folder_again() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (data, warm, cold) = (at("data"), at("warm"), at("cold"));
    keep_and(&data, || {
        let (code, stdout, stderr) = two("backup", &data, &warm);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains("1 sessions, 1 subscriptions, 2 retained"), "{stdout}");
    });
    let (code, stdout, stderr) = two("backup", &data, &cold);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    for backup in [&warm, &cold] {
        let folder = backup.with_extension("restored");
        let (code, stdout, stderr) = two("restore", backup, &folder);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        let running = start(&folder);
        let port = running.addresses()[0].port();
        assert_eq!(done(port, "sub -t b -q 1 -c -i keeper -C 1"), "waits\n");
        assert_eq!(done(port, "sub -t a/2 -C 1"), "two\n");
        running.stop().unwrap();
        let (code, _, stderr) = two("restore", backup, &folder);
        assert_eq!(code, 3);
        assert!(stderr.contains("is not empty"), "{stderr}");
    }
    let file = cold.join("lane-0.records");
    let mut bytes = std::fs::read(&file).unwrap();
    let at_byte = bytes.windows(5).position(|window| window == b"waits").unwrap();
    bytes[at_byte] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (code, _, stderr) = two("restore", &cold, &at("other"));
    assert_eq!(code, 3);
    assert!(stderr.contains("lane-0.records, chunk at byte "), "{stderr}");
    assert!(!at("other").exists());
}

/// The commands of docs/BACKUP.md, with its names for folders: those for a running broker while it runs, then all.
#[test]
fn the_page_is_followed() {
    let page = include_str!("../../../docs/BACKUP.md");
    let [commands] = crate::pages::blocks(page, "sh")[..] else { panic!("one block of commands") };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let run = |line: &str, dir: &str| {
        let line = line.split('#').next().unwrap();
        let words = line.split_whitespace().skip(1).map(|word| match word {
            "FOLDER" => at("data"),
            "NEW_FOLDER" => at("new"),
            "DIR" => at(dir),
            word => word.to_owned(),
        });
        let (code, stdout, stderr) = outcome(petrelctl(&[]).args(words));
        assert_eq!((code, stderr.as_str()), (0, ""), "{line}: {stdout}");
    };
    let of_a_broker = |line: &&str| !line.contains(" restore ") && !line.contains(" repair ");
    keep_and(Path::new(&at("data")), || {
        commands.lines().filter(of_a_broker).for_each(|line| run(line, "warm"));
    });
    commands.lines().for_each(|line| run(line, "cold"));
    let running = start(Path::new(&at("new")));
    let port = running.addresses()[0].port();
    assert_eq!(done(port, "sub -t b -q 1 -c -i keeper -C 1"), "waits\n");
    running.stop().unwrap();
}
