//! `-D PACKET NAME VALUE`: MQTT 5 properties from the command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use bytes::Bytes;
use clap::error::ErrorKind;
use petrel_proto::{
    ConnectProperties, MessageProperties, PayloadFormat, PublishProperties, Text, TopicName,
    UserProperties, varint,
};

use super::text;

/// The packets that can be given properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// CONNECT.
    Connect,
    /// The will inside CONNECT.
    Will,
    /// PUBLISH.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// DISCONNECT.
    Disconnect,
}

/// All properties that the command line names.
#[derive(Debug, Clone, Default)]
pub struct PropertyList {
    /// For CONNECT; without its user properties.
    pub connect: ConnectProperties,
    /// For the will; without its user properties.
    pub will: PublishProperties,
    /// Will Delay Interval, in seconds.
    pub will_delay_interval_s: Option<u32>,
    /// For PUBLISH; without its user properties.
    pub publish: PublishProperties,
    /// For SUBSCRIBE.
    pub subscription_identifier: Option<u32>,
    /// For DISCONNECT, in seconds.
    pub disconnect_session_expiry_interval_s: Option<u32>,
    /// For DISCONNECT.
    pub disconnect_reason_string: Option<Text>,
    user: Vec<(PacketKind, Text, Text)>,
    given: Vec<PacketKind>,
}

impl PacketKind {
    const NAMES: &[(&str, Self)] = &[
        ("connect", Self::Connect),
        ("will", Self::Will),
        ("publish", Self::Publish),
        ("subscribe", Self::Subscribe),
        ("unsubscribe", Self::Unsubscribe),
        ("disconnect", Self::Disconnect),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, it)| it)
    }
}

/// `-D`, of which each has three values, and a user property four: that is beyond clap's attributes.
impl clap::Args for PropertyList {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(
            clap::Arg::new("property")
                .short('D')
                .long("property")
                .value_names(["PACKET", "NAME", "VALUE", "VALUE"])
                .num_args(3..=4)
                .allow_negative_numbers(true)
                .action(clap::ArgAction::Append)
                .value_parser(clap::value_parser!(OsString))
                .help(
                    "An MQTT 5 property, as in -D publish content-type text/plain or \
                     -D connect user-property NAME VALUE; may be repeated. No value begins with -, \
                     unless it is a number",
                ),
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for PropertyList {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut list = Self::default();
        list.update_from_arg_matches(matches)?;
        Ok(list)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        for words in matches.get_occurrences::<OsString>("property").into_iter().flatten() {
            self.add_words(&words.collect::<Vec<_>>())
                .map_err(|what| clap::Error::raw(ErrorKind::ValueValidation, what))?;
        }
        Ok(())
    }
}

impl PropertyList {
    /// Adds what one `-D` says.
    fn add_words(&mut self, words: &[&OsString]) -> Result<(), String> {
        let utf8 = |word: &OsString| {
            word.to_str().map(str::to_owned).ok_or_else(|| "-D: the value is not UTF-8".to_owned())
        };
        let (packet, name, value, second) = match *words {
            [packet, name, value] => (utf8(packet)?, utf8(name)?, value, None),
            [packet, name, value, second] => {
                (utf8(packet)?, utf8(name)?, value, Some(utf8(second)?))
            }
            _ => return Err("-D needs a packet, a name and a value".to_owned()),
        };
        let said = format!("-D {packet} {name}");
        match (&second, name == "user-property") {
            (Some(_), true) | (None, false) => {}
            (None, true) => return Err(format!("{said} needs a name and a value")),
            (Some(_), false) => return Err(format!("{said} needs one value, not two")),
        }
        self.add(&packet, &name, value.as_bytes().to_vec(), second)
            .map_err(|what| format!("{said}: {what}"))
    }

    /// Adds one property; `second` is the value of a user property, whose name is `value`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn add(
        &mut self,
        packet: &str,
        name: &str,
        value: Vec<u8>,
        second: Option<String>,
    ) -> Result<(), String> {
        let kind = PacketKind::from_name(packet).ok_or_else(|| {
            let names: Vec<_> = PacketKind::NAMES.iter().map(|&(name, _)| name).collect();
            format!("{packet:?} is not one of {}", names.join(", "))
        })?;
        self.given.push(kind);
        let value = Value(value);
        if let Some(second) = second {
            self.user.push((kind, value.text()?, text(&second)?));
            return Ok(());
        }
        let known = match kind {
            PacketKind::Connect => self.add_to_connect(name, &value)?,
            PacketKind::Will if name == "will-delay-interval" => {
                self.will_delay_interval_s = Some(value.number(u32::MAX)?);
                true
            }
            PacketKind::Will => add_to_message(&mut self.will, name, &value)?,
            PacketKind::Publish if name == "topic-alias" => {
                self.publish.topic_alias = Some(value.number_from_1(u32::from(u16::MAX))? as u16);
                true
            }
            PacketKind::Publish => add_to_message(&mut self.publish, name, &value)?,
            PacketKind::Subscribe if name == "subscription-identifier" => {
                self.subscription_identifier = Some(value.number_from_1(varint::MAX)?);
                true
            }
            PacketKind::Disconnect if name == "session-expiry-interval" => {
                self.disconnect_session_expiry_interval_s = Some(value.number(u32::MAX)?);
                true
            }
            PacketKind::Disconnect if name == "reason-string" => {
                self.disconnect_reason_string = Some(value.text()?);
                true
            }
            PacketKind::Subscribe | PacketKind::Unsubscribe | PacketKind::Disconnect => false,
        };
        if known { Ok(()) } else { Err(format!("{packet} has no property {name:?}")) }
    }

