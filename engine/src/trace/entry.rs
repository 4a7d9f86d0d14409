//! One line of a recording: for people, and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use petrel_proto::ReasonCode;
use petrel_shard::{ConnId, Watchers, Whence};
use serde_json::{Map, Value as Json, json};

use crate::log::{Escaped, Timestamp};

/// Something that happened, as a recording holds it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When, in microseconds since the process began.
    pub(super) at_us: u64,
    pub(super) shard: u16,
    /// Which recordings want it.
    pub(super) to: Watchers,
    pub(super) conn: Option<ConnId>,
    pub(super) whence: Option<Whence>,
    pub(super) client_id: Option<String>,
    pub(super) topic: Option<String>,
    /// What happened: one of few words, which do not change.
    pub(super) event: &'static str,
    pub(super) fields: Vec<Field>,
}

/// A detail by its name, which does not change either.
pub(super) type Field = (&'static str, Value);

/// What a detail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Flag(bool),
    Word(&'static str),
    Text(String),
    List(Vec<String>),
    Numbers(Vec<u64>),
    Reason(ReasonCode),
    Reasons(Vec<ReasonCode>),
    /// The beginning of a payload.
    Payload(Vec<u8>),
}

/// What an entry is shown with.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// When the process began, since 1970.
    pub(super) begin: Duration,
    /// The names of the listeners.
    pub(super) listeners: &'a [String],
    /// Bytes of a payload that are shown.
    pub(super) payload_bytes: usize,
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) | Self::Flag(_) | Self::Word(_) | Self::Reason(_) => 0,
            Self::Text(text) => text.len(),
            Self::List(list) => list.iter().map(|text| text.len() + size_of::<String>()).sum(),
            Self::Numbers(numbers) => numbers.len() * size_of::<u64>(),
            Self::Reasons(reasons) => reasons.len(),
            Self::Payload(bytes) => bytes.len(),
        }
    }
}

impl Entry {
    /// The memory that it takes, about.
    pub(super) fn cost_bytes(&self) -> u64 {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let fields = self.fields.iter().map(|(_, value)| value.bytes() + size_of::<Field>());
        let own = size_of::<Self>() + text(&self.client_id) + text(&self.topic);
        (own + fields.sum::<usize>()) as u64
    }

    fn time(&self, view: &View<'_>) -> Duration {
        view.begin + Duration::from_micros(self.at_us)
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        match self.field(name) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.field(name) == Some(&Value::Flag(true))
    }

    /// One line for a person who knows MQTT, without its end.
    pub(super) fn text(&self, view: &View<'_>) -> String {
        let time = self.time(view);
        let stamp = Timestamp(time).to_string();
        let micros = time.subsec_micros() % 1000;
        let mut line = format!("{}{micros:03}Z shard {}", stamp.trim_end_matches('Z'), self.shard);
        if let Some(client_id) = &self.client_id {
            let _ = write!(line, " '{}'", Escaped(client_id.as_bytes()));
        }
        if let Some(Whence { address, listener }) = self.whence {
            match address.port() {
                0 => drop(write!(line, " ({}", address.ip())),
                _ => drop(write!(line, " ({address}")),
            }
            if let Some(listener) = view.listeners.get(usize::from(listener)) {
                let _ = write!(line, " at {}", Escaped(listener.as_bytes()));
            }
            line.push(')');
        }
        line.push(' ');
        self.say(&mut line, view);
        line
    }

    fn say(&self, line: &mut String, view: &View<'_>) {
        let topic = self.topic.as_ref().map(|topic| format!("'{}'", Escaped(topic.as_bytes())));
        match self.event {
            "packet_in" | "packet_out" => {
                let arrow = if self.event == "packet_in" { "->" } else { "<-" };
                let _ = write!(line, "{arrow}");
                let with_topic = self.field("packet") != Some(&Value::Word("PUBLISH"));
                self.say_fields(line, view);
                if let Some(topic) = topic.filter(|_| with_topic) {
                    let _ = write!(line, " (of {topic})");
                }
            }
            event => {
                let about = topic.map_or(String::new(), |topic| format!("{topic}: "));
                let _ = write!(line, "{about}{}", self.sentence(event));
            }
        }
    }

