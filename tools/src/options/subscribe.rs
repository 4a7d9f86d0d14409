//! The command line of `petrelctl sub`.

use std::ffi::OsString;

use petrel_proto::{RetainHandling, SubscriptionOptions, Text, TopicFilter};

use super::common::{Common, CommonArguments};
use super::properties::PacketKind;
use super::{Arguments, text};
use crate::failure::Failure;
use crate::format::Format;

/// What `petrelctl sub --help` prints.
pub const HELP: &str = concat!(
    "\
petrelctl sub subscribes and prints what arrives.

Usage: petrelctl sub [-h HOST] [-p PORT] -t FILTER... [OPTIONS]

What is subscribed to:
  -t, --topic FILTER      may be repeated; $share/NAME/FILTER shares the messages of a group
  -q, --qos QOS           0 (default), 1 or 2
  -U, --unsubscribe FILTER
                          end a subscription of a kept session; may be repeated
  -R                      no messages that were retained before
      --retain-handling 0|1|2
                          retained messages always (0), for a new subscription (1), never (2)
      --retain-as-published
                          keep the retain flag as the publisher set it
      --no-local          not what this client published itself

What is printed:
  -v, --verbose           the topic before each message
  -F, --format FORMAT     %t topic, %p payload, %x payload in hexadecimal, %q QoS, %r retained,
                          %l length, %m packet identifier, %I time, %U seconds since 1970,
                          %j JSON, %J JSON with the payload as JSON, @X as in date +%X;
                          of MQTT 5: %A topic alias, %C content type, %D correlation data,
                          %E expiry, %F payload format, %P user properties, %R response topic,
                          %S subscription identifiers; %10t and %-10t pad, \\n \\t \\0 are escapes
  -N                      no end of line after a message
      --pretty            JSON on several lines
  -T, --filter-out FILTER nothing from these topics; may be repeated
      --retained-only     only retained messages, and end with the first other one
      --remove-retained   clear each retained message that arrives
  -C, --count COUNT       end after so many messages
  -W SECONDS              end after this time, with exit code 27
  -E                      end once the broker has acknowledged the subscriptions

When the connection is lost it ends with exit code 1; it does not connect again.

",
    include_str!("common_help.txt")
);

/// What `petrelctl sub` is asked to do.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    /// Where the broker is and who we are.
    pub common: Common,
    /// What to subscribe to.
    pub filters: Vec<TopicFilter>,
    /// What to unsubscribe from.
    pub unsubscribe: Vec<TopicFilter>,
    /// How to subscribe.
    pub subscription: SubscriptionOptions,
    /// How a message is printed.
    pub format: Format,
    /// What is not printed.
    pub filter_out: Vec<TopicFilter>,
    /// Which messages are printed, as far as retained ones go.
    pub retained: Retained,
    /// Clear what is retained.
    pub remove_retained: bool,
    /// End after so many messages.
    pub count: Option<u64>,
    /// End once the subscriptions are acknowledged.
    pub only_subscribe: bool,
}

/// Which messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// All.
    Shown,
    /// Those without the retain flag.
    Hidden,
    /// Those with it, up to the first without.
    Only,
}

/// Reads the command line; `None` if it asks for help.
///
/// # Errors
/// What is wrong, in one sentence.
pub fn parse(arguments: Vec<OsString>) -> Result<Option<SubscribeOptions>, Failure> {
    let mut arguments = Arguments::new(arguments);
    let mut shared = CommonArguments::default();
    let (mut filters, mut unsubscribe, mut filter_out) = (Vec::new(), Vec::new(), Vec::new());
    let mut subscription = SubscriptionOptions::default();
    let (mut format, mut verbose, mut newline, mut pretty) = (None, false, true, false);
    let (mut hide_retained, mut only_retained, mut remove_retained) = (false, false, false);
    let (mut count, mut only_subscribe, mut v5_option) = (None, false, None);
    while let Some(option) = arguments.next()? {
        if shared.take(&option, &mut arguments)? {
            continue;
        }
        match option.as_str() {
            "-t" | "--topic" => filters.push(filter("-t", arguments.text()?)?),
            "-U" | "--unsubscribe" => unsubscribe.push(filter("-U", arguments.text()?)?),
            "-T" | "--filter-out" => filter_out.push(filter("-T", arguments.text()?)?),
            "-q" | "--qos" => subscription.qos = arguments.qos()?,
            "-R" => hide_retained = true,
            "--retain-handling" => {
                subscription.retain_handling = match arguments.number(0, 2)? {
                    0 => RetainHandling::Send,
                    1 => RetainHandling::SendIfNew,
                    _ => RetainHandling::DoNotSend,
                };
                v5_option = Some(option);
            }
            "--retain-as-published" => {
                subscription.retain_as_published = true;
                v5_option = Some(option);
            }
            "--no-local" => {
                subscription.no_local = true;
                v5_option = Some(option);
            }
            "-F" | "--format" => format = Some(arguments.bytes()?),
            "-v" | "--verbose" => verbose = true,
            "-N" => newline = false,
            "--pretty" => pretty = true,
            "--retained-only" => only_retained = true,
            "--remove-retained" => remove_retained = true,
            "-C" | "--count" => count = Some(arguments.number(1, u64::MAX)?),
            "-E" => only_subscribe = true,
            "--help" => return Ok(None),
            _ => return Err(arguments.unknown("petrelctl sub")),
        }
    }
    if let (true, Some(from_url)) = (filters.is_empty(), shared.url_topic.take()) {
        filters.push(filter("-L", text(&from_url).map_err(Failure::usage)?)?);
    }
    if filters.is_empty() && unsubscribe.is_empty() {
        return Err(Failure::usage("sub needs a topic filter (-t)"));
    }
    let common = shared.finish(&[PacketKind::Subscribe, PacketKind::Unsubscribe])?;
    if let (Some(option), false) = (v5_option, common.version.is_v5()) {
        return Err(Failure::usage(format!("{option} needs MQTT 5; leave -V out or write -V 5")));
    }
    if subscription.no_local && filters.iter().any(TopicFilter::is_shared) {
        return Err(Failure::usage(
            "--no-local does not go with a shared subscription [MQTT5-3.8.3-4]",
        ));
    }
    let retained = match (hide_retained, only_retained) {
        (true, true) => return Err(Failure::usage("-R and --retained-only exclude each other")),
        (true, false) => Retained::Hidden,
        (false, true) => Retained::Only,
        (false, false) => Retained::Shown,
    };
    let format = match format {
        Some(format) => Format::parse(&format, newline, pretty)
            .map_err(|what| Failure::usage(format!("-F: {what}")))?,
        None => Format::plain(verbose, newline),
    };
    Ok(Some(SubscribeOptions {
        common,
        filters,
        unsubscribe,
        subscription,
        format,
        filter_out,
        retained,
        remove_retained,
        count,
        only_subscribe,
    }))
}

fn filter(option: &str, filter: Text) -> Result<TopicFilter, Failure> {
    let shown = filter.clone();
    TopicFilter::new(filter).map_err(|error| {
        Failure::usage(format!("{option} {shown:?} is not a topic filter: {}", error.what))
    })
}
