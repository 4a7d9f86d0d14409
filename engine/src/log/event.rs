//! Everything that a line may say has happened: its name, its area, and what is said of it beside the sentence.
//!
//! `docs/operate/LOG.md` is held against this table by a test, and in debug builds every line that is written.

use super::{Area, Level};

/// Whether clients decide how often something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caused {
    /// They do: so many lines a second, and the others are counted.
    ByClients,
    /// They do not.
    ByUs,
}

use Caused::{ByClients, ByUs};
use Level::{Error, Info, Warn};

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident $name:literal $area:ident $caused:ident [$($level:ident)+] [$($field:literal)*];)+) => {
        /// What has happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Event {
            $($(#[$doc])* $event,)+
        }

        impl Event {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$event,)+];

            /// How many there are.
            pub(super) const NUMBERS: usize = Self::ALL.len();

            /// Its name in lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$event => $name,)+ }
            }

            /// What it is about.
            #[must_use]
            pub const fn area(self) -> Area {
                match self { $(Self::$event => Area::$area,)+ }
            }

            /// How much it may matter.
            #[must_use]
            pub const fn levels(self) -> &'static [Level] {
                match self { $(Self::$event => &[$($level,)+],)+ }
            }

            /// What may be said of it, in order.
            #[must_use]
            pub const fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$event => &[$($field,)*],)+ }
            }

            /// Whether clients decide how often it happens, so that only so many lines of it are written.
            #[must_use]
            pub const fn is_limited(self) -> bool {
                matches!(match self { $(Self::$event => $caused,)+ }, ByClients)
            }
        }
    };
}

events! {
    /// Petrel serves.
    BrokerReady "broker_ready" Broker ByUs [Info] ["shards" "runtime"];
    /// Petrel begins to stop.
    BrokerStopping "broker_stopping" Broker ByUs [Info] [];
    /// It has stopped.
    BrokerStopped "broker_stopped" Broker ByUs [Info] [];
    /// It ends without success.
    BrokerFailed "broker_failed" Broker ByUs [Error] [];
    /// The configuration was read again, or could not be.
    ConfigurationReloaded "configuration_reloaded" Broker ByUs [Info Error] [];
    /// What has been counted, for SIGUSR1 and at the end.
    Figures "figures" Broker ByUs [Info Warn] [];
    /// What has no name of its own.
    Note "note" Broker ByUs [Info Warn Error] [];
    /// Lines that were not written, since there were too many of their kind.
    LinesLeftOut "lines_left_out" Broker ByUs [Warn] ["of_area" "of_event" "count" "seconds"];

    /// A client is in.
    ClientConnected "client_connected" Clients ByClients [Info]
        ["client_id" "shard" "version" "listener" "address" "user" "session_present" "keep_alive_s"];
    /// A client's connection has ended.
    ClientDisconnected "client_disconnected" Clients ByClients [Info Warn]
        ["client_id" "shard" "origin" "reason" "what" "listener" "address" "duration_ms" "bytes_received" "bytes_sent"];
    /// A client may not come in.
    ClientRefused "client_refused" Clients ByClients [Info Warn]
        ["client_id" "shard" "reason" "what" "listener" "address"];
    /// A client has come a second time, which ends its first connection.
    SessionTakenOver "session_taken_over" Clients ByClients [Warn]
        ["client_id" "shard" "address" "new_address"];
    /// The session of a client that is away has ended.
    SessionEnded "session_ended" Clients ByClients [Info] ["client_id" "shard" "what"];
    /// A client has lost a subscription, since it may not have it.
    SubscriptionRevoked "subscription_revoked" Clients ByClients [Warn] ["client_id" "shard" "filter"];
    /// The broker has banned somebody by itself.
    Banned "banned" Clients ByClients [Warn] ["client_id" "shard" "address"];

    /// A client has proved who it is.
    AuthenticationAccepted "authentication_accepted" Authentication ByClients [Info]
        ["client_id" "shard" "user" "authenticator" "known" "latency_ms" "listener" "address" "why"];
    /// A client has not, or whom it has proved to be may not come.
    AuthenticationRefused "authentication_refused" Authentication ByClients [Warn]
        ["client_id" "shard" "user" "authenticator" "known" "latency_ms" "listener" "address" "reason" "why"];
    /// What authenticators have to say of themselves.
    Authenticator "authenticator" Authentication ByUs [Info Warn] [];

    /// A client does not get a message, or may not publish one: one of many.
    MessageDropped "message_dropped" Messages ByClients [Info]
        ["client_id" "shard" "topic" "reason" "count" "left_out"];
    /// How many messages were dropped lately.
    MessagesDropped "messages_dropped" Messages ByUs [Warn] ["shard" "count" "reasons" "seconds"];

    /// A listener is open.
    ListenerOpened "listener_opened" Listeners ByUs [Info] ["listener" "protocol" "address"];
    /// A listener that lets nobody in.
    ListenerUseless "listener_useless" Listeners ByUs [Warn] ["listener" "address"];
    /// Certificates, as they are read.
    Certificates "certificates" Listeners ByUs [Info Warn Error] [];
    /// A connection has ended before it had a client identifier.
    ConnectionRefused "connection_refused" Listeners ByClients [Warn] ["shard" "address" "reason" "what"];
    /// A client's certificate is no good.
    HandshakeRefused "handshake_refused" Listeners ByClients [Warn] ["shard" "address" "what"];
    /// Connections that were refused for where they come from.
    ConnectionsRefused "connections_refused" Listeners ByUs [Warn] ["shard" "count" "why" "seconds"];
    /// A connection was lost on its way to its shard.
    ConnectionLost "connection_lost" Listeners ByClients [Warn] ["shard"];
    /// Connections cannot be accepted.
    AcceptFailed "accept_failed" Listeners ByClients [Warn] ["shard" "what"];
    /// How often that has gone on.
    AcceptsFailed "accepts_failed" Listeners ByUs [Warn] ["shard" "count" "seconds"];

    /// The storage, when it is opened, fails, has no room, or works again.
    Storage "storage" Storage ByUs [Info Warn Error] ["lane"];

    /// A shard has more to do, or less.
    LoadLevelChanged "load_level_changed" Load ByClients [Warn] ["shard" "load_level" "why"];
    /// A shard was forgotten by what runs it.
    ShardStalled "shard_stalled" Load ByUs [Error] ["shard"];

    /// The admin interface.
    AdminInterface "admin_interface" Admin ByUs [Info Warn Error] ["address"];
    /// An operator asks for something.
    OperatorAsked "operator_asked" Admin ByUs [Info] ["operator" "address" "request" "status"];
    /// An operator is told that it does not work.
    OperatorRefused "operator_refused" Admin ByUs [Warn] ["address" "what" "count"];
    /// The file of bans is not as it should be.
    BansDamaged "bans_damaged" Admin ByUs [Error] [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_event_s_each_and_say_who_a_line_is_about_first() {
        for (at, event) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, at);
            assert!(
                !Event::ALL[..at].iter().any(|other| other.name() == event.name()),
                "{event:?}"
            );
            let client = event.fields().iter().position(|field| *field == "client_id");
            assert!(client.is_none_or(|at| at == 0), "{event:?}");
            let taken = ["time", "level", "area", "event", "message"];
            assert!(!event.fields().iter().any(|field| taken.contains(field)), "{event:?}");
        }
    }
}