    /// All details, one behind the other.
    fn say_fields(&self, line: &mut String, view: &View<'_>) {
        for (name, value) in &self.fields {
            match (*name, value) {
                ("packet", Value::Word(kind)) => {
                    let _ = write!(line, " {kind}");
                    if *kind == "PUBLISH"
                        && let Some(topic) = &self.topic
                    {
                        let _ = write!(line, " '{}'", Escaped(topic.as_bytes()));
                    }
                }
                ("bytes", Value::Number(_)) => {}
                (name, value) => {
                    let _ = write!(line, " {name}={}", shown(value, view));
                }
            }
        }
    }

    fn sentence(&self, event: &str) -> String {
        let reason = || self.field("reason").map_or(String::new(), reason_words);
        let what = || match self.field("what") {
            Some(Value::Word(what)) if !what.is_empty() => format!(": {what}"),
            _ => String::new(),
        };
        let word = |name| match self.field(name) {
            Some(Value::Word(word)) => (*word).to_owned(),
            Some(Value::Text(text)) => format!("'{}'", Escaped(text.as_bytes())),
            _ => String::new(),
        };
        match event {
            "malformed" => format!("sends what is no good packet ({}){}", reason(), what()),
            "verified" if self.field("user").is_none() => "is let in as nobody".into(),
            "verified" => format!("is user {}", word("user")),
            "unverified" => format!("is not who it says ({})", reason()),
            "denied" => format!("is turned away ({}){}", reason(), what()),
            "held" => format!("is not read for a while: {}", word("why")),
            "connected" if self.flag("session_present") => "has its earlier session".into(),
            "connected" => "has a new session".into(),
            "right" => self.right(),
            "from_shard" => format!("comes from shard {}", self.number("from")),
            "routed" => self.routed(),
            "unmatched" => format!("no subscription matches{}", self.retained()),
            "refused" => format!("goes no further: {}", word("why")),
            "not_retained" => "is not retained: there are too many retained messages".into(),
            "own" => "is published by the broker itself, or by an operator".into(),
            "will" => "is published as the will".into(),
            "queued" => match self.number("waiting") {
                1 => "is queued, the only one that waits".into(),
                waiting => format!("is queued, one of {waiting} that wait"),
            },
            "queued_in_group" => format!("waits in the group {}", word("group")),
            "lent" => format!(
                "goes to a member of the group {}, on shard {}",
                word("group"),
                self.number("to_shard")
            ),
            "dropped" => match self.number("copies") {
                1 => format!("is dropped: {}", word("why")),
                copies => format!("{copies} messages are dropped: {}", word("why")),
            },
            "delivered" => "is delivered".into(),
            "ended" if self.field("by") == Some(&Value::Word("network")) => {
                "connection ended by the network".into()
            }
            "ended" => format!("connection ended by the {} ({}){}", word("by"), reason(), what()),
            "session_ended" => "session ended".into(),
            other => other.to_owned(),
        }
    }

    fn retained(&self) -> String {
        match self.field("retained_in") {
            Some(Value::Number(shard)) => format!("; to be retained in shard {shard}"),
            _ => String::new(),
        }
    }

    fn routed(&self) -> String {
        let shards: Vec<_> = match self.field("shards") {
            Some(Value::Numbers(shards)) => shards.iter().map(u64::to_string).collect(),
            _ => Vec::new(),
        };
        let word = if shards.len() == 1 { "shard" } else { "shards" };
        let others = shards.join(", ");
        let line = match (self.number("copies"), others.is_empty()) {
            (0, true) => "has no receiver in this shard".to_owned(),
            (0, false) => format!("goes to {word} {others}"),
            (copies, is_all) => {
                let receivers = if copies == 1 { "receiver" } else { "receivers" };
                let here = format!("goes to {copies} {receivers} in this shard");
                if is_all { here } else { format!("{here}, and to {word} {others}") }
            }
        };
        line + &self.retained()
    }

    fn right(&self) -> String {
        let action = match self.field("filter") {
            Some(Value::Text(filter)) => {
                format!("subscribe to '{}'", Escaped(filter.as_bytes()))
            }
            _ => "publish this".into(),
        };
        let by = |name| match self.field(name) {
            Some(Value::Number(rule)) => Some(format!("rule {rule}")),
            _ => None,
        };
        let why = match (self.flag("allowed"), by("denying_rule"), by("allowing_rule")) {
            _ if !self.flag("rules") && !self.flag("own_rights") => "there are no rules".into(),
            (true, _, Some(rule)) => format!("{rule} allows it"),
            (true, _, None) => "its own rights allow it".into(),
            (false, Some(rule), _) => format!("{rule} denies it"),
            (false, None, Some(rule)) => format!("{rule} allows it not with this QoS and RETAIN"),
            (false, None, None) => "no rule allows it".into(),
        };
        match (self.flag("allowed"), self.field("qos")) {
            (true, Some(Value::Number(qos))) if self.field("filter").is_some() => {
                format!("may {action} at QoS {qos} at most: {why}")
            }
            (true, _) => format!("may {action}: {why}"),
            (false, _) => format!("may not {action}: {why}"),
        }
    }

