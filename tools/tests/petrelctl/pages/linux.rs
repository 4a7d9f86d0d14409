//! docs/operate/SIZE.md and docs/TUNING.md: what measures a machine is there, and what is set on it.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{blocks, read, root};

/// What `make` would do, without doing it.
fn would_do(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[0], "make", "{line}");
    let mut make = Command::new("make");
    make.args(["-n", "--no-print-directory", "-C"])
        .arg(root())
        .args(&words[1..])
        .stdin(Stdio::null());
    // A `make` above this one would have its say.
    let done = make.env_remove("MAKEFLAGS").env_remove("MFLAGS").output().expect("make is there");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// They take minutes, so it is looked at what they would do: programs that are there, with options that they take.
#[test]
fn what_measures_a_machine_is_there() {
    let page = read("docs/operate/SIZE.md");
    let lines: Vec<_> = blocks(&page, "sh").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() >= 4, "{lines:?}");
    let load = read("bench/src/options.rs") + &read("bench/src/options/closed.rs");
    for line in lines {
        let recipe = would_do(line);
        let step = recipe.lines().last().expect("a step").trim();
        if let Some(measure) = step.strip_prefix("target/release/petrel-micro ") {
            let name = measure.split(' ').next().expect("a name");
            assert!(read("bench/micro/src/options.rs").contains(&format!("\"{name}\"")), "{line}");
            continue;
        }
        let words = step.strip_prefix("python3 ").unwrap_or_else(|| panic!("{line}: {step}"));
        let done = Command::new("python3")
            .current_dir(root())
            .args(words.split_whitespace().map(|word| word.trim_matches('"')))
            .arg("--help")
            .stdin(Stdio::null())
            .output()
            .expect("Python is there");
        let help = String::from_utf8(done.stdout).expect("UTF-8");
        assert!(done.status.success() && help.contains("usage: "), "{line}: {words}");
        for option in words.split_whitespace().filter(|word| word.starts_with("--")) {
            // What is not for the script goes to `petrel-bench`.
            let is_taken = help.contains(option) || load.contains(&format!("\"{option}\" =>"));
            assert!(is_taken, "{line}: {option} is none of {help}");
        }
        for given in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            assert!(words.contains(given.1), "{line}: {} is of no use to {words}", given.0);
        }
    }
}

/// A figure of SIZE.md, the part of PERFORMANCE.md that it was taken from, and the command there that made it.
const FIGURES: [(&str, &str, &str); 20] = [
    ("TCP, with a subscription | 0.5 KB |", "| 522 | 459 | 431 |", "make bench-memory"),
    ("| 0.5 KB | 4 KB |", "| 3,812 | 3,704 | 3,822 |", "make bench-memory"),
    ("\"compact\"` | 1 KB | 4 KB |", "| 1,014 | 832 | 736 |", "make bench-memory"),
    ("\"rustls\"` | 3 KB | 4 KB |", "| 3,161 | 3,019 | 2,960 |", "make bench-memory"),
    ("away, with a subscription | 0.3 KB |", "| 550 | 374 | 315 |", "make bench-memory"),
    ("waits for it | 0.4 KB |", "A session takes some 390 bytes", "make bench-restart"),
    (
        "of 8 bytes | 31 bytes, its name included |",
        "31 bytes with its name, its payload",
        "make bench-retained",
    ),
    (
        "memory | 0.6 KB at most",
        "up to four small\nmessages that wait stay in memory, where they take up to 2,400 more",
        "make bench-restart",
    ),
    ("storage | 130 MB", "The log has 128 MiB in memory for each lane", "make bench-durable"),
    (
        "QoS 0, many at once, to one receiver | 0.3 µs |",
        "| 10 to 10, QoS 0 | 0.266 |",
        "make bench-hot",
    ),
    (
        "QoS 1, many at once, to one receiver | 0.6 µs |",
        "| 10 to 10, QoS 1 | 0.596 |",
        "make bench-hot",
    ),
    ("message | 0.06 to", "| 1 to 100, QoS 0 | 0.060 |", "make bench-hot"),
    ("to 0.25 µs |", "| 1 to 100, QoS 1 | 0.255 |", "make bench-hot"),
    ("core | 14 to", "p50 40 and 40 µs) | 13.9 |", "make bench-hot"),
    ("to 16 µs |", "(p50 25 and 34 µs) | 16.4 |", "make bench-hot"),
    ("handshake | 100 to", "| TLS, full handshakes | 99 µs (1.4 s) |", "make bench-tls"),
    ("to 190 µs |", "| 173, 165, 188 |", "make bench-storm"),
    ("cost | some 17 ms,", "59 a second (28 on a busy one)", "make bench-logins"),
    (
        "QoS 1 | 1.5 to 2.1 µs |",
        "| 1.45 (1.17 to 1.94) | 2.12 (1.85 to 2.58) |",
        "make bench-durable",
    ),
    ("takes 1.4 times its payload", "| 0.16 | 1.44 |", "make bench-durable"),
];

#[test]
fn figures_are_those_that_were_measured() {
    let (size, measured) = (read("docs/operate/SIZE.md"), read("docs/PERFORMANCE.md"));
    for (figure, source, command) in FIGURES {
        assert!(size.contains(figure), "SIZE.md lacks {figure}");
        assert!(
            measured.contains(source),
            "PERFORMANCE.md lacks {source}, of which SIZE.md has {figure}"
        );
        for page in [&size, &measured] {
            assert!(page.contains(command), "a page lacks {command}, which has made {figure}");
        }
    }
    let has_figure =
        |row: &&str| row.starts_with("| ") && row.chars().any(|char| char.is_ascii_digit());
    for row in size.lines().filter(has_figure) {
        let is_known = FIGURES.iter().any(|(figure, ..)| row.contains(figure));
        assert!(is_known, "of a row of SIZE.md it is not known where it comes from: {row}");
    }
}

/// Every setting of the kernel that is named is one of this kernel.
#[test]
fn settings_of_linux_are_there() {
    let page = read("docs/TUNING.md");
    let mut names: Vec<_> = page.split('`').skip(1).step_by(2).collect();
    names.sort_unstable();
    names.dedup();
    let mut count = 0;
    for name in names {
        let is_setting = ["fs.", "net.", "vm."].iter().any(|area| name.starts_with(area));
        if !is_setting || name.contains(' ') {
            continue;
        }
        count += 1;
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let area = path.parent().expect("a folder");
        if !area.exists() {
            println!("not looked at here: {name}: this kernel has no {}", area.display());
            continue;
        }
        assert!(path.exists(), "{name} is no setting of this kernel");
    }
    assert!(count >= 8, "{count}");
}
