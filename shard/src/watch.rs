//! What somebody watches: clients and topics, each for one recording or several.
//!
//! Owns who is watched: for each session and connection what was found out, as they are met, so that nothing
//! is searched when a watch begins. It must never change what the shard does: without a watch there is none of
//! this, and with one there are only more words about it ([`crate::traced`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use petrel_proto::{ClientId, Packet, PacketId, Text, TopicFilter, Version};

use crate::access::AddressRange;
use crate::input::Origin;
use crate::level_hash::HashKey;
use crate::matcher::filter_matches;
use crate::session::Session;
use crate::{ConnId, Shard};

/// Recordings that there are at once, at most.
pub const WATCHES_MAX: usize = 8;

/// Exchanges of QoS 1 and 2 that are followed at once, at most; those beyond are not followed to their end.
const EXCHANGES_MAX: usize = 8_192;

/// Watched connections of which it is known at once whose they are and where they came from, at most: whoever
/// watches all addresses watches everybody.
const KNOWN_MAX: usize = 8_192;

/// What is watched, the same in all shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Counts the changes, so that one place is not taken for the recording that had it before.
    pub number: u64,
    /// By the place of their recording.
    pub subjects: [Option<Subject>; WATCHES_MAX],
}

/// What one recording is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The client with this identifier.
    ClientId(ClientId),
    /// Clients that have proved to be this user, or say so in their CONNECT.
    User(Text),
    /// Clients from these addresses.
    Addresses(AddressRange),
    /// Messages to topics that this filter matches.
    Topic(TopicFilter),
}

/// Recordings by their places, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watchers(pub u8);

/// Where a connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whence {
    /// The other end; its port is 0 if it is not known any more.
    pub address: SocketAddr,
    /// Position of its listener in the configuration.
    pub listener: u16,
}

/// What is known of who is watched.
#[derive(Debug)]
pub(crate) struct Watching {
    watched: Arc<Watched>,
    /// By the place of the recording: the keyed hash of its client identifier.
    publishers: [Option<u64>; WATCHES_MAX],
    /// Recordings about clients, and about topics.
    clients: Watchers,
    pub(crate) topics: Watchers,
    /// By the position of the session.
    sessions: Vec<Asked>,
    /// By the position of the connection.
    conns: Vec<AskedConn>,
    /// Connections that are watched, by their position, as far as there is room.
    known: BTreeMap<u32, Known>,
    pub(crate) exchanges: BTreeMap<Exchange, Followed>,
}

/// Which recordings have been asked about somebody, and which want it.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    asked: Watchers,
    wanted: Watchers,
}

#[derive(Debug, Clone, Copy)]
struct AskedConn {
    generation: u32,
    version: Version,
    of: Asked,
}

/// A connection that is watched. Kept a moment longer than the connection.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    generation: u32,
    pub(crate) client_id: ClientId,
    pub(crate) whence: Option<Whence>,
}

/// One exchange of QoS 1 or 2. Those of a connection stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exchange {
    conn: ConnId,
    /// The client has published, as opposed to the broker.
    is_incoming: bool,
    packet_id: PacketId,
}

/// What an exchange is about.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) to: Watchers,
    pub(crate) topic: Option<Text>,
}

/// What is known of a client.
struct Traits<'a> {
    client_id: &'a str,
    /// Whom it has proved to be, or says it is.
    users: [Option<&'a str>; 2],
    address: Option<std::net::IpAddr>,
}

impl Watchers {
    /// None.
    pub const NONE: Self = Self(0);

    /// True for none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if the recording at this place is one of them.
    #[must_use]
    pub const fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Watched {
    /// True if nothing is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.subjects.iter().all(Option::is_none)
    }

    fn all(&self, is_it: impl Fn(&Subject) -> bool) -> Watchers {
        let places = self.subjects.iter().enumerate();
        let those = places.filter(|(_, subject)| subject.as_ref().is_some_and(&is_it));
        Watchers(those.fold(0, |bits, (place, _)| bits | 1 << place))
    }

    /// The recordings of clients with this identifier, this user and this address; for somebody who has not come
    /// as far as a shard.
    #[must_use]
    pub fn of_comer(
        &self,
        client_id: &str,
        user: Option<&str>,
        address: Option<std::net::IpAddr>,
    ) -> Watchers {
        self.of_client(&Traits { client_id, users: [user, None], address })
    }

    fn of_client(&self, traits: &Traits<'_>) -> Watchers {
        self.all(|subject| match subject {
            Subject::ClientId(id) => id.as_str() == traits.client_id,
            Subject::User(user) => traits.users.contains(&Some(user.as_str())),
            Subject::Addresses(range) => {
                traits.address.is_some_and(|address| range.contains(address))
            }
            Subject::Topic(_) => false,
        })
    }
}

