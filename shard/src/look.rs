//! What operators ask about clients, sessions and retained messages.
//!
//! Everything here reads and changes nothing, in bounded steps: a list is asked for page by page, and a page ends
//! after so many looks, whatever was found. Positions of sessions do not change while they live, so a session
//! that is there all the time is in exactly one page of a list.

use std::net::IpAddr;
use std::sync::Arc;

use petrel_proto::{ClientId, Qos, Text, TopicFilter, TopicName, Version};

use crate::access::{Publishable, Verdicts};
use crate::event::DropReason;
use crate::flow::{Delivery, Stage};
use crate::level_hash::TopicLevels;
use crate::losses::Loss;
use crate::peer::{GroupKey, Readiness};
use crate::receivers::Target;
use crate::retained::Answer;
use crate::session::{Session, SharedSubscription};
use crate::subscriptions::Subscription;
use crate::{ConnId, Message, Now, Outbox, Shard};

/// Which sessions are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Their client identifiers begin so.
    pub begins: Option<String>,
    /// Their client identifiers contain this.
    pub contains: Option<String>,
    /// Their user is this one. The shard knows it as far as [`crate::Access::is_on`].
    pub user: Option<String>,
    /// They are connected, or not.
    pub connected: Option<bool>,
    /// At least so many messages wait for them.
    pub queued_min: u64,
}

/// What is told of a session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Client identifier.
    pub client_id: ClientId,
    /// Its connection, if it has one.
    pub conn: Option<ConnId>,
    /// With which version it came.
    pub version: Option<Version>,
    /// The user that it has proved to be, if that was asked.
    pub user: Option<Text>,
    /// Subscriptions, shared ones included.
    pub subscriptions: u64,
    /// Messages that wait.
    pub queued: u64,
    /// QoS 1 and 2 messages that were sent, and whose exchange is not complete.
    pub inflight: u64,
}

/// Everything that is told of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// As in a list.
    pub line: Line,
    /// Groups of its user.
    pub groups: Vec<Text>,
    /// Where it came from and to which listener, if that is kept.
    pub origin: Option<(IpAddr, u16)>,
    /// Session Expiry Interval, in seconds; `u32::MAX` for never.
    pub expiry_interval_s: u32,
    /// When it ends if its client does not come back, on the monotonic clock; `None` while it is there.
    pub ends_at_ms: Option<u64>,
    /// Something of it outlives the process.
    pub is_kept: bool,
    /// It leaves a will.
    pub has_will: bool,
    /// Bytes that wait in memory, and those of the messages that wait in storage.
    pub queued_bytes: (u64, u64),
    /// Of the first 10,000 messages that wait in memory, those that have expired: they make room for others.
    pub expired: u64,
    /// Bytes of what is in flight.
    pub inflight_bytes: u64,
    /// QoS 2 messages that it has published and not released.
    pub incoming: u64,
    /// Of its connection.
    pub connected: Option<Connected>,
    /// What it has lost.
    pub losses: Option<Loss>,
    /// What it has published that was refused.
    pub refusals: Option<Loss>,
}

/// What is told of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Bytes that its socket has not taken.
    pub pending_bytes: u64,
    /// QoS 1 and 2 messages that may be sent now.
    pub send_quota: u16,
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Maximum Packet Size.
    pub maximum_packet_size: u32,
    /// Since when nothing has come from it.
    pub silent_ms: u64,
    /// After so long it is taken for lost; 0 for never.
    pub silence_ms_max: u64,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The filter as its client wrote it.
    pub filter: String,
    /// Maximum QoS.
    pub qos: Qos,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier; 0 for none.
    pub identifier: u32,
    /// Through a shared group.
    pub shared: bool,
}

/// A message that waits, or is in flight.
#[derive(Debug, Clone)]
pub struct Waits {
    /// The message.
    pub message: Arc<Message>,
    /// QoS of the delivery.
    pub qos: Qos,
    /// It was sent, and has not been acknowledged.
    pub sent: bool,
}

/// What a client may do with a topic, and which rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// What it may publish.
    pub publish: Publishable,
    /// At which QoS it may subscribe.
    pub subscribe: Option<Qos>,
    /// Rules of the file, by their position, counted from 0.
    pub publish_rules: Verdicts,
    /// The same.
    pub subscribe_rules: Verdicts,
    /// There are rules at all.
    pub are_rules: bool,
    /// It has rights of its own beside them.
    pub has_own: bool,
}

