//! Says what an input was and what came of it, around its handling.

use bytes::{BufMut as _, BytesMut};
use petrel_proto::{Packet, Publish, Qos, ReasonCode, SharedHead, Subscribe, Text, TopicFilter};
use smallvec::SmallVec;

use super::{Note, Noted, TRACED_PER_INPUT_MAX, Traced, What, topic_text};
use crate::event::Event;
use crate::ledger::Ledger;
use crate::look::Rights;
use crate::peer::PeerMessage;
use crate::shard::Turn;
use crate::watch::{Exchange, Followed, Step, Watchers, Watching};
use crate::{ConnId, Input, Now, Outbox, Passed, Shard, ShardIndex, Verdict, Write};

/// What an input is about.
enum About {
    Nothing,
    /// A message that its client publishes, or that another shard has passed on.
    Message {
        conn: Option<ConnId>,
        to: Watchers,
        topic: Text,
        /// The shard that is to retain it, if one is.
        retained_in: Option<u16>,
        right: Option<(Option<Qos>, Rights)>,
    },
    /// An acknowledgement.
    Ack {
        conn: ConnId,
        to: Watchers,
        topic: Option<Text>,
    },
}

/// How the outbox stood before an input.
struct Before {
    writes: usize,
    peers: usize,
    events: usize,
    traced: usize,
    ledger: Ledger,
    about: About,
}

impl Shard {
    /// Handles an input and says what it was and what came of it.
    #[cold]
    #[inline(never)]
    pub(crate) fn handle_watched(&mut self, now: Now, input: Input, out: &mut Outbox) {
        let mut before = Before::of(out);
        before.about = self.say_input(&input, out);
        self.run_watched(before, out, |shard, out| shard.handle(now, input, out));
    }

    /// The same of a message that another shard has passed on.
    #[cold]
    #[inline(never)]
    pub(crate) fn handle_passed_watched(
        &mut self,
        now: Now,
        from: ShardIndex,
        message: &Passed<'_>,
        out: &mut Outbox,
    ) {
        let mut before = Before::of(out);
        before.about = self.say_passed(out, from, message.topic, message.publisher());
        self.run_watched(before, out, |shard, out| shard.handle_passed(now, from, message, out));
    }

    /// The same of a message that no client has sent.
    #[cold]
    #[inline(never)]
    pub(crate) fn publish_own_watched(
        &mut self,
        now: Now,
        publish: Publish,
        out: &mut Outbox,
    ) -> ReasonCode {
        let mut before = Before::of(out);
        before.about = self.say_own(out, &publish);
        let mut reason = ReasonCode::Success;
        self.run_watched(before, out, |shard, out| reason = shard.publish_own(now, publish, out));
        reason
    }

    fn run_watched(
        &mut self,
        before: Before,
        out: &mut Outbox,
        run: impl FnOnce(&mut Self, &mut Outbox),
    ) {
        self.is_watched = false;
        out.notes.0 = Some(Noted { said_before: before.traced, ..Noted::default() });
        run(self, out);
        // The input may have been the end of it.
        self.is_watched = self.watching.is_some();
        if self.is_watched {
            self.say_outcome(before, out);
        }
        out.notes.0 = None;
    }

