//! `petrelctl passwd`: writes files of users.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use petrel_access::Passwords;
use petrel_access::files::{self, Rights};
use petrel_access::passwords::{Cost, hash};
use petrel_access::scram::{Users, Verifier};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// Set the passwords of users in a file for [[authenticator]] kind = "passwords", or "scram".
#[derive(clap::Args)]
#[command(after_help = "\
The password is asked for twice, or read from stdin up to the first line feed if that is no terminal. It is kept as \
an argon2id hash. A broker reads the file again on SIGHUP.")]
pub struct PasswdArguments {
    /// The file of users; is made if there is none.
    file: PathBuf,
    /// Whose password it is.
    #[arg(required_unless_present = "check")]
    user: Option<String>,
    /// The groups that the user is in; none without it for a new user, those it was in otherwise.
    #[arg(long, value_name = "A,B")]
    groups: Option<String>,
    /// Memory that a check of this password takes.
    #[arg(long, value_name = "KIB", default_value_t = Cost::default().memory_kib)]
    memory: u32,
    /// Passes over it.
    #[arg(long, value_name = "N", default_value_t = Cost::default().passes)]
    passes: u32,
    /// The file is for kind = "scram": it has verifiers instead of hashes.
    #[arg(long)]
    scram: bool,
    /// Take the user out.
    #[arg(long)]
    delete: bool,
    /// Say whether a broker can read the file, and change nothing.
    #[arg(long)]
    check: bool,
}

/// Longer passwords have no place in a CONNECT.
const PASSWORD_BYTES_MAX: u64 = 65_535;
/// Only its owner may read a file of hashes.
const MODE: u32 = 0o600;

impl PasswdArguments {
    /// Changes the file, or checks it.
    pub fn run(self) -> Result<(), Failure> {
        let Self { file, user, groups, memory, passes, scram, delete, check } = self;
        let cost = Cost { memory_kib: memory, passes };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !check && !delete => {
                String::new()
            }
            Err(error) => return Err(unusable(&file, &error)),
        };
        let users = check_text(&file, &text, scram)?;
        if check {
            return crate::print(&format!("{}: {users} users, nothing is wrong\n", file.display()));
        }
        // Without --check there is one.
        let user = user.unwrap_or_default();
        let before = text.lines().find(|line| is_of(line, &user));
        if delete {
            if before.is_none() {
                let what = format!("{}: there is no user {user:?}", file.display());
                return Err(Failure::new(what));
            }
            return write(&file, &replaced(&text, &user, None));
        }
        if user.is_empty() || user.contains([':', '\n', '\r', '\0']) || user.starts_with('#') {
            let why =
                "a user name is not empty, holds no colon, line feed or zero, and begins with no #";
            return Err(Failure::usage(why));
        }
        let groups = groups.or_else(|| before?.splitn(3, ':').nth(2).map(str::to_owned));
        let password = ask()?;
        let hash = match scram {
            true => Verifier::make(&password)
                .ok_or_else(|| Failure::new("the system gives no random numbers"))?
                .to_string(),
            false => hash(&password, cost).map_err(Failure::new)?,
        };
        let mut line = format!("{user}:{hash}");
        if let Some(groups) = groups.filter(|groups| !groups.is_empty()) {
            line = format!("{line}:{groups}");
        }
        let new = replaced(&text, &user, Some(&line));
        check_text(&file, &new, scram)?;
        write(&file, &new)
    }
}

/// How many users a text has, if a broker can read it.
fn check_text(file: &Path, text: &str, scram: bool) -> Result<usize, Failure> {
    if scram {
        return Users::parse(text).map(|users| users.len()).map_err(|wrong| {
            let name = file.display();
            let told = wrong.iter().map(|(line, why)| format!("{name}:{line}: {why}"));
            Failure::new(told.collect::<Vec<_>>().join("\n"))
        });
    }
    Passwords::parse(text).map(|users| users.len()).map_err(|problems| {
        let name = file.display();
        let told = problems.iter().map(|it| format!("{name}:{}: {}", it.line, it.text));
        Failure::new(told.collect::<Vec<_>>().join("\n"))
    })
}

fn is_of(line: &str, user: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| name == user)
}

/// The text with another line for a user, or without one.
fn replaced(text: &str, user: &str, line: Option<&str>) -> String {
    let mut new = String::new();
    let mut line = line;
    for other in text.lines() {
        let kept = if is_of(other, user) { line.take() } else { Some(other) };
        if let Some(kept) = kept {
            new.push_str(kept);
            new.push('\n');
        }
    }
    if let Some(line) = line {
        new.push_str(line);
        new.push('\n');
    }
    new
}

/// A broker that reads meanwhile gets the one or the other.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    files::replace(file, text, Rights::Kept(MODE)).map_err(|error| unusable(file, &error))
}

fn unusable(file: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", file.display()))
}

/// The password that is typed or comes by stdin.
fn ask() -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    let wrong = |error: io::Error| Failure::new(format!("cannot read the password: {error}"));
    if !stdin.is_terminal() {
        let mut password = Vec::new();
        let mut bounded = stdin.lock().take(PASSWORD_BYTES_MAX + 2);
        bounded.read_until(b'\n', &mut password).map_err(wrong)?;
        password.pop_if(|last| *last == b'\n');
        password.pop_if(|last| *last == b'\r');
        return checked(password);
    }
    let first = typed("Password: ").map_err(wrong)?;
    if typed("The same again: ").map_err(wrong)? != first {
        return Err(Failure::new("the two passwords differ; nothing has changed"));
    }
    checked(first)
}

fn checked(password: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if password.is_empty() {
        return Err(Failure::new("the password is empty; nothing has changed"));
    }
    if password.len() as u64 > PASSWORD_BYTES_MAX {
        let why = format!("the password is longer than the {PASSWORD_BYTES_MAX} bytes of MQTT");
        return Err(Failure::new(why));
    }
    Ok(password)
}

/// A line from the terminal, which does not show it.
fn typed(prompt: &str) -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")?;
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut line = Vec::new();
    let read = stdin.lock().take(PASSWORD_BYTES_MAX + 2).read_until(b'\n', &mut line);
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    writeln!(stderr)?;
    read?;
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}