impl Rights {
    /// Those of a client where nobody is asked what it may do.
    pub(crate) const EVERYTHING: Self = Self {
        publish: Publishable::EVERYTHING,
        subscribe: Some(Qos::ExactlyOnce),
        publish_rules: Verdicts { allowing: None, denying: None },
        subscribe_rules: Verdicts { allowing: None, denying: None },
        are_rules: false,
        has_own: false,
    };
}

/// A shared group that this shard owns, and that a topic reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The filter as clients write it.
    pub filter: String,
    /// How many are in it.
    pub members: u64,
    /// How many of them could take a message now.
    pub ready: u64,
    /// How many of them are connected.
    pub online: u64,
    /// How many messages wait in it, and their bytes as queues count them.
    pub queued: u64,
    /// See `queued`.
    pub queued_bytes: u64,
}

/// Messages of a queue that are looked at for those that have expired, at most.
const EXPIRED_LOOKED_AT: usize = 10_000;

/// Receivers of a topic, or members of groups, that are looked at, at most.
const RECEIVERS_LOOKED_AT: usize = 20_000;

/// A page of subscriptions ends when its filters have so many bytes.
const FILTER_BYTES_PER_PAGE: usize = 1 << 20;

/// Bytes of a filter that take as long to copy as a member to look at, about.
const FILTER_BYTES_PER_LOOK: usize = 64;

fn shared_subscription(group: &GroupKey, it: &SharedSubscription) -> Subscribed {
    Subscribed {
        filter: group.written(),
        qos: it.options.qos,
        no_local: it.options.no_local,
        retain_as_published: it.options.retain_as_published,
        identifier: it.identifier,
        shared: true,
    }
}

impl Shard {
    /// The sessions from a position on that are wanted, at most so many, after at most so many looks; and where to go
    /// on, if there may be more.
    pub fn list(
        &self,
        from: u32,
        wanted: &Wanted,
        (most, looks): (usize, u32),
        found: &mut Vec<Line>,
    ) -> Option<u32> {
        let end = self.sessions.end();
        let upto = from.saturating_add(looks).min(end);
        for index in from..upto {
            if let Some(session) = self.sessions.get(index)
                && self.is_wanted(session, wanted)
            {
                if found.len() >= most {
                    return Some(index);
                }
                found.push(self.line(index, session));
            }
        }
        (upto < end).then_some(upto)
    }

    fn is_wanted(&self, session: &Session, wanted: &Wanted) -> bool {
        let Wanted { begins, contains, user, connected, queued_min } = wanted;
        let id = session.client_id.as_str();
        let of = || session.standing.as_deref().and_then(|standing| standing.user());
        begins.as_ref().is_none_or(|begins| id.starts_with(begins))
            && contains.as_ref().is_none_or(|part| id.contains(part))
            && user.as_ref().is_none_or(|user| of().is_some_and(|of| of.as_str() == user))
            && connected.is_none_or(|connected| session.is_online() == connected)
            && session.queued() as u64 >= *queued_min
    }

    fn line(&self, index: u32, session: &Session) -> Line {
        let conn = self.conn_of(index);
        let connection = conn.and_then(|conn| self.connection(conn));
        Line {
            client_id: session.client_id(),
            conn,
            version: connection.map(|connection| connection.version),
            user: session.standing.as_deref().and_then(|standing| standing.user().cloned()),
            subscriptions: (session.subscriptions.len() + session.shared_count()) as u64,
            queued: session.queued() as u64,
            inflight: session.inflight() as u64,
        }
    }

    /// All about one session. `out` is where the shard's inputs were handled.
    #[must_use]
    pub fn detail(&self, now: Now, client_id: &ClientId, out: &Outbox) -> Option<Detail> {
        let index = self.find_session(client_id)?;
        let session = self.sessions.get(index)?;
        let standing = session.standing.as_deref();
        let flow = session.flow.as_deref();
        let line = self.line(index, session);
        let connected = line.conn.and_then(|conn| self.connection(conn)).map(|it| Connected {
            pending_bytes: it.pending_bytes() as u64,
            send_quota: it.send_quota,
            receive_maximum: it.receive_maximum,
            maximum_packet_size: it.maximum_packet_size,
            silent_ms: it.silence_ms(now.mono_ms).into(),
            silence_ms_max: it.silence_ms_max.into(),
        });
        Some(Detail {
            groups: standing.map_or_else(Vec::new, |standing| standing.groups().to_vec()),
            origin: standing.and_then(|standing| standing.origin()),
            expiry_interval_s: session.expiry_interval_s,
            ends_at_ms: (!session.is_online()).then(|| session.expires_at.ms()),
            is_kept: session.kept.is_some(),
            has_will: session.will().is_some(),
            queued_bytes: (flow.map_or(0, |flow| flow.queue.bytes), session.stored().1),
            expired: flow.map_or(0, |flow| {
                let waiting = flow.queue.deliveries.iter().take(EXPIRED_LOOKED_AT);
                waiting.filter(|delivery| delivery.message.expired(now.mono_ms)).count() as u64
            }),
            inflight_bytes: flow.map_or(0, |flow| flow.inflight_bytes),
            incoming: flow.map_or(0, |flow| flow.incoming.len() as u64),
            connected,
            losses: out.losses.of(index).copied(),
            refusals: out.refusals.of(index).copied(),
            line,
        })
    }

