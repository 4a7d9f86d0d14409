//! `petrelctl ban`, `unban` and `bans`: who is shut out of a broker that runs; and `reload`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use petrel_storage::control::{Answer, BanRequest, Request, Subject};

use crate::failure::Failure;
use crate::storage::{UNUSABLE, asked};

/// What a broker says that does something else for somebody.
const BUSY: &str = "is busy with another request";
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_MAX: Duration = Duration::from_secs(30);

pub const HELP: &str = "\
petrelctl ban shuts somebody out of a broker that runs: whoever it is about is disconnected and does not come back.

Usage: petrelctl ban FOLDER client-id|user|address WHO [--for TIME] [--why TEXT]
       petrelctl unban FOLDER client-id|user|address WHO
       petrelctl bans FOLDER

FOLDER is `control` of [engine] in the broker's configuration, or `path` of [storage]. A ban holds after a restart
as well. An address may be followed by a number of bits, as in 10.0.0.0/8; it is shut out before a handshake.

Options:
  --for TIME    for so long, as in 90s, 30m, 12h or 7d; for good without it
  --why TEXT    what it is for, which the list says

`bans` lists who is shut out, those included that the broker has shut out itself.

Exit codes: 0 done, 1 wrong usage, 3 no broker can be reached by the folder, or it says why not.
";

pub const RELOAD_HELP: &str = "\
petrelctl reload has a broker that runs read its configuration again, and certificates, users and rules with it. A
configuration that is wrong changes nothing. What needs a restart is listed by its name.

Usage: petrelctl reload FOLDER

FOLDER is `control` of [engine] in the broker's configuration, or `path` of [storage].

Exit codes: 0 done, 1 wrong usage, 3 no broker can be reached by the folder, or the configuration is wrong.
";

/// Runs `ban`, `unban`, `bans` or `reload`.
pub fn run(command: &str, arguments: &[OsString]) -> Result<(), Failure> {
    let words: Option<Vec<&str>> = arguments.iter().map(|it| it.to_str()).collect();
    let words = words.ok_or_else(|| wrong(command, "wants text"))?;
    let (folder, request) = match (command, &words[..]) {
        ("reload", ["--help" | "-h"]) => return crate::print(RELOAD_HELP),
        (_, ["--help" | "-h"]) => return crate::print(HELP),
        ("reload", [folder]) => (folder, Request::Reload),
        ("reload", _) => {
            let what = "reload wants a folder; petrelctl reload --help explains it";
            return Err(Failure::usage(what));
        }
        ("bans", [folder]) => (folder, Request::Bans),
        ("unban", [folder, kind, who]) => (folder, Request::Unban(subject(command, kind, who)?)),
        ("ban", [folder, kind, who, options @ ..]) => {
            let (for_s, why) = options_of(options)?;
            let subject = subject(command, kind, who)?;
            (folder, Request::Ban(BanRequest { subject, for_s, why }))
        }
        ("bans", _) => return Err(wrong(command, "wants a folder")),
        _ => {
            return Err(wrong(
                command,
                "wants a folder, client-id, user or address, and who it is",
            ));
        }
    };
    let folder = PathBuf::from(folder);
    let answer = asked_in_turn(&folder, &request)?.ok_or_else(|| nobody(&folder))?;
    crate::print(&answer.text)
}

/// Asks, and again while the broker is busy with another request, as long as it takes to be sure.
fn asked_in_turn(folder: &Path, request: &Request) -> Result<Option<Answer>, Failure> {
    let begin = Instant::now();
    loop {
        match asked(folder, request) {
            Err(busy) if busy.text.contains(BUSY) && begin.elapsed() < BUSY_MAX => {
                std::thread::sleep(BUSY_PAUSE);
            }
            answered => return answered,
        }
    }
}

fn subject(command: &str, kind: &str, who: &str) -> Result<Subject, Failure> {
    Subject::of(kind, who.to_owned())
        .map_err(|what| wrong(command, &format!("cannot do that: {what}")))
}

fn options_of(options: &[&str]) -> Result<(Option<u64>, String), Failure> {
    let (mut for_s, mut why) = (None, String::new());
    let mut rest = options.iter();
    while let Some(&option) = rest.next() {
        let value =
            rest.next().ok_or_else(|| wrong("ban", &format!("wants a value for {option}")))?;
        match option {
            "--for" => for_s = Some(seconds(value)?),
            "--why" => why = (*value).to_owned(),
            _ => return Err(wrong("ban", &format!("has no option {option}"))),
        }
    }
    Ok((for_s, why))
}

fn seconds(text: &str) -> Result<u64, Failure> {
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let parsed = text.char_indices().last().and_then(|(at, last)| {
        text[..at].parse::<u64>().ok()?.checked_mul(unit(last)?).filter(|&seconds| seconds > 0)
    });
    let what = format!("cannot ban for {text:?}; write a number and s, m, h or d, as in 12h");
    parsed.ok_or_else(|| wrong("ban", &what))
}

fn wrong(command: &str, what: &str) -> Failure {
    Failure::usage(format!("{command} {what}; petrelctl ban --help explains it"))
}

fn nobody(folder: &Path) -> Failure {
    let text = format!(
        "no broker that runs can be reached by {}; it is `control` of [engine], or `path` of [storage]",
        folder.display()
    );
    Failure { text, exit_code: UNUSABLE }
}
