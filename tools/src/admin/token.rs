//! `petrelctl token`: writes files of tokens for the admin interface.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use petrel_access::bearer::{Bearer, Bearers, Role};
use petrel_access::files::{self, Rights};

use crate::failure::Failure;

/// Make a token for the admin interface, and print it: it is kept nowhere else.
#[derive(clap::Args)]
#[command(
    after_help = "The file has a hash of each token. A broker reads it again on SIGHUP.\n\nRoles: metrics, for \
                        /metrics; read, for everything that changes nothing; operate, for everything."
)]
pub struct TokenArguments {
    /// `tokens` of [admin] in the broker's configuration; made if it is not there.
    file: PathBuf,
    /// What it is called in the log.
    name: String,
    /// What it is good for.
    #[arg(long, default_value = "read", value_parser = ["metrics", "read", "operate"])]
    role: String,
    /// Take the token of this name out instead.
    #[arg(long)]
    delete: bool,
}

/// Only its owner may read a new file.
const MODE: u32 = 0o600;

impl TokenArguments {
    /// Makes it, or takes it out.
    pub fn run(self) -> Result<(), Failure> {
        let Self { file, name, role, delete } = self;
        let old = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !delete => String::new(),
            Err(error) => return Err(Failure::new(format!("{}: {error}", file.display()))),
        };
        check(&file, &old)?;
        let is_its = |line: &&str| line.split(':').next() == Some(&name);
        if delete {
            if !old.lines().any(|line| is_its(&line)) {
                let text = format!("{}: there is no token called {name:?}", file.display());
                return Err(Failure::new(text));
            }
            let left = old.lines().filter(|line| !is_its(line)).map(|line| format!("{line}\n"));
            return write(&file, &left.collect::<String>());
        }
        let role = Role::from_name(&role).unwrap_or(Role::Read);
        let (bearer, token) = Bearer::make(&name, role).map_err(Failure::usage)?;
        let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
        let new = format!("{old}{end}{bearer}\n");
        check(&file, &new)?;
        write(&file, &new)?;
        crate::print(&format!("{token}\n"))
    }
}

fn check(file: &Path, text: &str) -> Result<(), Failure> {
    Bearers::parse(text).map(drop).map_err(|problems| {
        let lines =
            problems.iter().map(|it| format!("{}:{}: {}", file.display(), it.line, it.text));
        Failure::new(lines.collect::<Vec<_>>().join("\n"))
    })
}

/// Writes the file anew; a broker of another user can read it if it could before.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    files::replace(file, text, Rights::Kept(MODE))
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}