    /// Subscriptions of a session, behind so many that are left out, at most so many, or fewer if their filters are
    /// long; none only if there are none. Cost: nothing is copied of those that are left out.
    #[must_use]
    pub fn subscribed(
        &self,
        client_id: &ClientId,
        skip: usize,
        most: usize,
    ) -> Option<Vec<Subscribed>> {
        let session = self.sessions.get(self.find_session(client_id)?)?;
        let own = session.subscriptions.as_slice();
        let shared = session.rare.as_deref().into_iter().flat_map(|rare| &rare.shared);
        let shared = shared.skip(skip.saturating_sub(own.len()));
        let shared = shared.map(|(group, it)| shared_subscription(group, it));
        let own = own.iter().skip(skip).filter_map(|it| self.subscription(*it));
        let mut bytes = 0;
        let has_room = |it: &Subscribed| {
            let has_room = bytes < FILTER_BYTES_PER_PAGE;
            bytes += it.filter.len();
            has_room
        };
        Some(own.chain(shared).take(most).take_while(has_room).collect())
    }

    /// Those of its subscriptions that a topic matches. Cost: a search of all filters, and a look at each of its
    /// shared subscriptions.
    #[must_use]
    pub fn subscribed_to(
        &self,
        client_id: &ClientId,
        topic: &TopicName,
    ) -> Option<Vec<Subscribed>> {
        let session = self.sessions.get(self.find_session(client_id)?)?;
        let levels = TopicLevels::of(&self.key, topic.as_bytes());
        let mut found = Vec::new();
        self.matcher.matches(topic.as_bytes(), &levels, &mut |filter| {
            let own = session.subscriptions.find(filter);
            found.extend(own.and_then(|own| self.subscription(own)));
        });
        let shared = session.rare.as_deref().into_iter().flat_map(|rare| &rare.shared);
        let shared = shared.filter(|(group, _)| group.filter.matches(topic));
        found.extend(shared.map(|(group, it)| shared_subscription(group, it)));
        Some(found)
    }

    fn subscription(&self, of: Subscription) -> Option<Subscribed> {
        let receivers = self.receivers.get(of.filter.0)?.as_slice();
        let receiver = receivers.get(of.position as usize)?;
        let options = receiver.options();
        Some(Subscribed {
            filter: String::from_utf8_lossy(self.matcher.filter(of.filter)).into_owned(),
            qos: options.qos(),
            no_local: options.no_local(),
            retain_as_published: options.retain_as_published(),
            identifier: receiver.identifier(),
            shared: false,
        })
    }

    /// Messages for a session that are in memory: those in flight, then those that wait; behind so many that are
    /// left out, at most so many. Cost: a look at what is in flight, and nothing of what is left out of the queue.
    #[must_use]
    pub fn queue(&self, client_id: &ClientId, skip: usize, most: usize) -> Option<Vec<Waits>> {
        let session = self.sessions.get(self.find_session(client_id)?)?;
        let Some(flow) = session.flow.as_deref() else { return Some(Vec::new()) };
        let waits = |(sent, delivery): (bool, &Delivery)| Waits {
            message: Arc::clone(&delivery.message),
            qos: delivery.qos,
            sent,
        };
        let sent = || {
            flow.inflight.iter().filter_map(|entry| match &entry.stage {
                Stage::Published(delivery) => Some((true, delivery)),
                Stage::Released { .. } => None,
            })
        };
        let queued = flow.queue.deliveries.iter().skip(skip.saturating_sub(sent().count()));
        let queued = queued.map(|delivery| (false, delivery));
        Some(sent().skip(skip).chain(queued).take(most).map(waits).collect())
    }

