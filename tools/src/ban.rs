//! `petrelctl ban`, `unban` and `bans`: who is shut out of a broker that runs; and `reload`.
//!
//! With the folder of a broker as the first word they speak to its control socket, and without one to its admin
//! interface, wherever that is.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use petrel_storage::control::{Answer, BanRequest, Request, Subject};
use serde_json::{Value, json};

use crate::admin::reach::{Reach, done, say};
use crate::admin::{columns, query, shown, time};
use crate::failure::Failure;
use crate::storage::{UNUSABLE, asked};

/// What a broker says that does something else for somebody.
const BUSY: &str = "is busy with another request";
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_MAX: Duration = Duration::from_secs(30);
/// The broker says after a minute that it takes long.
const RELOAD_S: u64 = 70;

/// What the folder of these commands is, and what exit codes there are.
const AFTER: &str = "\
FOLDER is `control` of [engine] in the broker's configuration, or `path` of [storage]: the broker is asked by the \
socket in it. Without it the broker's admin interface is asked, which --url, --folder and --token-file name, and what is \
done stands in `petrelctl audit`.

Exit codes: 0 done, 1 wrong usage, or the admin interface says why not, 3 no broker can be reached, or it says by its \
socket why not.";

/// Shut somebody out of a broker that runs; who is connected is disconnected.
#[derive(clap::Args)]
#[command(
    override_usage = "petrelctl ban [OPTIONS] [FOLDER] <KIND> <WHO>",
    after_help = format!("A ban holds after a restart as well. {AFTER}")
)]
pub struct BanArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    #[command(flatten)]
    reach: Reach,
    /// For so long, as in 90s, 30m, 12h or 7d; for good without it.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    for_s: Option<u64>,
    /// What it is for, which the list says.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

/// Let somebody in again who was shut out.
#[derive(clap::Args)]
#[command(
    override_usage = "petrelctl unban [OPTIONS] [FOLDER] <KIND> <WHO>",
    after_help = AFTER
)]
pub struct UnbanArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    #[command(flatten)]
    reach: Reach,
}

/// List who is shut out, those included that the broker has shut out itself.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct BansArguments {
    /// By which the broker is reached, if not by its admin interface.
    #[arg(value_name = "FOLDER")]
    control: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// Have a broker that runs read its configuration again, and certificates, users and rules with it.
#[derive(clap::Args)]
#[command(after_help = format!("A configuration that is wrong changes nothing. What needs a restart is listed by \
                                its name. {AFTER}"))]
pub struct ReloadArguments {
    /// By which the broker is reached, if not by its admin interface.
    #[arg(value_name = "FOLDER")]
    control: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// Who is shut out.
#[derive(clap::Args)]
struct SubjectArguments {
    /// The folder by which the broker is reached, if not by its admin interface; then client-id, user or address, and
    /// who it is. An address may be followed by a number of bits, as in 10.0.0.0/8; it is shut out before a handshake.
    #[arg(required = true, num_args = 2..=3, value_names = ["KIND", "WHO"])]
    words: Vec<String>,
}

impl BanArguments {
    /// Bans.
    pub fn run(self) -> Result<(), Failure> {
        let Self { subject, reach, for_s, why } = self;
        let (folder, subject) = subject.parts("ban")?;
        if let Some(folder) = by_socket(folder, &reach)? {
            return answered(&folder, &Request::Ban(BanRequest { subject, for_s, why }));
        }
        let (kind, who) = subject.parts();
        let ban = json!({ "kind": kind, "who": who, "for_s": for_s, "why": why });
        say(&reach, &reach.broker()?.put("POST", "/api/v1/bans", Some(&ban))?, done)
    }
}

impl UnbanArguments {
    /// Takes a ban back.
    pub fn run(self) -> Result<(), Failure> {
        let Self { subject, reach } = self;
        let (folder, subject) = subject.parts("unban")?;
        if let Some(folder) = by_socket(folder, &reach)? {
            return answered(&folder, &Request::Unban(subject));
        }
        let (kind, who) = subject.parts();
        let ban = query(&[("kind", Some(kind.to_owned())), ("who", Some(who.to_owned()))]);
        say(&reach, &reach.broker()?.put("DELETE", &format!("/api/v1/bans{ban}"), None)?, done)
    }
}

impl BansArguments {
    /// Lists bans.
    pub fn run(self) -> Result<(), Failure> {
        let Self { control, reach } = self;
        if let Some(folder) = by_socket(control, &reach)? {
            return answered(&folder, &Request::Bans);
        }
        say(&reach, &reach.broker()?.get("/api/v1/bans")?, list)
    }
}

impl ReloadArguments {
    /// Has the configuration read again.
    pub fn run(self) -> Result<(), Failure> {
        let Self { control, reach } = self;
        if let Some(folder) = by_socket(control, &reach)? {
            return answered(&folder, &Request::Reload);
        }
        let broker = reach.broker()?.patient(RELOAD_S);
        say(&reach, &broker.put("POST", "/api/v1/reload", None)?, done)
    }
}

impl SubjectArguments {
    /// The folder, if there is one, and who it is.
    fn parts(self, command: &str) -> Result<(Option<PathBuf>, Subject), Failure> {
        let wrong = |what: String| {
            Failure::usage(format!("{what}; petrelctl {command} --help explains it"))
        };
        let mut words = self.words;
        let who = words.pop().unwrap_or_default();
        let kind = words.pop().unwrap_or_default();
        // Two words are no folder and a kind.
        let is_kind = |word: &str| Subject::KINDS.contains(&word);
        if words.is_empty() && is_kind(&who) && !is_kind(&kind) {
            return Err(wrong(format!("who is missing behind {who}")));
        }
        let subject = Subject::of(&kind, who).map_err(wrong)?;
        Ok((words.pop().map(PathBuf::from), subject))
    }
}

/// The folder whose socket is spoken to; `None` for the admin interface.
pub fn by_socket(folder: Option<PathBuf>, reach: &Reach) -> Result<Option<PathBuf>, Failure> {
    match folder {
        Some(folder) if reach.is_named() => Err(Failure::usage(format!(
            "{}: the socket there takes neither --folder, --url, --token-file nor --json; leave one or the other out",
            folder.display()
        ))),
        folder => Ok(folder),
    }
}

fn list(answer: &Value) -> String {
    let rows: Vec<_> = (answer["bans"].as_array().into_iter().flatten())
        .map(|it| {
            let by = if it["automatic"] == true { "broker" } else { "operator" };
            let for_s = if it["for_s"].is_null() { "good".to_owned() } else { time(&it["for_s"]) };
            vec![shown(&it["kind"]), shown(&it["who"]), for_s, by.to_owned(), shown(&it["why"])]
        })
        .collect();
    columns(&["KIND", "WHO", "FOR", "BY", "WHY"], &rows)
}

/// Asks the broker and prints what it says.
fn answered(folder: &Path, request: &Request) -> Result<(), Failure> {
    let answer = asked_in_turn(folder, request)?.ok_or_else(|| nobody(folder))?;
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

/// A number with the letter of its unit.
fn seconds(text: &str) -> Result<u64, String> {
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
    parsed.ok_or_else(|| "write a number and s, m, h or d, as in 12h".to_owned())
}

fn nobody(folder: &Path) -> Failure {
    let text = format!(
        "no broker that runs can be reached by {}; it is `control` of [engine], or `path` of [storage]",
        folder.display()
    );
    Failure { text, exit_code: UNUSABLE }
}