    /// Says what an input is.
    fn say_input(&mut self, input: &Input, out: &mut Outbox) -> About {
        match input {
            Input::Connect { conn, connect, origin } => {
                let Some(watching) = &mut self.watching else { return About::Nothing };
                let to = watching.comes(*conn, connect, origin);
                if !to.is_none() {
                    self.say(
                        out,
                        *conn,
                        to,
                        None,
                        What::Came(Box::new(Packet::Connect(connect.clone()))),
                    );
                }
                About::Nothing
            }
            Input::Packet { conn, packet } => self.say_packet(out, *conn, packet),
            Input::Violation { conn, error } => {
                let to = self.watchers_of_conn(*conn);
                let what = What::Malformed { reason: error.reason, what: error.what };
                self.say(out, *conn, to, None, what);
                About::Nothing
            }
            Input::Verdict { conn, verdict } => {
                let to = self.watchers_of_conn(*conn);
                match verdict {
                    Verdict::Continue { .. } => {}
                    Verdict::Accept { identity, .. } => {
                        let user = identity.as_deref().map(|identity| identity.user.clone());
                        self.say(out, *conn, to, None, What::Verified { user });
                    }
                    Verdict::Refuse { reason } => {
                        self.say(out, *conn, to, None, What::Unverified { reason: *reason });
                    }
                }
                About::Nothing
            }
            Input::Closed { conn } | Input::Kick { conn, .. } | Input::Flushed { conn, .. } => {
                self.watchers_of_conn(*conn);
                About::Nothing
            }
            Input::Peer { from, message } => self.say_peer(out, *from, message),
            Input::Publish(publish) => self.say_own(out, publish),
            _ => About::Nothing,
        }
    }

    fn say_packet(&mut self, out: &mut Outbox, conn: ConnId, packet: &Packet) -> About {
        let Some(connection) = self.connection(conn) else { return About::Nothing };
        let session = Some(connection.session).filter(|_| connection.is_live());
        let own = self.watchers_of_conn(conn);
        let Some(watching) = self.watching.as_deref() else { return About::Nothing };
        let exchange = Exchange::of(conn, packet, true);
        let followed = exchange.and_then(|(exchange, step)| {
            watching.exchanges.get(&exchange).filter(|_| step != Step::First)
        });
        let (to, topic) = match packet {
            Packet::Publish(publish) => {
                let topic = self.topic_of(conn, publish);
                (own.or(watching.of_topic(topic.as_bytes())), Some(topic))
            }
            Packet::Subscribe(subscribe) => (own.or(of_filters(watching, subscribe)), None),
            _ => match followed {
                Some(followed) => (own.or(followed.to), followed.topic.clone()),
                None => (own, None),
            },
        };
        if to.is_none() {
            return About::Nothing;
        }
        self.say(out, conn, to, topic.clone(), What::Came(Box::new(packet.clone())));
        self.follow(exchange, to, topic.as_ref());
        match packet {
            Packet::Publish(publish) => {
                let topic = topic.unwrap_or_default();
                let rights = session.and_then(|index| self.rights_of(index, topic.as_str()));
                let right = rights.map(|rights| {
                    let may = rights.publish.allows(publish.qos, publish.retain);
                    (may.then_some(publish.qos), rights)
                });
                let retained_in =
                    publish.retain.then(|| self.config.slots.home_of(topic.as_bytes()).0);
                About::Message { conn: Some(conn), to, topic, retained_in, right }
            }
            Packet::Subscribe(subscribe) => {
                for asked in subscribe.filters.iter().take(TRACED_PER_INPUT_MAX) {
                    self.say_right_to(out, conn, to, session, &asked.filter);
                }
                out.untraced += subscribe.filters.len().saturating_sub(TRACED_PER_INPUT_MAX) as u64;
                About::Nothing
            }
            Packet::PubAck(_) | Packet::PubRec(_) => About::Ack { conn, to, topic },
            _ => About::Nothing,
        }
    }

    /// Says whether a client may subscribe.
    fn say_right_to(
        &mut self,
        out: &mut Outbox,
        conn: ConnId,
        to: Watchers,
        session: Option<u32>,
        filter: &TopicFilter,
    ) {
        let shared = filter.shared();
        let plain = shared.as_ref().map_or(filter, |shared| &shared.filter);
        let rights = session.and_then(|index| self.rights_of(index, plain.text().as_str()));
        let Some(rights) = rights else { return };
        let filter = Some(crate::subscribe::own_filter(filter));
        let what = What::Right { filter, allowed: rights.subscribe, rights };
        self.say(out, conn, to, None, what);
    }