    /// One object.
    pub(super) fn json(&self, view: &View<'_>) -> Json {
        let time = self.time(view);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let stamp = Timestamp(time).to_string();
        let stamp = format!("{}{:03}Z", stamp.trim_end_matches('Z'), time.subsec_micros() % 1000);
        let mut all = Map::new();
        all.insert("time".into(), stamp.into());
        all.insert("time_us".into(), micros.into());
        all.insert("shard".into(), self.shard.into());
        all.insert("event".into(), self.event.into());
        let mut add = |name: &str, value: Json| drop(all.insert(name.into(), value));
        if let Some(conn) = self.conn {
            add("connection", format!("{}.{}", conn.index, conn.generation).into());
        }
        if let Some(client_id) = &self.client_id {
            add("client_id", client_id.as_str().into());
        }
        if let Some(Whence { address, listener }) = self.whence {
            add("address", address.ip().to_string().into());
            if address.port() > 0 {
                add("port", address.port().into());
            }
            if let Some(listener) = view.listeners.get(usize::from(listener)) {
                add("listener", listener.as_str().into());
            }
        }
        if let Some(topic) = &self.topic {
            add("topic", topic.as_str().into());
        }
        for (name, value) in &self.fields {
            match value {
                Value::Number(number) => add(name, (*number).into()),
                Value::Flag(flag) => add(name, (*flag).into()),
                Value::Word(word) => add(name, (*word).into()),
                Value::Text(text) => add(name, text.as_str().into()),
                Value::List(list) => add(name, list.as_slice().into()),
                Value::Numbers(numbers) => add(name, numbers.as_slice().into()),
                Value::Reason(reason) => {
                    add(name, format!("{reason:?}").into());
                    add("reason_code", (*reason as u8).into());
                }
                Value::Reasons(reasons) => {
                    let names: Vec<_> = reasons.iter().map(|it| format!("{it:?}")).collect();
                    add(name, names.into());
                    add(
                        "reason_codes",
                        json!(reasons.iter().map(|it| *it as u8).collect::<Vec<_>>()),
                    );
                }
                Value::Payload(bytes) => {
                    let bytes = &bytes[..bytes.len().min(view.payload_bytes)];
                    add(name, printable(bytes).into());
                }
            }
        }
        Json::Object(all)
    }
}

fn reason_words(value: &Value) -> String {
    match value {
        Value::Reason(reason) => format!("0x{:02x} {reason:?}", *reason as u8),
        _ => String::new(),
    }
}

fn shown(value: &Value, view: &View<'_>) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Word(word) => (*word).to_owned(),
        Value::Text(text) => format!("'{}'", Escaped(text.as_bytes())),
        Value::List(list) => {
            let each: Vec<_> =
                list.iter().map(|text| format!("'{}'", Escaped(text.as_bytes()))).collect();
            format!("[{}]", each.join(", "))
        }
        Value::Numbers(numbers) => {
            let each: Vec<_> = numbers.iter().map(u64::to_string).collect();
            format!("[{}]", each.join(", "))
        }
        Value::Reason(_) => reason_words(value),
        Value::Reasons(reasons) => {
            let each: Vec<_> = reasons.iter().map(|it| reason_words(&Value::Reason(*it))).collect();
            format!("[{}]", each.join(", "))
        }
        Value::Payload(bytes) => {
            format!("'{}'", printable(&bytes[..bytes.len().min(view.payload_bytes)]))
        }
    }
}

/// Bytes as text; what is none, or moves a cursor, as escapes. A character that was cut in two is left out.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        chunk.valid().chars().for_each(|char| text.extend(char.escape_debug()));
        let is_cut = chunks.peek().is_none()
            && std::str::from_utf8(chunk.invalid()).is_err_and(|it| it.error_len().is_none());
        for byte in chunk.invalid().iter().filter(|_| !is_cut) {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
