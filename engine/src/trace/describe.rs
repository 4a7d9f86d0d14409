//! From what a shard says to an entry of a recording, in memory of its own.
//!
//! What proves who a client is goes into none: of passwords and authentication data it is said that they were there.

use petrel_proto::{
    Ack, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, MessageProperties,
    Packet, Publish, PublishProperties, Qos, ReasonCode, ReasonProperties, RetainHandling,
    Subscribe, SubscribeFilter, Text, UserProperties, Version,
};
use petrel_shard::look::Rights;
use petrel_shard::{EndedBy, Traced, What};

use super::entry::{Entry, Field, Value};

/// Entries of lists that are shown.
const LISTED_MAX: usize = 64;

/// Describes what a shard has said.
pub(super) fn describe(traced: Traced, at_us: u64, shard: u16, payload_bytes: usize) -> Entry {
    let Traced { to, conn, whence, client_id, topic, what } = traced;
    let (event, fields) = event_of(what, payload_bytes);
    let text = |text: Text| text.as_str().to_owned();
    Entry {
        at_us,
        shard,
        to,
        conn,
        whence,
        client_id: client_id.map(text),
        topic: topic.map(text),
        event,
        fields,
    }
}

fn event_of(what: What, payload_bytes: usize) -> (&'static str, Vec<Field>) {
    let mut all = Fields { fields: Vec::new(), payload_bytes };
    let event = match what {
        What::Came(packet) => {
            all.packet(&packet);
            "packet_in"
        }
        What::Sent { packet, bytes } => {
            all.packet(&packet);
            all.number("bytes", bytes as u64);
            "packet_out"
        }
        What::Malformed { reason, what } => {
            all.reason(reason);
            all.word("what", what);
            "malformed"
        }
        What::Verified { user } => {
            all.maybe_text("user", user.as_ref());
            "verified"
        }
        What::Unverified { reason } => {
            all.reason(reason);
            "unverified"
        }
        What::Connected { session_present } => {
            all.flag("session_present", session_present);
            "connected"
        }
        What::Right { filter, allowed, rights } => {
            all.right(filter.as_ref().map(|filter| filter.text()), allowed, rights);
            "right"
        }
        What::FromShard(from) => {
            all.number("from", from.0.into());
            "from_shard"
        }
        What::Routed { copies, shards, retained_in } => {
            all.number("copies", copies);
            let shards = shards.into_iter().map(u64::from).collect();
            all.add("shards", Value::Numbers(shards));
            all.maybe_number("retained_in", retained_in);
            "routed"
        }
        What::Unmatched { retained_in } => {
            all.maybe_number("retained_in", retained_in);
            "unmatched"
        }
        What::Refused(why) => {
            all.word("why", why.words());
            "refused"
        }
        What::NotRetained => "not_retained",
        What::Own => "own",
        What::Will => "will",
        What::Queued(waiting) => {
            all.number("waiting", waiting);
            "queued"
        }
        What::QueuedInGroup { group } => {
            all.add("group", Value::Text(group));
            "queued_in_group"
        }
        What::Lent { group, shard } => {
            all.add("group", Value::Text(group));
            all.number("to_shard", shard.0.into());
            "lent"
        }
        What::Dropped { reason, copies } => {
            all.word("why", reason.words());
            all.number("copies", copies);
            "dropped"
        }
        What::Delivered => "delivered",
        What::Ended { by, reason, what } => {
            all.word("by", ended_by(by));
            all.reason(reason);
            all.word("what", what);
            "ended"
        }
        What::SessionEnded => "session_ended",
    };
    (event, all.fields)
}

const fn ended_by(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Client => "client",
        EndedBy::Broker => "broker",
        EndedBy::Admin => "admin",
        EndedBy::Network => "network",
    }
}

/// Details as they are collected.
pub(super) struct Fields {
    pub(super) fields: Vec<Field>,
    payload_bytes: usize,
}

impl Fields {
    pub(super) const fn new() -> Self {
        Self { fields: Vec::new(), payload_bytes: 0 }
    }

    fn add(&mut self, name: &'static str, value: Value) {
        self.fields.push((name, value));
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.add(name, Value::Number(number));
    }

    fn maybe_number(&mut self, name: &'static str, number: Option<impl Into<u64>>) {
        if let Some(number) = number {
            self.number(name, number.into());
        }
    }

    fn flag(&mut self, name: &'static str, flag: bool) {
        self.add(name, Value::Flag(flag));
    }

    /// A flag that is said only if it is set.
    fn set(&mut self, name: &'static str, flag: bool) {
        if flag {
            self.flag(name, true);
        }
    }