    /// The topic name that a packet means.
    fn topic_of(&self, conn: ConnId, publish: &Publish) -> Text {
        if publish.topic.as_bytes().is_empty()
            && let Some(alias) = publish.properties.topic_alias
        {
            let extras = self.connection(conn).and_then(|connection| connection.extras());
            let aliases = extras.map_or(&[][..], |extras| &extras.incoming_aliases);
            let known = aliases.get(usize::from(alias).wrapping_sub(1));
            return known.map_or(Text::EMPTY, |topic| topic.text().clone());
        }
        publish.topic.text().to_owned_text()
    }

    fn follow(&mut self, exchange: Option<(Exchange, Step)>, to: Watchers, topic: Option<&Text>) {
        let (Some(watching), Some((exchange, step))) = (&mut self.watching, exchange) else {
            return;
        };
        match step {
            Step::First => {
                watching.follow(exchange, Followed { to, topic: topic.cloned() });
            }
            Step::Between => {}
            Step::Last => {
                watching.exchanges.remove(&exchange);
            }
        }
    }

    fn say_peer(&mut self, out: &mut Outbox, from: ShardIndex, message: &PeerMessage) -> About {
        match message {
            PeerMessage::Passed(message) => {
                self.say_passed(out, from, message.topic.as_bytes(), message.publisher)
            }
            PeerMessage::Publish(message) | PeerMessage::PublishOnce(message, _) => {
                self.say_passed(out, from, message.topic.as_bytes(), message.publisher)
            }
            _ => About::Nothing,
        }
    }

    fn say_passed(
        &mut self,
        out: &mut Outbox,
        from: ShardIndex,
        topic: &[u8],
        publisher: u64,
    ) -> About {
        let Some(watching) = self.watching.as_deref() else { return About::Nothing };
        let to = watching.of_topic(topic).or(watching.of_publisher(publisher));
        self.say_message(out, to, topic_text(topic), None, What::FromShard(from))
    }

    fn say_own(&mut self, out: &mut Outbox, publish: &Publish) -> About {
        let Some(watching) = self.watching.as_deref() else { return About::Nothing };
        let topic = publish.topic.as_bytes();
        let to = watching.of_topic(topic);
        let retained_in = publish.retain.then(|| self.config.slots.home_of(topic).0);
        self.say_message(out, to, topic_text(topic), retained_in, What::Own)
    }

    /// Says where a message comes from that no client of this shard has sent.
    fn say_message(
        &mut self,
        out: &mut Outbox,
        to: Watchers,
        topic: Text,
        retained_in: Option<u16>,
        what: What,
    ) -> About {
        if to.is_none() {
            return About::Nothing;
        }
        let (conn, whence, client_id) = (None, None, None);
        let said = Some(topic.clone());
        out.traced.push(Traced { to, conn, whence, client_id, topic: said, what });
        About::Message { conn, to, topic, retained_in, right: None }
    }

    /// Says what has come of an input.
    fn say_outcome(&mut self, before: Before, out: &mut Outbox) {
        self.note_connected(&before, out);
        self.say_routed(&before, out);
        self.take_notes(out);
        self.say_writes(&before, out);
        for at in before.events..out.events.len() {
            if let Event::Disconnected { conn, client_id, by, reason, what } = &out.events[at] {
                let Some(watching) = self.watching.as_deref_mut() else { return };
                let to = watching.found(*conn).map_or(Watchers::NONE, |(to, _)| to);
                let known = watching.known(*conn).and_then(|known| known.whence);
                let what = What::Ended { by: *by, reason: *reason, what };
                let (conn, client_id) = (*conn, Some(client_id.clone()));
                watching.forget(conn);
                let (conn, whence, topic) = (Some(conn), known, None);
                say_within(out, Traced { to, conn, whence, client_id, topic, what });
            } else if let Event::Refused { conn, .. } = &out.events[at]
                && let Some(watching) = &mut self.watching
            {
                watching.forget(*conn);
            }
        }
    }

