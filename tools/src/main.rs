//! `petrelctl`: what people type to talk to a broker.
#![forbid(unsafe_code)]

mod backup;
mod ban;
mod client;
mod failure;
mod format;
mod json;
mod options;
mod passwd;
mod publish;
mod storage;
mod subscribe;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use failure::Failure;

const HELP: &str = "\
petrelctl talks to an MQTT broker.

Usage: petrelctl COMMAND [OPTIONS]

Commands:
  pub       publish messages
  sub       subscribe and print what arrives
  passwd    set the passwords of users in a file
  ban       shut a client identifier, user or address out of a broker that runs
  unban     let it in again
  bans      list who is shut out
  reload    have a broker that runs read its configuration again
  storage   look at what a broker keeps
  backup    write everything that a broker keeps into a folder
  restore   make a broker's folder out of a backup

petrelctl COMMAND --help explains the options of a command.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let quiet = std::env::args_os().any(|argument| argument == "--quiet");
    match run(&command.to_string_lossy(), arguments.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !quiet {
                // A closed stderr leaves nobody to tell.
                let _ = writeln!(std::io::stderr(), "petrelctl: {failure}");
            }
            ExitCode::from(failure.exit_code)
        }
    }
}

fn run(command: &str, arguments: Vec<OsString>) -> Result<(), Failure> {
    match command {
        "pub" => match options::publish::parse(arguments)? {
            Some(options) => publish::run(&options),
            None => print(options::publish::HELP),
        },
        "sub" => match options::subscribe::parse(arguments)? {
            Some(options) => subscribe::run(&options),
            None => print(options::subscribe::HELP),
        },
        "passwd" => passwd::run(&arguments),
        "ban" | "unban" | "bans" | "reload" => ban::run(command, &arguments),
        "storage" => storage::run(&arguments),
        "backup" => backup::run_backup(&arguments),
        "restore" => backup::run_restore(&arguments),
        "--help" | "-h" | "help" => print(HELP),
        "--version" | "-V" => print(concat!("petrelctl ", env!("CARGO_PKG_VERSION"), "\n")),
        "" => Err(Failure::usage("no command is given; petrelctl --help lists them")),
        other => Err(Failure::usage(format!(
            "there is no command {other:?}; petrelctl --help lists them"
        ))),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::output)
}