    fn add_to_connect(&mut self, name: &str, value: &Value) -> Result<bool, String> {
        let connect = &mut self.connect;
        match name {
            "session-expiry-interval" => {
                connect.session_expiry_interval_s = Some(value.number(u32::MAX)?);
            }
            "receive-maximum" => {
                connect.receive_maximum = Some(value.number_from_1(u32::from(u16::MAX))? as u16);
            }
            "maximum-packet-size" => {
                connect.maximum_packet_size = Some(value.number_from_1(u32::MAX)?);
            }
            "topic-alias-maximum" => {
                connect.topic_alias_maximum = Some(value.number(u32::from(u16::MAX))? as u16);
            }
            "request-response-information" => {
                connect.request_response_information = Some(value.number(1)? == 1);
            }
            "request-problem-information" => {
                connect.request_problem_information = Some(value.number(1)? == 1);
            }
            "authentication-method" => connect.authentication_method = Some(value.text()?),
            "authentication-data" => connect.authentication_data = Some(value.bytes()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses properties of packets that the command does not send.
    pub fn only_for(&self, packets: &[PacketKind]) -> Result<(), String> {
        let always = [PacketKind::Connect, PacketKind::Will, PacketKind::Disconnect];
        for kind in &self.given {
            if !packets.contains(kind) && !always.contains(kind) {
                let name = PacketKind::NAMES.iter().find(|(_, it)| it == kind);
                let name = name.map_or("", |(name, _)| name);
                return Err(format!("-D {name}: this command sends no {name} packet"));
            }
        }
        Ok(())
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// The properties of the will, user properties included.
    pub fn will_properties(&self) -> PublishProperties {
        self.with_user_properties(&self.will, PacketKind::Will)
    }

    /// The properties of PUBLISH, user properties included.
    pub fn publish_properties(&self) -> PublishProperties {
        self.with_user_properties(&self.publish, PacketKind::Publish)
    }

    fn with_user_properties(
        &self,
        properties: &PublishProperties,
        packet: PacketKind,
    ) -> PublishProperties {
        let mut fields = properties.message.fields();
        fields.user_properties = self.user_properties(packet);
        // What was put together before can be put together again.
        let message = MessageProperties::of(&fields).unwrap_or_default();
        PublishProperties { message, ..properties.clone() }
    }

    /// The user properties of one packet, in order.
    pub fn user_properties(&self, packet: PacketKind) -> UserProperties {
        UserProperties::from_pairs(
            self.user
                .iter()
                .filter(|(kind, _, _)| *kind == packet)
                .map(|(_, name, value)| (name, value)),
        )
    }
}

/// The properties that PUBLISH and the will have in common.
fn add_to_message(
    message: &mut PublishProperties,
    name: &str,
    value: &Value,
) -> Result<bool, String> {
    let mut fields = message.message.fields();
    match name {
        "payload-format-indicator" => {
            fields.payload_format = Some(match value.number(1)? {
                0 => PayloadFormat::Bytes,
                _ => PayloadFormat::Utf8,
            });
        }
        "message-expiry-interval" => {
            message.message_expiry_interval_s = Some(value.number(u32::MAX)?);
        }
        "content-type" => fields.content_type = Some(value.text()?),
        "response-topic" => {
            let topic = TopicName::new(value.text()?).map_err(|error| error.what.to_owned())?;
            fields.response_topic = Some(topic.text().clone());
        }
        "correlation-data" => fields.correlation_data = Some(value.bytes()),
        _ => return Ok(false),
    }
    let too_long = || "the value is longer than 65,535 bytes".to_owned();
    message.message = MessageProperties::of(&fields).ok_or_else(too_long)?;
    Ok(true)
}

/// One value as it was typed.
struct Value(Vec<u8>);

impl Value {
    fn text(&self) -> Result<Text, String> {
        text(std::str::from_utf8(&self.0).map_err(|_| "the value is not UTF-8".to_owned())?)
    }

    fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn number(&self, max: u32) -> Result<u32, String> {
        self.in_range(0, max)
    }

    fn number_from_1(&self, max: u32) -> Result<u32, String> {
        self.in_range(1, max)
    }

    fn in_range(&self, min: u32, max: u32) -> Result<u32, String> {
        let shown = String::from_utf8_lossy(&self.0);
        shown
            .parse()
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| format!("the value is a number from {min} to {max}, not {shown:?}"))
    }
}