    /// Whoever has its session now is known by that.
    fn note_connected(&mut self, before: &Before, out: &mut Outbox) {
        for at in before.events..out.events.len() {
            let Event::Connected { conn, client_id, session_present, .. } = &out.events[at] else {
                continue;
            };
            let (conn, client_id) = (*conn, client_id.clone());
            let what = What::Connected { session_present: *session_present };
            let Some(session) = self.session_of(conn) else { continue };
            let own = self.watchers_by_standing(session);
            if let Some(watching) = &mut self.watching {
                watching.has_session(conn, session, own, &client_id);
            }
            let to = self.watchers_of_conn(conn);
            self.say(out, conn, to, None, what);
        }
    }

    fn say_routed(&mut self, before: &Before, out: &mut Outbox) {
        let ledger = &out.ledger;
        let received = |ledger: &Ledger| ledger.received.iter().sum::<u64>();
        match &before.about {
            About::Nothing => {}
            About::Message { conn, to, topic, retained_in, right } => {
                let was_looked_at = conn.is_none() || received(ledger) > received(&before.ledger);
                let is_unmatched = ledger.unmatched > before.ledger.unmatched;
                let copies = ledger.due - before.ledger.due;
                let was_refused = ledger.refused > before.ledger.refused;
                let shards = told(&out.peers[before.peers..]);
                if !was_looked_at {
                    return;
                }
                let mut say = |what| {
                    let (to, topic) = (*to, Some(topic.clone()));
                    match conn {
                        Some(conn) => self.say(out, *conn, to, topic, what),
                        None => out.traced.push(Traced {
                            to,
                            conn: None,
                            whence: None,
                            client_id: None,
                            topic,
                            what,
                        }),
                    }
                };
                if let Some((allowed, rights)) = *right {
                    say(What::Right { filter: None, allowed, rights });
                }
                let retained_in = *retained_in;
                if is_unmatched {
                    say(What::Unmatched { retained_in });
                } else if !was_refused {
                    say(What::Routed { copies, shards, retained_in });
                }
            }
            About::Ack { conn, to, topic } => {
                if ledger.delivered[1..] != before.ledger.delivered[1..] {
                    self.say(out, *conn, *to, topic.clone(), What::Delivered);
                }
            }
        }
    }

    /// Says what has been noted.
    fn take_notes(&mut self, out: &mut Outbox) {
        let Some(noted) = &mut out.notes.0 else { return };
        let enough = noted.enough();
        let notes = std::mem::take(&mut noted.notes);
        out.untraced += std::mem::take(&mut noted.left_out);
        for note in notes {
            match out.traced.len() < enough {
                true => self.say_note(out, note),
                false => out.untraced += 1,
            }
        }
    }

    fn say_note(&mut self, out: &mut Outbox, note: Note) {
        let (session, topic, what) = match note {
            Note::Lost { session, topic, reason, copies } => {
                let what = What::Dropped { reason, copies };
                (Some(session), topic, what)
            }
            Note::LostInGroup { topic, reason } => {
                (None, Some(topic), What::Dropped { reason, copies: 1 })
            }
            Note::Refused { session, topic, reason } => {
                (Some(session), Some(topic), What::Refused(reason))
            }
            Note::NotRetained { topic } => (None, Some(topic), What::NotRetained),
            Note::Will { session, topic } => (Some(session), Some(topic), What::Will),
            Note::Routed { session, topic, copies, matched } => {
                let (copies, shards, retained_in) = (copies, SmallVec::new(), None);
                let what = match matched {
                    true => What::Routed { copies, shards, retained_in },
                    false => What::Unmatched { retained_in },
                };
                (Some(session), Some(topic), what)
            }
            Note::Queued { session, topic, waiting } => {
                (Some(session), Some(topic), What::Queued(waiting))
            }
            Note::QueuedInGroup { topic, group } => {
                (None, Some(topic), What::QueuedInGroup { group })
            }
            Note::Lent { topic, group, shard } => (None, Some(topic), What::Lent { group, shard }),
        };
        self.say_of_session(out, session, topic, what);
    }

