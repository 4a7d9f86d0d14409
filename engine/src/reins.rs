//! What an operator may do to a broker that runs, from any thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use petrel_access::files::{self, Rights};
use petrel_proto::Text;
use petrel_storage::control::{BanRequest, Subject};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use crate::guard::{Ban, Guard, Target};
use crate::log::{self, Event, Level};
use crate::pump::Clock;

/// The file with the bans of operators, in the folder by which `petrelctl` reaches the broker.
const BANS: &str = "bans.json";
/// A file of bans is no longer than that.
const BANS_BYTES_MAX: u64 = 64 << 20;

/// Its owner writes it, and its group may read it, as with logs.
const MODE: u32 = 0o640;

/// Why a ban, or the end of one, is not as it was asked for: a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBanned {
    /// Nothing has changed.
    Refused(String),
    /// It holds, and the next process will not know it.
    Unkept(String),
}

impl From<NotBanned> for String {
    fn from(not: NotBanned) -> Self {
        match not {
            NotBanned::Refused(text) | NotBanned::Unkept(text) => text,
        }
    }
}

/// Speaks to all shards.
pub trait Tell: Send + Sync {
    /// Whoever this is about is disconnected.
    fn ban(&self, target: &Target);
}

/// The hands on a broker.
pub struct Reins {
    guard: Arc<Guard>,
    shards: Box<dyn Tell>,
    clock: Clock,
    /// Where bans are kept, if anywhere.
    file: Option<PathBuf>,
    /// One at a time.
    changing: Mutex<()>,
    reloads: Reloads,
}

/// Who wants to know what became of reading the configuration again; `None` if nobody reads it.
#[derive(Debug, Default)]
struct Reloads(Mutex<Option<Vec<Sender<Said>>>>);

/// Those who asked before it was begun to read the configuration again: what is read is what they mean.
#[derive(Debug)]
#[must_use = "they wait"]
pub struct Asking(Vec<Sender<Said>>);

impl Reloads {
    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Sender<Said>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it will be said; `None` if nobody reads it.
    fn join(&self) -> Option<Receiver<Said>> {
        let (asked, said) = channel();
        self.waiting().as_mut()?.push(asked);
        Some(said)
    }

    /// All who have joined until now.
    fn begin(&self) -> Asking {
        Asking(self.waiting().as_mut().map(std::mem::take).unwrap_or_default())
    }
}

impl Asking {
    /// What became of it.
    pub fn tell(self, said: &Said) {
        for asked in self.0 {
            // Whoever asked may have lost patience.
            let _ = asked.send(said.clone());
        }
    }
}

/// What was said of something, for people.
type Said = Result<String, String>;

/// How long it may take to read the configuration again.
const RELOADED_WITHIN: Duration = Duration::from_secs(60);

