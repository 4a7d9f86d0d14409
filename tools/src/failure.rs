//! Why a command failed, and with which exit code.

use std::fmt;
use std::io;

use petrel_proto::ReasonCode;

/// A failure: one sentence for stderr and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Without a final full stop. What a broker sent is in it only escaped.
    pub text: String,
    /// 1 for most; 27 when the time is up; the CONNACK code when the broker refused.
    pub exit_code: u8,
}

/// The exit code when `-W` is over, as mosquitto's clients have it.
const TIMED_OUT: u8 = 27;

impl Failure {
    /// Anything that has no exit code of its own.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 1 }
    }

    /// A wrong command line.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(text)
    }

    /// `-W` is over.
    pub fn timed_out() -> Self {
        Self { text: "timed out".to_owned(), exit_code: TIMED_OUT }
    }

    /// SIGINT or SIGTERM before the work was done.
    pub fn interrupted() -> Self {
        Self { text: "interrupted".to_owned(), exit_code: 130 }
    }

    /// The broker answered CONNECT with something other than success.
    pub fn refused(code: u8, text: String) -> Self {
        Self { text, exit_code: code.max(1) }
    }

    /// stdout takes nothing more.
    pub fn output(error: io::Error) -> Self {
        Self::new(format!("cannot write the output: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// What a reason code of MQTT 5 means to the person at the keyboard.
pub fn in_words(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::Success => "success",
        ReasonCode::GrantedQos1 => "granted QoS 1",
        ReasonCode::GrantedQos2 => "granted QoS 2",
        ReasonCode::DisconnectWithWill => "disconnect with will message",
        ReasonCode::NoMatchingSubscribers => "no matching subscribers",
        ReasonCode::NoSubscriptionExisted => "no such subscription",
        ReasonCode::ContinueAuthentication => "authentication goes on",
        ReasonCode::ReAuthenticate => "re-authenticate",
        ReasonCode::UnspecifiedError => "unspecified error",
        ReasonCode::MalformedPacket => "malformed packet",
        ReasonCode::ProtocolError => "protocol error",
        ReasonCode::ImplementationSpecificError => "implementation specific error",
        ReasonCode::UnsupportedProtocolVersion => "the broker does not speak this MQTT version",
        ReasonCode::ClientIdentifierNotValid => "client identifier not valid",
        ReasonCode::BadUserNameOrPassword => "bad user name or password",
        ReasonCode::NotAuthorized => "not authorized",
        ReasonCode::ServerUnavailable => "the broker is not available",
        ReasonCode::ServerBusy => "the broker is busy; try again later",
        ReasonCode::Banned => "this client is banned",
        ReasonCode::ServerShuttingDown => "the broker is shutting down",
        ReasonCode::BadAuthenticationMethod => "bad authentication method",
        ReasonCode::KeepAliveTimeout => "keep alive timeout",
        ReasonCode::SessionTakenOver => {
            "another client took the session over with the same identifier"
        }
        ReasonCode::TopicFilterInvalid => "topic filter invalid",
        ReasonCode::TopicNameInvalid => "topic name invalid",
        ReasonCode::PacketIdentifierInUse => "packet identifier in use",
        ReasonCode::PacketIdentifierNotFound => "packet identifier not found",
        ReasonCode::ReceiveMaximumExceeded => "receive maximum exceeded",
        ReasonCode::TopicAliasInvalid => "topic alias invalid",
        ReasonCode::PacketTooLarge => "packet too large",
        ReasonCode::MessageRateTooHigh => "message rate too high",
        ReasonCode::QuotaExceeded => "quota exceeded",
        ReasonCode::AdministrativeAction => "disconnected by an administrator",
        ReasonCode::PayloadFormatInvalid => "the payload is not of the format that it declares",
        ReasonCode::RetainNotSupported => "retained messages are not supported",
        ReasonCode::QosNotSupported => "this QoS is not supported",
        ReasonCode::UseAnotherServer => "use another server",
        ReasonCode::ServerMoved => "the server has moved",
        ReasonCode::SharedSubscriptionsNotSupported => "shared subscriptions are not supported",
        ReasonCode::ConnectionRateExceeded => "connection rate exceeded; try again later",
        ReasonCode::MaximumConnectTime => "maximum connect time reached",
        ReasonCode::SubscriptionIdentifiersNotSupported => {
            "subscription identifiers are not supported"
        }
        ReasonCode::WildcardSubscriptionsNotSupported => "wildcard subscriptions are not supported",
    }
}