    fn say_of_session(
        &mut self,
        out: &mut Outbox,
        session: Option<u32>,
        topic: Option<Text>,
        what: What,
    ) {
        let own = session.map_or(Watchers::NONE, |session| self.watchers_of_session(session));
        let Some(watching) = self.watching.as_deref() else { return };
        let of_topic = topic.as_ref().map(|topic| watching.of_topic(topic.as_bytes()));
        let to = own.or(of_topic.unwrap_or_default());
        if to.is_none() {
            return;
        }
        let conn = session.and_then(|session| self.conn_of(session));
        let whence = conn.and_then(|conn| watching.known(conn)).and_then(|known| known.whence);
        let client_id = session.and_then(|session| self.sessions.get(session));
        let client_id = client_id.map(crate::session::Session::client_id);
        say_within(out, Traced { to, conn, whence, client_id, topic, what });
    }

    /// A session is about to end: what has been noted of it is said while it is there.
    #[cold]
    #[inline(never)]
    pub(crate) fn say_session_ends(&mut self, turn: &mut Turn<'_>, index: u32) {
        if turn.out.notes.0.is_none() {
            return;
        }
        self.take_notes(turn.out);
        self.say_of_session(turn.out, Some(index), None, What::SessionEnded);
        if let Some(watching) = &mut self.watching {
            watching.forget_session(index);
        }
    }

    /// Says which packets go out.
    fn say_writes(&mut self, before: &Before, out: &mut Outbox) {
        let writes = std::mem::take(&mut out.writes);
        let noted = out.notes.0.as_mut();
        let aliases = noted.map(|noted| std::mem::take(&mut noted.aliases));
        let mut aliases = aliases.unwrap_or_default().into_iter();
        let mut alias = aliases.next();
        let mut form: Option<(Write, Packet, usize)> = None;
        for (at, write) in writes.iter().enumerate().skip(before.writes) {
            let by_alias = alias.take_if(|(write, _)| *write == at).map(|(_, topic)| topic);
            if by_alias.is_some() {
                alias = aliases.next();
            }
            let own = self.watchers_of_conn(write.conn);
            let Some(watching) = self.watching.as_deref() else { break };
            let Some((_, version)) = watching.found(write.conn) else { continue };
            if own.is_none() && watching.topics.is_none() && watching.exchanges.is_empty() {
                continue;
            }
            if out.traced.len() - before.traced >= TRACED_PER_INPUT_MAX {
                out.untraced += (writes.len() - at) as u64;
                break;
            }
            let is_same = form.as_ref().is_some_and(|(of, _, _)| of.is_same_form(write));
            if !is_same {
                form = decoded(out, write, version).map(|(it, bytes)| (*write, it, bytes));
            }
            let Some((_, packet, bytes)) = &mut form else { continue };
            if let Packet::Publish(publish) = packet {
                publish.packet_id = write.packet_id().or(publish.packet_id);
                if by_alias.is_none() && publish.topic.as_bytes().is_empty() {
                    // There was no room for its topic, and that is counted.
                    continue;
                }
            }
            self.say_sent(out, (write.conn, own), by_alias, (packet, *bytes));
        }
        out.writes = writes;
    }

    fn say_sent(
        &mut self,
        out: &mut Outbox,
        (conn, own): (ConnId, Watchers),
        by_alias: Option<Text>,
        (packet, bytes): (&Packet, usize),
    ) {
        let Some(watching) = self.watching.as_deref() else { return };
        let exchange = Exchange::of(conn, packet, false);
        let followed = exchange.and_then(|(exchange, step)| {
            watching.exchanges.get(&exchange).filter(|_| step != Step::First)
        });
        let (to, topic) = match packet {
            Packet::Publish(publish) => {
                let topic = by_alias.unwrap_or_else(|| publish.topic.text().clone());
                (own.or(watching.of_topic(topic.as_bytes())), Some(topic))
            }
            _ => match followed {
                Some(followed) => (own.or(followed.to), followed.topic.clone()),
                None => (own, None),
            },
        };
        if to.is_none() {
            return;
        }
        self.follow(exchange, to, topic.as_ref());
        let what = What::Sent { packet: Box::new(packet.clone()), bytes };
        self.say(out, conn, to, topic, what);
    }