impl Reins {
    /// Of a broker whose folder is this. Bans from before hold again.
    pub(crate) fn new(
        guard: Arc<Guard>,
        shards: Box<dyn Tell>,
        clock: Clock,
        folder: Option<&Path>,
    ) -> Self {
        let file = folder.map(|folder| folder.join(BANS));
        let reins = Self {
            guard,
            shards,
            clock,
            file,
            changing: Mutex::default(),
            reloads: Reloads::default(),
        };
        if let Some(file) = &reins.file {
            match reins.read(file) {
                Ok((bans, mut wrong)) => {
                    for ban in bans {
                        wrong += usize::from(!reins.guard.bans().add(ban, reins.now_ms()));
                    }
                    if wrong > 0 {
                        reins.set_aside(file, &format!("{wrong} of its bans cannot be used"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Somebody may get in who should not; the operator is told, and can ban again.
                Err(error) => reins.set_aside(file, &error.to_string()),
            }
        }
        reins
    }

    /// Keeps a file that is not as it should be, and says so.
    fn set_aside(&self, file: &Path, why: &str) {
        let aside = file.with_extension("bad");
        let copied = fs::copy(file, &aside);
        let kept = if copied.is_ok() { "is kept as" } else { "could not be kept as" };
        let (file, aside) = (file.display(), aside.display());
        let text = format_args!("{file}: {why}; the others hold, and the file {kept} {aside}");
        log::say(Event::BansDamaged, Level::Error, &[], text);
    }

    /// Who is banned.
    #[must_use]
    pub const fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// The time on the clock of the process.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }

    /// The program reads its configuration again when it gets SIGHUP, and tells those whom [`Reins::reloads`] names.
    pub fn answers_reloads(&self) {
        *self.reloads.waiting() = Some(Vec::new());
    }

    /// The configuration is about to be read again. Whoever asks from now on sends another signal.
    pub fn reloads(&self) -> Asking {
        self.reloads.begin()
    }

    /// Has the program read its configuration again, and says what became of it.
    ///
    /// # Errors
    /// What is wrong with the configuration, or that nobody reads it.
    pub fn reload(&self) -> Said {
        let said = self.reloads.join().ok_or("this process reads no configuration again")?;
        kill_process(getpid(), Signal::HUP).map_err(|error| format!("no signal: {error}"))?;
        said.recv_timeout(RELOADED_WITHIN)
            .map_err(|_| "it takes long; see the log of the broker".to_owned())?
    }

    /// Shuts somebody out: whoever it is about is disconnected and does not come back, for so many seconds or for
    /// good. Holds in the next process as well, if there is a folder.
    ///
    /// # Errors
    /// There are too many bans, or the file cannot be written; then it holds as long as the process.
    pub fn ban(&self, asked: &BanRequest) -> Result<(), NotBanned> {
        let target = target_of(&asked.subject).map_err(NotBanned::Refused)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let until_ms =
            asked.for_s.map_or(u64::MAX, |s| self.now_ms().saturating_add(s.saturating_mul(1000)));
        let ban = Ban { target: target.clone(), until_ms, why: asked.why.clone(), is_own: false };
        if !self.guard.bans().add(ban, self.now_ms()) {
            return Err(NotBanned::Refused("there is no room for more bans".into()));
        }
        self.shards.ban(&target);
        self.keep()
    }

    /// Takes a ban back, also one that the broker has made itself; false if there was none.
    ///
    /// # Errors
    /// The file cannot be written; then the ban holds again in the next process.
    pub fn unban(&self, subject: &Subject) -> Result<bool, NotBanned> {
        let target = target_of(subject).map_err(NotBanned::Refused)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = self.guard.bans().remove(&target);
        if was_there {
            self.keep()?;
        }
        Ok(was_there)
    }

    /// A line for each ban that holds.
    #[must_use]
    pub fn bans(&self) -> String {
        let now_ms = self.now_ms();
        let mut lines: Vec<_> = self
            .guard
            .bans()
            .list(now_ms)
            .iter()
            .map(|ban| match ban.until_ms {
                u64::MAX => format!("{ban}\n"),
                until_ms => format!("{ban}, for {} s more\n", (until_ms - now_ms).div_ceil(1000)),
            })
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// Writes the bans of operators down.
    fn keep(&self) -> Result<(), NotBanned> {
        let Some(file) = &self.file else { return Ok(()) };
        let now_ms = self.now_ms();
        let wall_s = wall_s();
        let one = |ban: Ban| {
            let (kind, who) = parts(&ban.target);
            let until_s =
                (ban.until_ms != u64::MAX).then(|| wall_s + (ban.until_ms - now_ms).div_ceil(1000));
            json!({ "kind": kind, "who": who, "until_s": until_s, "why": ban.why })
        };
        let bans = self.guard.bans().list(now_ms).into_iter().filter(|ban| !ban.is_own);
        let text = format!("{}\n", Value::from(bans.map(one).collect::<Vec<_>>()));
        files::replace(file, &text, Rights::Always(MODE)).map_err(|error| {
            NotBanned::Unkept(format!(
                "{}: {error}; the change holds as long as this process, and is not kept",
                file.display()
            ))
        })
    }

    /// The bans of a file, and how many of it are none.
    fn read(&self, file: &Path) -> io::Result<(Vec<Ban>, usize)> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if fs::metadata(file)?.len() > BANS_BYTES_MAX {
            return Err(wrong("it is too long for a file of bans"));
        }
        let value: Value = serde_json::from_slice(&fs::read(file)?)?;
        let list = value.as_array().ok_or_else(|| wrong("it is no list of bans"))?;
        let (now_ms, wall_s) = (self.now_ms(), wall_s());
        let one = |it: &Value| {
            let text = |key: &str| it[key].as_str().map(str::to_owned);
            let subject = Subject::of(&text("kind")?, text("who")?).ok()?;
            let left_s = match &it["until_s"] {
                Value::Null => None,
                until => Some(until.as_u64()?.saturating_sub(wall_s)),
            };
            let until_ms =
                left_s.map_or(u64::MAX, |s| now_ms.saturating_add(s.saturating_mul(1000)));
            let (target, why) = (target_of(&subject).ok()?, text("why").unwrap_or_default());
            Some(Ban { target, until_ms, why, is_own: false })
        };
        let bans: Vec<_> = list.iter().filter_map(one).collect();
        let left_out = list.len() - bans.len();
        Ok((bans, left_out))
    }
}

/// The kind of a ban, and whom it is about.
#[must_use]
pub fn parts(target: &Target) -> (&'static str, String) {
    match target {
        Target::ClientId(id) => ("client-id", id.as_str().to_owned()),
        Target::User(user) => ("user", user.as_str().to_owned()),
        Target::Addresses(range) => ("address", range.to_string()),
    }
}

fn wall_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn target_of(subject: &Subject) -> Result<Target, String> {
    let text = |text: &String| {
        Text::try_from(text.as_str()).map_err(|_| format!("{text:?} is no text of MQTT"))
    };
    Ok(match subject {
        Subject::ClientId(id) => Target::ClientId(text(id)?),
        Subject::User(user) => Target::User(text(user)?),
        Subject::Address(range) => {
            Target::Addresses(range.parse().map_err(|what| format!("{range:?} {what}"))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_while_the_configuration_is_read_is_told_of_the_next_time() {
        let reloads = Reloads::default();
        assert!(reloads.join().is_none(), "nobody reads it");
        *reloads.waiting() = Some(Vec::new());
        let first = reloads.join().expect("somebody reads it");
        let asking = reloads.begin();
        let second = reloads.join().expect("somebody reads it");
        asking.tell(&Ok("the old file".into()));
        assert_eq!(first.try_recv(), Ok(Ok("the old file".into())));
        assert!(second.try_recv().is_err());
        reloads.begin().tell(&Ok("the new one".into()));
        assert_eq!(second.try_recv(), Ok(Ok("the new one".into())));
    }
}
