//! `petrelctl`: what people type to talk to a broker.
//!
//! A command is a file with a struct of its arguments, which says in its own words what it does, and a
//! line in [`Command`] and in [`Command::run`].
#![forbid(unsafe_code)]

mod admin;
mod backup;
mod ban;
mod client;
mod failure;
mod format;
mod json;
mod options;
mod passwd;
mod probe;
mod publish;
mod shell;
mod spread;
mod step;
mod storage;
mod stress;
mod subscribe;
mod usage;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use failure::Failure;

/// Talks to an MQTT broker, and to Petrel about itself.
#[derive(clap::Parser)]
#[command(
    name = "petrelctl",
    version,
    max_term_width = 100,
    args_override_self = true,
    arg_required_else_help = false
)]
struct CommandLine {
    /// Say nothing about errors; the exit code still does.
    #[arg(long, global = true, help_heading = "Other", display_order = 1000)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(clap::Subcommand)]
enum Command {
    Pub(options::publish::PublishArguments),
    Sub(options::subscribe::SubscribeArguments),
    Probe(probe::ProbeArguments),
    Stress(stress::StressArguments),
    Passwd(passwd::PasswdArguments),
    Ban(ban::BanArguments),
    Unban(ban::UnbanArguments),
    Bans(ban::BansArguments),
    Reload(ban::ReloadArguments),
    Storage(storage::StorageArguments),
    Backup(backup::BackupArguments),
    Restore(backup::RestoreArguments),
    Status(admin::broker::StatusArguments),
    Top(admin::top::TopArguments),
    Clients(admin::clients::ClientsArguments),
    Why(admin::why::WhyArguments),
    Topic(admin::messages::TopicArguments),
    Retained(admin::messages::RetainedArguments),
    Groups(admin::messages::GroupsArguments),
    Publish(admin::messages::PublishArguments),
    Listeners(admin::doors::ListenersArguments),
    Drain(admin::doors::DrainArguments),
    Trace(admin::record::TraceArguments),
    Log(admin::record::LogArguments),
    Metrics(admin::broker::MetricsArguments),
    Audit(admin::broker::AuditArguments),
    Token(admin::token::TokenArguments),
    Completions(shell::CompletionsArguments),
    Man(shell::ManArguments),
}

impl Command {
    /// `quiet` says that nobody wants to hear of errors; what ends the program is told by its exit code.
    fn run(self, quiet: bool) -> Result<(), Failure> {
        match self {
            Self::Pub(arguments) => publish::run(&arguments.options()?),
            Self::Sub(arguments) => subscribe::run(&arguments.options()?),
            Self::Probe(arguments) => arguments.run(quiet),
            Self::Stress(arguments) => arguments.run(),
            Self::Passwd(arguments) => arguments.run(),
            Self::Ban(arguments) => arguments.run(),
            Self::Unban(arguments) => arguments.run(),
            Self::Bans(arguments) => arguments.run(),
            Self::Reload(arguments) => arguments.run(),
            Self::Storage(arguments) => arguments.run(),
            Self::Backup(arguments) => arguments.run(),
            Self::Restore(arguments) => arguments.run(),
            Self::Status(arguments) => arguments.run(),
            Self::Top(arguments) => arguments.run(),
            Self::Clients(arguments) => arguments.run(),
            Self::Why(arguments) => arguments.run(),
            Self::Topic(arguments) => arguments.run(),
            Self::Retained(arguments) => arguments.run(),
            Self::Groups(arguments) => arguments.run(),
            Self::Publish(arguments) => arguments.run(),
            Self::Listeners(arguments) => arguments.run(),
            Self::Drain(arguments) => arguments.run(),
            Self::Trace(arguments) => arguments.run(),
            Self::Log(arguments) => arguments.run(),
            Self::Metrics(arguments) => arguments.run(),
            Self::Audit(arguments) => arguments.run(),
            Self::Token(arguments) => arguments.run(),
            Self::Completions(arguments) => arguments.run(),
            Self::Man(arguments) => arguments.run(),
        }
    }
}

fn main() -> ExitCode {
    let (quiet, done) = match CommandLine::try_parse() {
        Ok(line) => (line.quiet, line.command.run(line.quiet)),
        // What could not be read to its end may ask for silence all the same.
        Err(error) => (std::env::args_os().any(|it| it == "--quiet"), usage::answer(&error)),
    };
    match done {
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

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::output)
}
