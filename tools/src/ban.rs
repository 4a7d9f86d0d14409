//! `petrelctl ban`, `unban` and `bans`: who is shut out of a broker that runs; and `reload`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use petrel_storage::control::{Answer, BanRequest, Request, Subject};

use crate::failure::Failure;
use crate::storage::{UNUSABLE, asked};

/// What a broker says that does something else for somebody.
const BUSY: &str = "is busy with another request";
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_MAX: Duration = Duration::from_secs(30);

/// What the folder of these commands is, and what exit codes there are.
const AFTER: &str = "\
FOLDER is `control` of [engine] in the broker's configuration, or `path` of [storage].

Exit codes: 0 done, 1 wrong usage, 3 no broker can be reached by the folder, or it says why not.";

/// Shut somebody out of a broker that runs; who is connected is disconnected.
#[derive(clap::Args)]
#[command(after_help = format!("A ban holds after a restart as well. {AFTER}"))]
pub struct BanArguments {
    /// By which the broker is reached.
    folder: PathBuf,
    #[command(flatten)]
    subject: SubjectArguments,
    /// For so long, as in 90s, 30m, 12h or 7d; for good without it.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    for_s: Option<u64>,
    /// What it is for, which the list says.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

/// Let somebody in again who was shut out.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct UnbanArguments {
    /// By which the broker is reached.
    folder: PathBuf,
    #[command(flatten)]
    subject: SubjectArguments,
}

/// List who is shut out, those included that the broker has shut out itself.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct BansArguments {
    /// By which the broker is reached.
    folder: PathBuf,
}

/// Have a broker that runs read its configuration again, and certificates, users and rules with it.
#[derive(clap::Args)]
#[command(after_help = format!("A configuration that is wrong changes nothing. What needs a restart is listed by \
                                its name. {AFTER}"))]
pub struct ReloadArguments {
    /// By which the broker is reached.
    folder: PathBuf,
}

/// Who is shut out.
#[derive(clap::Args)]
struct SubjectArguments {
    /// What is known of them.
    #[arg(value_parser = ["client-id", "user", "address"])]
    kind: String,
    /// Who it is. An address may be followed by a number of bits, as in 10.0.0.0/8; it is shut out before a
    /// handshake.
    who: String,
}

impl BanArguments {
    /// Bans.
    pub fn run(self) -> Result<(), Failure> {
        let subject = self.subject.subject()?;
        let ban = BanRequest { subject, for_s: self.for_s, why: self.why };
        answered(&self.folder, &Request::Ban(ban))
    }
}

impl UnbanArguments {
    /// Takes a ban back.
    pub fn run(self) -> Result<(), Failure> {
        answered(&self.folder, &Request::Unban(self.subject.subject()?))
    }
}

impl BansArguments {
    /// Lists bans.
    pub fn run(self) -> Result<(), Failure> {
        answered(&self.folder, &Request::Bans)
    }
}

impl ReloadArguments {
    /// Has the configuration read again.
    pub fn run(self) -> Result<(), Failure> {
        answered(&self.folder, &Request::Reload)
    }
}

impl SubjectArguments {
    fn subject(self) -> Result<Subject, Failure> {
        Subject::of(&self.kind, self.who).map_err(|what| Failure::usage(format!("WHO: {what}")))
    }
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