    /// What a client may do with a topic. `None` if it has no session here.
    #[must_use]
    pub fn rights(&self, client_id: &ClientId, topic: &TopicName) -> Option<Rights> {
        self.rights_of(self.find_session(client_id)?, topic.text().as_str())
    }

    /// How a client stands towards its shared groups. `None` if it has no session here.
    #[must_use]
    pub fn standing_in_groups(&self, client_id: &ClientId) -> Option<Readiness> {
        Some(self.readiness(self.find_session(client_id)?))
    }

    /// Whether messages to a topic would be sent to this shard's clients, by the table of the whole process.
    #[must_use]
    pub fn is_interested(&self, topic: &TopicName) -> bool {
        let levels = TopicLevels::of(&self.key, topic.as_bytes());
        self.interest.shards(&levels).contains(self.config.index.0)
    }

    /// The receivers that a topic has here: how many, sessions and groups alike; the first few clients; and the shared
    /// groups that are owned here, as far as they are among the first 20,000 receivers, members of groups included.
    #[must_use]
    pub fn reached(&self, topic: &TopicName, most: usize) -> (u64, Vec<ClientId>, Vec<Shared>) {
        let levels = TopicLevels::of(&self.key, topic.as_bytes());
        let mut filters = Vec::new();
        self.matcher.matches(topic.as_bytes(), &levels, &mut |filter| filters.push(filter));
        let receivers = || filters.iter().filter_map(|filter| self.receivers.get(filter.0));
        let count = receivers().map(|receivers| receivers.as_slice().len() as u64).sum();
        let (mut first, mut groups, mut looks) = (Vec::new(), Vec::new(), 0);
        for receiver in receivers().flat_map(|all| all.as_slice()) {
            if looks >= RECEIVERS_LOOKED_AT {
                break;
            }
            looks += 1;
            match receiver.target() {
                Target::Session(index) => {
                    if first.len() < most
                        && let Some(session) = self.sessions.get(index)
                    {
                        first.push(session.client_id());
                    }
                }
                Target::Group(index) => {
                    looks += self.looks_of_group(index);
                    groups.extend(self.shared(index));
                }
            }
        }
        (count, first, groups)
    }

    fn shared(&self, index: u32) -> Option<Shared> {
        let group = self.groups.groups.get(index)?;
        Some(Shared {
            filter: group.key.written(),
            members: group.members.len() as u64,
            ready: group.members.iter().filter(|member| member.readiness.ready).count() as u64,
            online: group.members.iter().filter(|member| member.readiness.online).count() as u64,
            queued: group.waiting() as u64,
            queued_bytes: group.waiting_bytes(),
        })
    }

    /// What it costs to tell of a group, in members that are looked at.
    fn looks_of_group(&self, index: u32) -> usize {
        let group = self.groups.groups.get(index);
        group.map_or(0, |group| {
            let bytes = group.key.share.as_str().len() + group.key.filter.as_bytes().len();
            group.members.len() + bytes / FILTER_BYTES_PER_LOOK
        })
    }

    /// The shared groups that are owned here, from a position on, at most so many, or fewer if they have many members;
    /// with where to go on.
    #[must_use]
    pub fn list_shared(&self, from: u32, most: u32) -> (Vec<Shared>, Option<u32>) {
        let end = self.groups.groups.end();
        let (mut at, mut looks, mut found) = (from, 0, Vec::new());
        while at < from.saturating_add(most).min(end) && looks < RECEIVERS_LOOKED_AT {
            looks += 1 + self.looks_of_group(at);
            found.extend(self.shared(at));
            at += 1;
        }
        (found, (at < end).then_some(at))
    }

    /// Clients whose messages to a topic were the last of theirs that were refused, and why; of a long topic the beginning,
    /// the end and the length are compared. Cost: a look at each line of a table of 1,024.
    #[must_use]
    pub fn refused_for(&self, topic: &TopicName, out: &Outbox) -> Vec<(ClientId, DropReason, u64)> {
        let lines = out.refusals.lines().filter(|loss| loss.is_about(topic.as_bytes()));
        let named = lines.filter_map(|loss| {
            let session = self.sessions.get(loss.session())?;
            Some((session.client_id(), loss.last, loss.last_ms))
        });
        named.collect()
    }

    /// Retained messages whose topics are homed here, as [`crate::retained::Retained::answer`] gives them.
    #[must_use]
    pub fn list_retained(&self, now: Now, filter: &TopicFilter, after: Option<&Text>) -> Answer {
        self.retained.answer(filter, after, now.mono_ms, &|_, _, _| true)
    }
}