impl Watching {
    fn new(watched: Arc<Watched>) -> Self {
        let is_topic = |subject: &Subject| matches!(subject, Subject::Topic(_));
        Self {
            publishers: [None; WATCHES_MAX],
            clients: watched.all(|subject| !is_topic(subject)),
            topics: watched.all(is_topic),
            watched,
            sessions: Vec::new(),
            conns: Vec::new(),
            known: BTreeMap::new(),
            exchanges: BTreeMap::new(),
        }
    }

    /// Other things are watched: what is known of those that still are stays.
    fn change(self: Box<Self>, watched: Arc<Watched>) -> Self {
        let old = self.watched;
        let stays = watched.all(|_| true).0;
        let same = (0..WATCHES_MAX).filter(|&at| old.subjects[at] == watched.subjects[at]);
        let stays = Watchers(same.fold(0, |bits, at| bits | 1 << at) & stays);
        let keep = |asked: &mut Asked| {
            asked.asked.0 &= stays.0;
            asked.wanted.0 &= stays.0;
        };
        let mut new = Self::new(watched);
        (new.sessions, new.conns) = (self.sessions, self.conns);
        new.sessions.iter_mut().for_each(keep);
        new.conns.iter_mut().for_each(|conn| keep(&mut conn.of));
        (new.known, new.exchanges) = (self.known, self.exchanges);
        let conns = &new.conns;
        new.known.retain(|index, _| {
            conns.get(*index as usize).is_some_and(|conn| !conn.of.wanted.is_none())
        });
        new.exchanges.retain(|_, followed| {
            followed.to.0 &= stays.0;
            !followed.to.is_none()
        });
        new
    }

    /// The recordings that want what is said of a topic.
    pub(crate) fn of_topic(&self, topic: &[u8]) -> Watchers {
        if self.topics.is_none() {
            return Watchers::NONE;
        }
        self.watched.all(|subject| match subject {
            Subject::Topic(filter) => filter_matches(filter.as_bytes(), topic),
            _ => false,
        })
    }

    /// The recordings that want to hear of a subscription: those of a topic that it asks for.
    pub(crate) fn of_filter(&self, asked: &TopicFilter) -> Watchers {
        let shared = asked.shared();
        let asked = shared.as_ref().map_or(asked, |shared| &shared.filter);
        self.watched.all(|subject| match subject {
            Subject::Topic(filter) if filter.has_wildcard() => filter == asked,
            Subject::Topic(filter) => filter_matches(asked.as_bytes(), filter.as_bytes()),
            _ => false,
        })
    }

    /// The recordings of the client that has published something, by the keyed hash of its identifier.
    pub(crate) fn of_publisher(&self, hash: u64) -> Watchers {
        let places = self.publishers.iter().enumerate();
        let those = places.filter(|(_, publisher)| **publisher == Some(hash));
        Watchers(those.fold(0, |bits, (place, _)| bits | 1 << place))
    }

    /// A connection that is watched, or was a moment ago.
    pub(crate) fn known(&self, conn: ConnId) -> Option<&Known> {
        self.known.get(&conn.index).filter(|known| known.generation == conn.generation)
    }

    /// What was found out about a connection, and with which version it speaks.
    pub(crate) fn found(&self, conn: ConnId) -> Option<(Watchers, Version)> {
        let found = self.conns.get(conn.index as usize);
        let found = found.filter(|found| found.generation == conn.generation)?;
        Some((found.of.wanted, found.version))
    }

    fn note_conn(&mut self, conn: ConnId, version: Version, wanted: Watchers) {
        let at = conn.index as usize;
        let of = Asked { asked: self.clients, wanted };
        let found = AskedConn { generation: conn.generation, version, of };
        if self.conns.len() <= at {
            let none = AskedConn { generation: 0, version, of: Asked::default() };
            self.conns.resize(at + 1, none);
        }
        self.conns[at] = found;
    }

    /// A CONNECT comes.
    pub(crate) fn comes(
        &mut self,
        conn: ConnId,
        connect: &petrel_proto::Connect,
        origin: &Origin,
    ) -> Watchers {
        let users = [connect.username.as_ref(), origin.certificate.as_ref()];
        let traits = Traits {
            client_id: connect.client_id.as_str(),
            users: users.map(|user| user.map(Text::as_str)),
            address: Some(origin.address.ip()),
        };
        let wanted = self.watched.of_client(&traits);
        self.note_conn(conn, connect.version, wanted);
        if !wanted.is_none() {
            let whence = Whence { address: origin.address, listener: origin.listener };
            let client_id = connect.client_id.to_owned_text();
            let generation = conn.generation;
            self.know(conn, Known { generation, client_id, whence: Some(whence) });
        }
        wanted
    }