    /// Says something of a connection, to those who want it.
    fn say(
        &mut self,
        out: &mut Outbox,
        conn: ConnId,
        to: Watchers,
        topic: Option<Text>,
        what: What,
    ) {
        if to.is_none() {
            return;
        }
        let known = self.watching.as_deref().and_then(|watching| watching.known(conn));
        let whence = known.and_then(|known| known.whence);
        let client_id = known.map(|known| known.client_id.clone()).or_else(|| {
            let connection = self.connection(conn)?;
            let session = self.sessions.get(connection.session);
            session.filter(|_| connection.has_session()).map(|session| session.client_id())
        });
        let conn = Some(conn);
        out.traced.push(Traced { to, conn, whence, client_id, topic, what });
    }
}

impl Before {
    fn of(out: &Outbox) -> Self {
        Self {
            writes: out.writes.len(),
            peers: out.peers.len(),
            events: out.events.len(),
            traced: out.traced.len(),
            ledger: out.ledger,
            about: About::Nothing,
        }
    }
}

fn of_filters(watching: &Watching, subscribe: &Subscribe) -> Watchers {
    let each = subscribe.filters.iter().map(|asked| watching.of_filter(&asked.filter));
    each.fold(Watchers::NONE, Watchers::or)
}

/// The shards that a message was given to.
fn told(peers: &[(ShardIndex, PeerMessage)]) -> SmallVec<[u16; 4]> {
    let routed = peers.iter().filter(|(_, message)| message.published().is_some());
    routed.map(|(to, _)| to.0).collect()
}

/// Says something to those who want it, if not enough has been said of the input.
fn say_within(out: &mut Outbox, traced: Traced) {
    let has_room = out.notes.0.as_ref().is_none_or(|noted| out.traced.len() < noted.enough());
    match traced.to.is_none() {
        true => {}
        false if has_room => out.traced.push(traced),
        false => out.untraced += 1,
    }
}

/// The packet of a write, and its length in bytes. A payload that is shared is not copied.
fn decoded(out: &Outbox, write: &Write, version: petrel_proto::Version) -> Option<(Packet, usize)> {
    let mut bytes = BytesMut::new();
    let head: SharedHead<'_> = out.head(write);
    head.put(&mut bytes);
    let payload = out.payload(write);
    let packet_bytes = bytes.len() + payload.len();
    if !payload.is_empty() {
        bytes = without_payload(&bytes)?;
    }
    let packet = petrel_proto::decode(&bytes.freeze(), Some(version));
    debug_assert!(packet.is_ok(), "what is sent can be decoded: {packet:?}");
    let mut packet = packet.ok()?;
    if let Packet::Publish(publish) = &mut packet
        && !payload.is_empty()
    {
        publish.payload = payload.clone();
    }
    Some((packet, packet_bytes))
}

/// The bytes before the payload of a packet, as a packet that has none.
fn without_payload(head: &[u8]) -> Option<BytesMut> {
    let (first, rest) = head.split_first()?;
    // The last byte of the length has no bit for another.
    let length_bytes = 1 + rest.iter().position(|byte| byte & 0x80 == 0)?;
    let rest = &rest[length_bytes..];
    let mut packet = BytesMut::with_capacity(head.len());
    packet.put_u8(*first);
    let mut left = rest.len();
    while left > 127 {
        packet.put_u8((left % 128) as u8 | 0x80);
        left /= 128;
    }
    packet.put_u8(left as u8);
    packet.extend_from_slice(rest);
    Some(packet)
}
