//! What a command line that is no command is answered with: help, or one sentence.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Prints what was asked for instead of a command, or says what is wrong.
pub fn answer(error: &clap::Error) -> Result<(), Failure> {
    let said = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => crate::print(&said),
        _ => Err(Failure::usage(match hint(error) {
            Some(hint) => hint,
            None => sentence(&said, &command()),
        })),
    }
}

/// What is said in paragraphs, as one sentence that ends with where the command is explained.
fn sentence(said: &str, command: &str) -> String {
    let paragraphs = said.trim_start_matches("error: ").split("\n\n").take_while(|paragraph| {
        !paragraph.starts_with("Usage: ") && !paragraph.starts_with("For more information")
    });
    let mut parts: Vec<_> = paragraphs
        .map(|paragraph| {
            let words: Vec<_> = paragraph.split_whitespace().collect();
            words.join(" ").trim_start_matches("tip: ").to_owned()
        })
        .collect();
    parts.push(format!("{command} --help explains it"));
    parts.join("; ")
}

/// The command that was meant, by the words of the command line that name one.
fn command() -> String {
    let mut command = crate::CommandLine::command();
    let mut words = vec!["petrelctl".to_owned()];
    for word in std::env::args_os().skip(1) {
        let Some(inner) = command.find_subcommand(&word) else { break };
        words.push(inner.get_name().to_owned());
        command = inner.clone();
    }
    words.join(" ")
}

/// Options of mosquitto's clients that make no sense here, and what does.
fn hint(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let hint = match option.as_str() {
        "--unix" => "Petrel listens on IP addresses only; use -h and -p",
        "--proxy" => "there is no SOCKS proxy",
        "--psk" | "--psk-identity" => "there is no TLS with pre-shared keys; use certificates",
        "--capath" => "give one file with all authorities as --cafile",
        "--ciphers" | "--tls-version" | "--tls-alpn" => "TLS settings are chosen by the program",
        "--tls-engine" | "--tls-engine-kpass-sha1" | "--keyform" => "keys are read from PEM files",
        "--random-filter" => "filter the output instead",
        _ => return None,
    };
    Some(format!("{option} is not supported: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_become_a_sentence() {
        let said = "error: there is no '--x'\n\n  tip: there is '--y'\n\nUsage: petrelctl a b <C>\n\n\
                    For more information, try '--help'.\n";
        let expected = "there is no '--x'; there is '--y'; petrelctl a --help explains it";
        assert_eq!(sentence(said, "petrelctl a"), expected);
        let said =
            "error: these are missing:\n  <A>\n  <B>\n\nFor more information, try '--help'.\n";
        let expected = "these are missing: <A> <B>; petrelctl --help explains it";
        assert_eq!(sentence(said, "petrelctl"), expected);
    }
}