    fn know(&mut self, conn: ConnId, known: Known) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&conn.index) {
            self.known.insert(conn.index, known);
        }
    }

    /// A connection has got its session: what was known of one is known of the other.
    pub(crate) fn has_session(
        &mut self,
        conn: ConnId,
        session: u32,
        own: Watchers,
        client_id: &ClientId,
    ) {
        let Some(found) = self.conns.get_mut(conn.index as usize) else { return };
        found.of.wanted = found.of.wanted.or(own);
        let wanted = found.of.wanted;
        let at = session as usize;
        if self.sessions.len() <= at {
            self.sessions.resize(at + 1, Asked::default());
        }
        self.sessions[at] = Asked { asked: self.clients, wanted };
        if let Some(known) = self.known.get_mut(&conn.index) {
            // The broker may have made it.
            known.client_id = client_id.clone();
        }
    }

    /// A connection has ended.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        if self.known(conn).is_some() {
            self.known.remove(&conn.index);
        }
        if let Some(found) = self.conns.get_mut(conn.index as usize)
            && found.generation == conn.generation
        {
            found.of = Asked::default();
        }
        let begin = Exchange { conn, is_incoming: false, packet_id: PacketId(NonZeroU16::MIN) };
        while let Some((&exchange, _)) = self.exchanges.range(begin..).next()
            && exchange.conn == conn
        {
            self.exchanges.remove(&exchange);
        }
    }

    /// A session has ended; its position is another's then.
    pub(crate) fn forget_session(&mut self, session: u32) {
        if let Some(asked) = self.sessions.get_mut(session as usize) {
            *asked = Asked::default();
        }
    }

    /// An exchange begins that somebody watches.
    pub(crate) fn follow(&mut self, exchange: Exchange, followed: Followed) {
        if self.exchanges.len() < EXCHANGES_MAX || self.exchanges.contains_key(&exchange) {
            self.exchanges.insert(exchange, followed);
        }
    }
}

impl Exchange {
    /// The exchange that a packet belongs to, and whether it is its first packet or its last.
    pub(crate) fn of(conn: ConnId, packet: &Packet, from_client: bool) -> Option<(Self, Step)> {
        let by = |packet_id, is_incoming, step| Some((Self { conn, is_incoming, packet_id }, step));
        let end = |is_end: bool| if is_end { Step::Last } else { Step::Between };
        match packet {
            Packet::Publish(publish) => by(publish.packet_id?, from_client, Step::First),
            Packet::Subscribe(it) => by(it.packet_id, from_client, Step::First),
            Packet::Unsubscribe(it) => by(it.packet_id, from_client, Step::First),
            Packet::PubRel(ack) => by(ack.packet_id, from_client, Step::Between),
            Packet::PubRec(ack) => by(ack.packet_id, !from_client, end(ack.reason.is_error())),
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                by(ack.packet_id, !from_client, Step::Last)
            }
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
                by(ack.packet_id, !from_client, Step::Last)
            }
            _ => None,
        }
    }
}

/// Which packet of an exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    First,
    Between,
    Last,
}

impl Shard {
    /// Other things are watched from now on; nothing, if nothing is named.
    pub(crate) fn set_watched(&mut self, watched: Option<Arc<Watched>>) {
        let watched = watched.filter(|watched| !watched.is_nothing());
        self.watching = watched.map(|watched| {
            let key: HashKey = self.key;
            let mut watching = match self.watching.take() {
                Some(before) => before.change(watched),
                None => Watching::new(watched),
            };
            watching.publishers = std::array::from_fn(|at| match &watching.watched.subjects[at] {
                Some(Subject::ClientId(id)) => Some(key.hash(id.as_bytes())),
                _ => None,
            });
            Box::new(watching)
        });
        self.is_watched = self.watching.is_some();
    }

    /// The recordings that want what is said of a session.
    pub(crate) fn watchers_of_session(&mut self, index: u32) -> Watchers {
        let Self { watching: Some(watching), sessions, .. } = self else { return Watchers::NONE };
        if watching.clients.is_none() {
            return Watchers::NONE;
        }
        let Some(session) = sessions.get(index) else { return Watchers::NONE };
        let at = index as usize;
        if watching.sessions.len() <= at {
            watching.sessions.resize(at + 1, Asked::default());
        }
        let Asked { asked, wanted } = watching.sessions[at];
        let open = watching.clients.without(asked);
        if open.is_none() {
            return wanted;
        }
        let of = watching.watched.of_client(&traits_of(session));
        let wanted = wanted.or(Watchers(of.0 & open.0));
        watching.sessions[at] = Asked { asked: watching.clients, wanted };
        wanted
    }

