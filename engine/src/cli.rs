//! The command line of `petrel`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the broker with this file, or with the built-in defaults.
    Run(Option<PathBuf>),
    /// Check this file, or the built-in defaults, and open no port.
    CheckConfig(Option<PathBuf>),
    /// Print this: help, the version, or the man page.
    Print(String),
}

/// An MQTT 3.1, 3.1.1 and 5 broker.
#[derive(clap::Parser)]
#[command(name = "petrel", version, max_term_width = 100, after_help = AFTER)]
struct Arguments {
    /// Read the configuration from FILE (TOML; docs/CONFIGURATION.md has every key).
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and the files it names, open no port, and exit.
    #[arg(long)]
    check_config: bool,
    /// Print the man page of this program, for packages.
    #[arg(long, hide = true)]
    man: bool,
}

const AFTER: &str = "\
Without --config Petrel serves MQTT on 127.0.0.1:1883 and WebSocket on ws://127.0.0.1:8083/mqtt, for this machine \
only. SIGTERM and SIGINT stop it gracefully. SIGHUP reads certificates, users and rules again; SIGUSR1 writes what \
has been counted to the log.

Exit codes: 0 after a graceful stop, 1 if a shard had failed before it, 2 if Petrel could not start (the reason is \
on stderr).";

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// One sentence without its final full stop.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let words = std::iter::once(OsString::from("petrel")).chain(arguments);
    let Arguments { config, check_config, man } = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            let said = error.render().to_string();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Print(said)),
                _ => Err(sentence(&said)),
            };
        }
    };
    if man {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command())
            .render(&mut page)
            .map_err(|error| format!("cannot make the man page: {error}"))?;
        return Ok(Command::Print(String::from_utf8_lossy(&page).into_owned()));
    }
    Ok(if check_config { Command::CheckConfig(config) } else { Command::Run(config) })
}

/// What clap says in paragraphs, without how the program is used.
fn sentence(said: &str) -> String {
    let paragraphs = said.trim_start_matches("error: ").split("\n\n").take_while(|paragraph| {
        !paragraph.starts_with("Usage: ") && !paragraph.starts_with("For more information")
    });
    let mut parts: Vec<_> = paragraphs
        .map(|paragraph| paragraph.trim().trim_start_matches("tip: ").replace("\n  ", " "))
        .collect();
    parts.push("see --help".to_owned());
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_come_in_any_order() {
        let file = || Some(PathBuf::from("a.toml"));
        assert_eq!(parsed(""), Ok(Command::Run(None)));
        assert_eq!(parsed("--config a.toml"), Ok(Command::Run(file())));
        assert_eq!(parsed("--config=a.toml --check-config"), Ok(Command::CheckConfig(file())));
        assert_eq!(parsed("--check-config -c a.toml"), Ok(Command::CheckConfig(file())));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |line| parsed(line).expect_err(line);
        assert_eq!(
            wrong("--confg x"),
            "unexpected argument '--confg' found; a similar argument exists: '--config'; see --help"
        );
        assert_eq!(wrong("-x"), "unexpected argument '-x' found; see --help");
        assert_eq!(
            wrong("--config"),
            "a value is required for '--config <FILE>' but none was supplied; see --help"
        );
        assert_eq!(
            wrong("-c a -c b"),
            "the argument '--config <FILE>' cannot be used multiple times; see --help"
        );
        assert_eq!(wrong("petrel.toml"), "unexpected argument 'petrel.toml' found; see --help");
    }

    #[test]
    fn help_version_and_the_man_page_are_printed() {
        let printed = |line| match parsed(line) {
            Ok(Command::Print(text)) => text,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(printed("--version"), concat!("petrel ", env!("CARGO_PKG_VERSION"), "\n"));
        assert!(printed("-h").contains("--check-config"));
        let page = printed("--man");
        assert!(page.contains(".TH petrel 1") && page.contains("check\\-config"), "{page}");
    }
}