    fn maybe_flag(&mut self, name: &'static str, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.flag(name, flag);
        }
    }

    pub(super) fn word(&mut self, name: &'static str, word: &'static str) {
        if !word.is_empty() {
            self.add(name, Value::Word(word));
        }
    }

    fn text(&mut self, name: &'static str, text: &Text) {
        self.add(name, Value::Text(text.as_str().to_owned()));
    }

    fn maybe_text(&mut self, name: &'static str, text: Option<&Text>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(super) fn reason(&mut self, reason: ReasonCode) {
        self.add("reason", Value::Reason(reason));
    }

    fn user_properties(&mut self, properties: &UserProperties) {
        if !properties.is_empty() {
            let each = properties.iter().take(LISTED_MAX);
            let each = each.map(|(name, value)| format!("{name}={value}")).collect();
            self.add("user_properties", Value::List(each));
        }
    }

    fn payload(&mut self, payload: &[u8]) {
        self.number("payload_bytes", payload.len() as u64);
        if self.payload_bytes > 0 && !payload.is_empty() {
            let shown = payload.len().min(self.payload_bytes);
            self.add("payload", Value::Payload(payload[..shown].to_vec()));
        }
    }

    fn packet(&mut self, packet: &Packet) {
        match packet {
            Packet::Connect(connect) => self.connect(connect),
            Packet::ConnAck(connack) => self.connack(connack),
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubAck(ack) => self.ack("PUBACK", ack),
            Packet::PubRec(ack) => self.ack("PUBREC", ack),
            Packet::PubRel(ack) => self.ack("PUBREL", ack),
            Packet::PubComp(ack) => self.ack("PUBCOMP", ack),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.word("packet", "UNSUBSCRIBE");
                self.number("packet_id", unsubscribe.packet_id.get().into());
                let filters = unsubscribe.filters.iter().take(LISTED_MAX);
                let filters = filters.map(|filter| filter.text().as_str().to_owned()).collect();
                self.add("filters", Value::List(filters));
                self.user_properties(&unsubscribe.user_properties);
            }
            Packet::SubAck(suback) | Packet::UnsubAck(suback) => {
                let is_suback = matches!(packet, Packet::SubAck(_));
                self.word("packet", if is_suback { "SUBACK" } else { "UNSUBACK" });
                self.number("packet_id", suback.packet_id.get().into());
                let reasons = suback.reasons.iter().take(LISTED_MAX).copied().collect();
                self.add("reasons", Value::Reasons(reasons));
                self.reason_properties(&suback.properties);
            }
            Packet::PingReq => self.word("packet", "PINGREQ"),
            Packet::PingResp => self.word("packet", "PINGRESP"),
            Packet::Disconnect(disconnect) => self.disconnect(disconnect),
            Packet::Auth(auth) => {
                self.word("packet", "AUTH");
                self.reason(auth.reason);
                self.maybe_text("authentication_method", auth.method.as_ref());
                self.set("authentication_data", auth.data.is_some());
                self.reason_properties(&auth.properties);
            }
        }
    }

    fn connect(&mut self, connect: &Connect) {
        let Connect { version, clean_start, keep_alive_s, client_id, will, .. } = connect;
        self.word("packet", "CONNECT");
        let version = match version {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5",
        };
        self.word("version", version);
        self.text("asks_to_be", client_id);
        self.flag("clean_start", *clean_start);
        self.number("keep_alive_s", (*keep_alive_s).into());
        self.maybe_text("user_name", connect.username.as_ref());
        self.set("password", connect.password.is_some());
        if let Some(will) = will {
            self.text("will_topic", will.topic.text());
            self.number("will_qos", will.qos as u64);
            self.set("will_retain", will.retain);
            self.number("will_bytes", will.payload.len() as u64);
            self.maybe_number("will_delay_s", will.delay_interval_s);
        }
        let ConnectProperties {
            session_expiry_interval_s,
            receive_maximum,
            maximum_packet_size,
            topic_alias_maximum,
            request_response_information: _,
            request_problem_information: _,
            user_properties,
            authentication_method,
            authentication_data,
        } = &connect.properties;
        self.maybe_number("session_expiry_s", *session_expiry_interval_s);
        self.maybe_number("receive_maximum", *receive_maximum);
        self.maybe_number("maximum_packet_size", *maximum_packet_size);
        self.maybe_number("topic_alias_maximum", *topic_alias_maximum);
        self.maybe_text("authentication_method", authentication_method.as_ref());
        self.set("authentication_data", authentication_data.is_some());
        self.user_properties(user_properties);
    }

    fn connack(&mut self, connack: &ConnAck) {
        self.word("packet", "CONNACK");
        self.flag("session_present", connack.session_present);
        self.reason(connack.reason);
        let ConnAckProperties {
            session_expiry_interval_s,
            receive_maximum,
            maximum_qos,
            retain_available,
            maximum_packet_size,
            assigned_client_id,
            topic_alias_maximum,
            reason_string,
            user_properties,
            server_keep_alive_s,
            ..
        } = &connack.properties;
        self.maybe_number("session_expiry_s", *session_expiry_interval_s);
        self.maybe_number("receive_maximum", *receive_maximum);
        self.maybe_number("maximum_qos", maximum_qos.map(|qos| qos as u8));
        self.maybe_flag("retain_available", *retain_available);
        self.maybe_number("maximum_packet_size", *maximum_packet_size);
        self.maybe_text("assigned_client_id", assigned_client_id.as_ref());
        self.maybe_number("topic_alias_maximum", *topic_alias_maximum);
        self.maybe_number("server_keep_alive_s", *server_keep_alive_s);
        self.maybe_text("reason_string", reason_string.as_ref());
        self.user_properties(user_properties);
    }

    fn publish(&mut self, publish: &Publish) {
        self.word("packet", "PUBLISH");
        self.maybe_number("packet_id", publish.packet_id.map(|id| id.get()));
        self.number("qos", publish.qos as u64);
        self.set("retain", publish.retain);
        self.set("dup", publish.dup);
        let PublishProperties {
            message_expiry_interval_s,
            topic_alias,
            subscription_identifiers,
            message,
        } = &publish.properties;
        self.maybe_number("topic_alias", *topic_alias);
        self.maybe_number("message_expiry_s", *message_expiry_interval_s);
        if !subscription_identifiers.is_empty() {
            let all = subscription_identifiers.iter().take(LISTED_MAX);
            let all = all.map(|&identifier| u64::from(identifier)).collect();
            self.add("subscription_identifiers", Value::Numbers(all));
        }
        self.message_properties(message);
        self.payload(&publish.payload);
    }

    fn message_properties(&mut self, properties: &MessageProperties) {
        if properties.is_empty() {
            return;
        }
        let fields = properties.fields();
        self.maybe_text("content_type", fields.content_type.as_ref());
        self.maybe_text("response_topic", fields.response_topic.as_ref());
        let correlation = fields.correlation_data.as_ref().map(|data| data.len() as u64);
        self.maybe_number("correlation_data_bytes", correlation);
        self.user_properties(&fields.user_properties);
    }

    fn ack(&mut self, kind: &'static str, ack: &Ack) {
        self.word("packet", kind);
        self.number("packet_id", ack.packet_id.get().into());
        self.reason(ack.reason);
        self.reason_properties(&ack.properties);
    }

    fn reason_properties(&mut self, properties: &ReasonProperties) {
        self.maybe_text("reason_string", properties.reason_string.as_ref());
        self.user_properties(&properties.user_properties);
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        self.word("packet", "SUBSCRIBE");
        self.number("packet_id", subscribe.packet_id.get().into());
        self.maybe_number("subscription_identifier", subscribe.subscription_identifier);
        let filters = subscribe.filters.iter().take(LISTED_MAX).map(asked).collect();
        self.add("filters", Value::List(filters));
        self.user_properties(&subscribe.user_properties);
    }

    fn disconnect(&mut self, disconnect: &Disconnect) {
        self.word("packet", "DISCONNECT");
        self.reason(disconnect.reason);
        self.maybe_number("session_expiry_s", disconnect.session_expiry_interval_s);
        self.maybe_text("server_reference", disconnect.server_reference.as_ref());
        self.reason_properties(&disconnect.properties);
    }

    fn right(&mut self, filter: Option<&Text>, allowed: Option<Qos>, rights: Rights) {
        let rules = match filter {
            Some(_) => rights.subscribe_rules,
            None => rights.publish_rules,
        };
        self.maybe_text("filter", filter);
        self.flag("allowed", allowed.is_some());
        self.maybe_number("qos", allowed.map(|qos| qos as u8));
        self.flag("rules", rights.are_rules);
        self.set("own_rights", rights.has_own);
        // As an operator counts the rules of the file.
        self.maybe_number("allowing_rule", rules.allowing.map(|rule| rule + 1));
        self.maybe_number("denying_rule", rules.denying.map(|rule| rule + 1));
    }
}

/// A filter with what is asked for beside it.
fn asked(asked: &SubscribeFilter) -> String {
    let options = &asked.options;
    let mut text = format!("{} qos={}", asked.filter.text().as_str(), options.qos as u8);
    for (is_set, word) in [
        (options.no_local, " no_local"),
        (options.retain_as_published, " retain_as_published"),
        (options.retain_handling == RetainHandling::SendIfNew, " retained_if_new"),
        (options.retain_handling == RetainHandling::DoNotSend, " no_retained"),
    ] {
        text.push_str(if is_set { word } else { "" });
    }
    text
}