    /// The recordings that want what is said of a connection.
    pub(crate) fn watchers_of_conn(&mut self, conn: ConnId) -> Watchers {
        let Some(watching) = self.watching.as_deref() else { return Watchers::NONE };
        let found = watching.conns.get(conn.index as usize);
        let found = found.filter(|found| found.generation == conn.generation);
        let asked = found.map_or(Asked::default(), |found| found.of);
        if found.is_some() && watching.clients.without(asked.asked).is_none() {
            return asked.wanted;
        }
        let Some(connection) = self.connection(conn) else { return asked.wanted };
        let (version, session) = (connection.version, connection.session);
        if !connection.has_session() {
            let extras = connection.extras();
            let pending = extras.and_then(|extras| extras.pending.as_deref());
            let about = pending.map(|pending| (pending.connect.clone(), pending.origin.clone()));
            let Some((connect, origin)) = about else { return asked.wanted };
            let Some(watching) = &mut self.watching else { return asked.wanted };
            return watching.comes(conn, &connect, &origin);
        }
        let wanted = asked.wanted.or(self.watchers_of_session(session));
        let about = self.sessions.get(session).filter(|_| !wanted.is_none());
        let about = about.map(|session| {
            let origin = session.standing.as_deref().and_then(|standing| standing.origin());
            let whence = origin.map(|(address, listener)| Whence {
                address: SocketAddr::new(address, 0),
                listener,
            });
            Known { generation: conn.generation, client_id: session.client_id(), whence }
        });
        let Some(watching) = &mut self.watching else { return wanted };
        watching.note_conn(conn, version, wanted);
        if let Some(known) = about
            && watching.known(conn).is_none()
        {
            watching.know(conn, known);
        }
        wanted
    }

    /// The recordings that want what is said of a connection, and whose it is.
    pub fn watchers_of(&mut self, conn: ConnId) -> (Watchers, Option<ClientId>) {
        let to = self.watchers_of_conn(conn);
        let watching = self.watching.as_deref();
        let known = watching.and_then(|watching| watching.known(conn));
        let of_session = || self.session_of(conn).and_then(|session| self.sessions.get(session));
        let client_id = known.map(|known| known.client_id.clone());
        (to, client_id.or_else(|| of_session().map(Session::client_id)))
    }

    /// The recordings that want what is said of a session by what it is now, whatever was found out before.
    pub(crate) fn watchers_by_standing(&self, index: u32) -> Watchers {
        let Some(watching) = self.watching.as_deref() else { return Watchers::NONE };
        let session = self.sessions.get(index);
        session.map_or(Watchers::NONE, |it| watching.watched.of_client(&traits_of(it)))
    }
}

fn traits_of(session: &Session) -> Traits<'_> {
    let standing = session.standing.as_deref();
    Traits {
        client_id: session.client_id.as_str(),
        users: [standing.and_then(|standing| standing.user()).map(Text::as_str), None],
        address: standing.and_then(|standing| standing.origin()).map(|(address, _)| address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching_everybody() -> Watching {
        let everybody = "0.0.0.0/0".parse().map(Subject::Addresses).ok();
        let mut subjects = [const { None }; WATCHES_MAX];
        subjects[0] = everybody;
        Watching::new(Arc::new(Watched { number: 1, subjects }))
    }

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 3 }
    }

    #[test]
    fn who_watches_everybody_takes_no_more_memory_for_each_than_marks() {
        let mut watching = watching_everybody();
        let origin = Origin {
            listener: 0,
            allow_anonymous: true,
            authenticates: false,
            address: ([192, 0, 2, 1], 1).into(),
            certificate: None,
        };
        let name = Text::try_from("a").unwrap();
        let connect = petrel_proto::Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 0,
            properties: Default::default(),
            client_id: name,
            will: None,
            username: None,
            password: None,
        };
        let most = KNOWN_MAX as u32;
        for index in 0..most + 10 {
            assert_eq!(watching.comes(conn(index), &connect, &origin), Watchers(1));
        }
        assert_eq!(watching.known.len(), KNOWN_MAX);
        assert!(watching.known(conn(most)).is_none() && watching.found(conn(most)).is_some());
        watching.forget(conn(7));
        watching.comes(conn(most), &connect, &origin);
        assert!(watching.known(conn(7)).is_none() && watching.known(conn(most)).is_some());
    }

    #[test]
    fn the_end_of_a_connection_ends_its_exchanges_and_no_others() {
        let mut watching = watching_everybody();
        for index in 0..3 {
            for (is_incoming, number) in [(false, 1), (true, 1), (true, u16::MAX)] {
                let packet_id = PacketId::new(number).unwrap();
                let exchange = Exchange { conn: conn(index), is_incoming, packet_id };
                watching.follow(exchange, Followed { to: Watchers(1), topic: None });
            }
        }
        watching.forget(conn(1));
        let left: Vec<_> = watching.exchanges.keys().map(|it| it.conn.index).collect();
        assert_eq!(left, [0, 0, 0, 2, 2, 2]);
    }
}
