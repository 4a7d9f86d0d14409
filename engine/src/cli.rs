//! The command line of `petrel`.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use crate::config::nearest;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the broker with this file, or with the built-in defaults.
    Run(Option<PathBuf>),
    /// Check this file, or the built-in defaults, and open no port.
    CheckConfig(Option<PathBuf>),
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// What `--help` prints.
pub const HELP: &str = "\
Petrel, an MQTT 3.1, 3.1.1 and 5 broker.

Usage: petrel [--config FILE] [--check-config]

  -c, --config FILE   read the configuration from FILE (TOML; docs/CONFIGURATION.md has every key)
      --check-config  check the configuration and the files it names, open no port, and exit
  -V, --version       print the version
  -h, --help          print this

Without --config Petrel serves MQTT on 127.0.0.1:1883 and WebSocket on ws://127.0.0.1:8083/mqtt,
for this machine only. SIGTERM and SIGINT stop it gracefully.

Exit codes: 0 after a graceful stop, 1 if a shard had failed before it, 2 if Petrel could not
start (the reason is on stderr). SIGHUP reads certificates, users and rules again; SIGUSR1 writes what has been
counted to the log.
";

const LONG: &[&str] = &["config", "check-config", "version", "help"];

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// One sentence without its final full stop.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut file = None;
    let mut check = false;
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Arg::Short('c') | Arg::Long("config") => {
                if file.is_some() {
                    return Err("--config is given twice".to_owned());
                }
                let value = parser.value().map_err(|_| "--config needs a file name".to_owned())?;
                file = Some(PathBuf::from(value));
            }
            Arg::Long("check-config") => check = true,
            Arg::Short('V') | Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long(name) => {
                let hint = nearest(name, LONG.iter().copied())
                    .map_or("see --help".to_owned(), |near| format!("did you mean --{near}?"));
                return Err(format!("unknown option --{name}; {hint}"));
            }
            Arg::Short(name) => return Err(format!("unknown option -{name}; see --help")),
            Arg::Value(value) => {
                let value = value.to_string_lossy().into_owned();
                return Err(format!(
                    "unexpected argument \"{value}\"; a configuration file is given with --config"
                ));
            }
        }
    }
    Ok(if check { Command::CheckConfig(file) } else { Command::Run(file) })
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
        assert_eq!(parsed("--version"), Ok(Command::Version));
        assert_eq!(parsed("-h"), Ok(Command::Help));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |line| parsed(line).expect_err(line);
        assert_eq!(wrong("--confg x"), "unknown option --confg; did you mean --config?");
        assert_eq!(wrong("-x"), "unknown option -x; see --help");
        assert_eq!(wrong("--config"), "--config needs a file name");
        assert_eq!(wrong("-c a -c b"), "--config is given twice");
        assert_eq!(
            wrong("petrel.toml"),
            "unexpected argument \"petrel.toml\"; a configuration file is given with --config"
        );
    }
}
