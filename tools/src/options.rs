//! The command lines of `petrelctl`, with the letters that users of mosquitto_pub and
//! mosquitto_sub know.
//!
//! Everything that can be checked without a broker is checked here, before a connection is opened.

pub mod broker;
pub mod common;
pub mod properties;
pub mod publish;
pub mod subscribe;
mod url;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use bytes::Bytes;
use petrel_proto::{Qos, Text, TopicFilter, TopicName, Version};

use crate::failure::Failure;

pub use broker::{Link, TlsOptions, Trust};
pub use common::Common;

/// A string that MQTT can carry.
pub(crate) fn text(string: &str) -> Result<Text, String> {
    Text::try_from(string).map_err(|error| error.what.to_owned())
}

/// A topic to publish to.
pub(crate) fn topic_name(string: &str) -> Result<TopicName, String> {
    TopicName::new(text(string)?).map_err(|error| error.what.to_owned())
}

fn topic_filter(string: &str) -> Result<TopicFilter, String> {
    TopicFilter::new(text(string)?).map_err(|error| error.what.to_owned())
}

pub(crate) fn qos(string: &str) -> Result<Qos, String> {
    let level = string.parse().ok().and_then(Qos::from_u8);
    level.ok_or_else(|| "QoS is 0, 1 or 2".to_owned())
}

/// A time in seconds, fractions allowed.
pub(crate) fn seconds(string: &str) -> Result<Duration, String> {
    let number: Option<f64> = string.parse().ok().filter(|number| (0.0..=1e9).contains(number));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "this is a number of seconds from 0 to 1000000000".to_owned())
}

/// What was typed, whatever it is.
fn bytes(value: &OsStr) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// The identifier of one of several clients: what the broker assigns, unless a prefix is given or the version
/// has no way to ask for one.
pub(crate) fn client_id(
    prefix: Option<&str>,
    version: Version,
    role: impl std::fmt::Display,
) -> Result<Text, Failure> {
    let id = match prefix {
        None if version != Version::V3_1 => return Ok(Text::EMPTY),
        None => format!("pc{}-{role}", std::process::id()),
        Some(prefix) => format!("{prefix}{role}"),
    };
    if version == Version::V3_1 && id.chars().count() > 23 {
        let what = format!("an MQTT 3.1 client identifier has 1 to 23 characters, not {id:?}");
        return Err(Failure::usage(what));
    }
    text(&id).map_err(Failure::usage)
}

/// What nobody else has, for names of topics and for payloads.
pub(crate) fn random_word() -> Result<String, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(format!("this system gives no random bytes: {error}")))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
