//! The command lines of `petrelctl`, with the letters that users of mosquitto_pub and
//! mosquitto_sub know.
//!
//! Everything that can be checked without a broker is checked here, before a connection is opened.

pub mod common;
pub mod properties;
pub mod publish;
pub mod subscribe;
mod url;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use petrel_proto::{Qos, Text};

use crate::failure::Failure;

pub use common::{Common, Link, TlsOptions, Trust};

/// A command line being read: option by option, each with the values it wants.
struct Arguments {
    parser: lexopt::Parser,
    option: String,
}

impl Arguments {
    fn new(arguments: Vec<OsString>) -> Self {
        Self { parser: lexopt::Parser::from_args(arguments), option: String::new() }
    }

    /// The next option as it would be typed: `-t` or `--topic`.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        let argument = self.parser.next().map_err(|error| Failure::usage(error.to_string()))?;
        self.option = match argument {
            None => return Ok(None),
            Some(lexopt::Arg::Short(letter)) => format!("-{letter}"),
            Some(lexopt::Arg::Long(word)) => format!("--{word}"),
            Some(lexopt::Arg::Value(value)) => {
                let value = value.to_string_lossy().into_owned();
                return Err(Failure::usage(format!(
                    "{value:?} does not belong to an option; every value has one, as in -t TOPIC"
                )));
            }
        };
        Ok(Some(self.option.clone()))
    }

    /// The next value of the option, whatever it looks like.
    fn value(&mut self) -> Result<OsString, Failure> {
        self.parser.value().map_err(|_| {
            Failure::usage(match self.option.as_str() {
                "-h" => "-h needs a host; --help explains the options".to_owned(),
                option => format!("{option} needs a value"),
            })
        })
    }

    fn bytes(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(OsStr::as_bytes(&self.value()?).to_vec())
    }

    fn string(&mut self) -> Result<String, Failure> {
        self.value()?
            .into_string()
            .map_err(|_| Failure::usage(format!("the value of {} is not UTF-8", self.option)))
    }

    /// A string that MQTT can carry.
    fn text(&mut self) -> Result<Text, Failure> {
        let string = self.string()?;
        text(&string).map_err(|what| Failure::usage(format!("{}: {what}", self.option)))
    }

    fn number<T: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        min: T,
        max: T,
    ) -> Result<T, Failure> {
        let string = self.string()?;
        string.parse().ok().filter(|number| *number >= min && *number <= max).ok_or_else(|| {
            Failure::usage(format!(
                "{} must be a number from {min} to {max}, not {string:?}",
                self.option
            ))
        })
    }

    fn qos(&mut self) -> Result<Qos, Failure> {
        let level: u8 = self.number(0, 2)?;
        Ok(Qos::from_u8(level).unwrap_or_default())
    }

    fn unknown(&self, help: &str) -> Failure {
        let option = &self.option;
        Failure::usage(match known_elsewhere(option) {
            Some(hint) => format!("{option} is not supported: {hint}"),
            None => format!("unknown option {option}; {help} --help lists them"),
        })
    }
}

/// A string that MQTT can carry.
fn text(string: &str) -> Result<Text, String> {
    Text::try_from(string).map_err(|error| error.what.to_owned())
}

/// Options of mosquitto's clients that make no sense here, and what does.
fn known_elsewhere(option: &str) -> Option<&'static str> {
    Some(match option {
        "--unix" => "Petrel listens on IP addresses only; use -h and -p",
        "--proxy" => "there is no SOCKS proxy",
        "--psk" | "--psk-identity" => "there is no TLS with pre-shared keys; use certificates",
        "--capath" => "give one file with all authorities as --cafile",
        "--ciphers" | "--tls-version" | "--tls-alpn" => "TLS settings are chosen by the program",
        "--tls-engine" | "--tls-engine-kpass-sha1" | "--keyform" => "keys are read from PEM files",
        "--random-filter" => "filter the output instead",
        _ => return None,
    })
}
