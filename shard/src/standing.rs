//! Who a client has proved to be, and what it may do for that.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Connect, Qos, ReasonCode, Text, TopicFilter, TopicName};

use crate::access::{Publishable, Rules, Verdicts, Who};
use crate::config::Access;
use crate::connection::Violation;
use crate::event::{EndedBy, Event};
use crate::input::{Banned, Origin};
use crate::look::Rights;
use crate::record::Record;
use crate::sabotage::{self, Sabotage};
use crate::session::Session;
use crate::shard::{Shard, Turn};
use crate::timers::Tick;
use crate::{Author, ConnId};

/// Whom a client has proved to be. Many connections of one user share it.
#[derive(Debug)]
pub struct Identity {
    /// User name.
    pub user: Text,
    /// Its groups.
    pub groups: Vec<Text>,
    /// Rights that came with the proof, beside those of the broker's rules; where there are no rules, all that
    /// it has.
    pub own: Option<Rules>,
    /// When the proof ends, on the monotonic clock in milliseconds; `u64::MAX` for never.
    pub ends_at_ms: u64,
}

/// A client as rules see it. Kept with its session, for wills are published after the connection is gone.
#[derive(Debug)]
pub(crate) struct Standing {
    identity: Option<Arc<Identity>>,
    /// When its proof ends.
    pub(crate) ends_at: Tick,
    address: IpAddr,
    listener: u16,
    /// A subscription has been taken from it, or may have been: what waits may be what it must not get.
    pub(crate) is_doubtful: bool,
    /// What it may publish, as far as it has tried.
    learned: Option<Box<Learned>>,
}

#[derive(Debug)]
struct Learned {
    /// Of the rules.
    epoch: u32,
    /// What was found out last, which is asked for again most often.
    last: Known,
    others: Vec<Known>,
    /// The client as messages name it that it retains, if it does.
    author: Option<Arc<Author>>,
}

/// What a client may publish to a topic.
#[derive(Debug)]
struct Known {
    topic: Box<[u8]>,
    publishable: Publishable,
}

/// Topics of one client for which it is known what it may do.
const KNOWN_MAX: usize = 8;

/// Sessions that are looked at in one input after the rules have changed.
const REVIEWED_PER_INPUT: u32 = 256;

/// The listener of sessions that were brought back, which is none.
const NOWHERE: u16 = u16::MAX;

impl Default for Identity {
    /// A user without a name, in no group.
    fn default() -> Self {
        Self { user: Text::EMPTY, groups: Vec::new(), own: None, ends_at_ms: u64::MAX }
    }
}

impl Standing {
    pub(crate) fn new(identity: Option<Arc<Identity>>, origin: &Origin) -> Self {
        let (address, listener) = (origin.address.ip(), origin.listener);
        let ends_at = identity.as_deref().map_or(Tick::NEVER, |it| Tick::after(it.ends_at_ms));
        Self { identity, ends_at, address, listener, is_doubtful: false, learned: None }
    }

    /// That of a session which was brought back.
    pub(crate) fn restored(user: Option<Text>) -> Self {
        let identity = user.map(|user| Arc::new(Identity { user, ..Identity::default() }));
        let ends_at = Tick::NEVER;
        let address = IpAddr::from([0, 0, 0, 0]);
        Self { identity, ends_at, address, listener: NOWHERE, is_doubtful: true, learned: None }
    }

    /// The user name, if it has proved one.
    pub(crate) fn user(&self) -> Option<&Text> {
        self.identity.as_deref().map(|identity| &identity.user)
    }

    /// Its groups.
    pub(crate) fn groups(&self) -> &[Text] {
        self.identity.as_deref().map_or(&[], |identity| &identity.groups)
    }

    /// Where it came from and to which listener; `None` if it was brought back and has not come yet.
    pub(crate) fn origin(&self) -> Option<(IpAddr, u16)> {
        (self.listener != NOWHERE).then_some((self.address, self.listener))
    }

    fn is_of(&self, banned: &Banned) -> bool {
        match banned {
            Banned::ClientId(_) => false,
            Banned::User(user) => self.user() == Some(user),
            Banned::Addresses(range) => range.contains(self.address),
        }
    }

    fn own(&self) -> Option<&Rules> {
        self.identity.as_deref()?.own.as_ref()
    }

    fn who<'a>(&'a self, client_id: &'a str) -> Who<'a> {
        let identity = self.identity.as_deref();
        Who {
            user: identity.map(|identity| identity.user.as_str()),
            groups: identity.map_or(&[], |identity| &identity.groups),
            client_id,
            listener: self.listener,
            address: self.address,
        }
    }

    /// What a client may publish to a topic, as it has been found out, by the rules of this epoch.
    #[inline]
    fn known(&self, epoch: u32, topic: &[u8]) -> Option<Publishable> {
        let learned = self.learned.as_deref().filter(|learned| learned.epoch == epoch)?;
        if *learned.last.topic == *topic || sabotage::on(Sabotage::RightsMixedUp) {
            return Some(learned.last.publishable);
        }
        learned.among_others(topic)
    }

    /// Keeps it.
    fn learn(&mut self, epoch: u32, topic: &[u8], publishable: Publishable) {
        let last = Known { topic: topic.into(), publishable };
        match self.learned.as_deref_mut().filter(|learned| learned.epoch == epoch) {
            Some(Learned { last: before, others, .. }) => {
                others.truncate(KNOWN_MAX - 2);
                others.insert(0, std::mem::replace(before, last));
            }
            None => {
                let (others, author) = (Vec::new(), None);
                self.learned = Some(Box::new(Learned { epoch, last, others, author }));
            }
        }
    }
}

impl Learned {
    #[inline(never)]
    fn among_others(&self, topic: &[u8]) -> Option<Publishable> {
        let found = self.others.iter().find(|known| *known.topic == *topic);
        found.map(|known| known.publishable)
    }
}

impl Access {
    /// What a client may publish to a topic.
    fn publishable(&self, client_id: &str, standing: &Standing, topic: &str) -> Publishable {
        let who = standing.who(client_id);
        match (&self.rules, standing.own()) {
            (None, None) => Publishable::EVERYTHING,
            (None, Some(own)) => own.publishable(&who, None, topic),
            (Some(rules), own) => rules.publishable(&who, own, topic),
        }
    }

    /// The highest QoS at which a client may have a subscription; `None` if it may not.
    fn subscribable(
        &self,
        client_id: &str,
        standing: &Standing,
        filter: &TopicFilter,
    ) -> Option<Qos> {
        let shared = filter.shared();
        // Whoever gets a part of it may get all of it.
        let filter = shared.as_ref().map_or(filter, |shared| &shared.filter);
        let filter = std::str::from_utf8(filter.as_bytes()).unwrap_or_default();
        self.subscribable_text(client_id, standing, filter)
    }

    fn subscribable_text(&self, client_id: &str, standing: &Standing, filter: &str) -> Option<Qos> {
        let who = standing.who(client_id);
        match (&self.rules, standing.own()) {
            (None, None) => Some(Qos::ExactlyOnce),
            (None, Some(own)) => own.subscribable(&who, None, filter),
            (Some(rules), own) => rules.subscribable(&who, own, filter),
        }
    }
}

impl Shard {
    /// Whether a client may have its session, and the will that it brings.
    pub(crate) fn admit_client(
        &self,
        connect: &Connect,
        standing: Option<&Standing>,
    ) -> Result<(), Violation> {
        let Some(standing) = standing else { return Ok(()) };
        let access = &self.config.access;
        let owner = self
            .find_session(&connect.client_id)
            .and_then(|index| self.sessions.get(index)?.standing.as_deref()?.user());
        if let Some(owner) = owner
            && !access.shares_client_ids
            && standing.user() != Some(owner)
        {
            let what = "the client identifier is in use by another user";
            return Err(Violation::new(ReasonCode::NotAuthorized, what));
        }
        if let Some(will) = &connect.will {
            let id = connect.client_id.as_str();
            let may = access.publishable(id, standing, will.topic.text().as_str());
            if !may.allows(will.qos, will.retain) {
                let what = "the client may not publish its will";
                return Err(Violation::new(ReasonCode::NotAuthorized, what));
            }
        }
        Ok(())
    }

    /// Whether the client of a session may publish so. What was found out before costs a comparison of its topic.
    #[inline]
    pub(crate) fn may_publish(
        &mut self,
        index: u32,
        topic: &TopicName,
        qos: Qos,
        retain: bool,
    ) -> bool {
        if !self.config.access.is_on {
            return true;
        }
        let standing = self.sessions.get(index).and_then(|session| session.standing.as_deref());
        let known =
            standing.and_then(|standing| standing.known(self.rules_epoch, topic.as_bytes()));
        known.unwrap_or_else(|| self.look_up(index, topic)).allows(qos, retain)
    }

    /// What the client of a session may do with a topic, or with a filter, and which rules say so.
    pub(crate) fn rights_of(&self, index: u32, filter: &str) -> Option<Rights> {
        let access = &self.config.access;
        let session = self.sessions.get(index)?;
        let id = session.client_id.as_str();
        let standing = session.standing.as_deref().filter(|_| access.is_on);
        let Some(standing) = standing else { return Some(Rights::EVERYTHING) };
        let who = standing.who(id);
        let rules = access.rules.as_deref();
        let of =
            |publish| rules.map_or_else(Verdicts::default, |it| it.verdicts(&who, filter, publish));
        Some(Rights {
            publish: access.publishable(id, standing, filter),
            subscribe: access.subscribable_text(id, standing, filter),
            publish_rules: of(true),
            subscribe_rules: of(false),
            are_rules: rules.is_some(),
            has_own: standing.own().is_some(),
        })
    }

    /// What the client of a session may publish to a topic.
    #[cold]
    #[inline(never)]
    fn look_up(&mut self, index: u32, topic: &TopicName) -> Publishable {
        let Self { sessions, config, rules_epoch, .. } = self;
        let Some(session) = sessions.get_mut(index) else { return Publishable::NOTHING };
        let Session { client_id, standing: Some(standing), .. } = session else {
            return Publishable::NOTHING;
        };
        let id = client_id.as_str();
        let publishable = config.access.publishable(id, standing, topic.text().as_str());
        standing.learn(*rules_epoch, topic.as_bytes(), publishable);
        publishable
    }

    /// Who publishes what a session retains to a topic, for the time when the rules are others; `None` where there
    /// is nothing that it could have lost. Of a session that was brought back nobody knows in which groups its
    /// client was.
    #[cold]
    #[inline(never)]
    pub(crate) fn author(&mut self, index: u32, topic: &TopicName) -> Option<Arc<Author>> {
        let epoch = self.rules_epoch;
        let has_rules = self.config.access.rules.is_some();
        let session = self.sessions.get_mut(index).filter(|_| self.config.access.is_on)?;
        let Session { client_id, standing: Some(standing), .. } = session else { return None };
        if standing.listener == NOWHERE || !has_rules && standing.identity.is_none() {
            return None;
        }
        let client_id = client_id.as_str();
        let by_own = standing.own().is_some_and(|own| {
            let who = standing.who(client_id);
            own.publishable(&who, None, topic.text().as_str()).allows(Qos::AtMostOnce, true)
        });
        let Standing { identity, learned, .. } = &mut **standing;
        let of = || Arc::new(Author::new(epoch, client_id, identity.as_deref(), by_own));
        match learned.as_deref_mut().filter(|learned| learned.epoch == epoch) {
            Some(learned) => {
                learned.author.take_if(|author| author.is_by_own() != by_own);
                Some(Arc::clone(learned.author.get_or_insert_with(of)))
            }
            None => Some(of()),
        }
    }

    /// The highest QoS at which the client of a session may subscribe to a filter.
    pub(crate) fn may_subscribe(&self, index: u32, filter: &TopicFilter) -> Option<Qos> {
        let access = &self.config.access;
        if !access.is_on || sabotage::on(Sabotage::DenialIgnored) {
            return Some(Qos::ExactlyOnce);
        }
        let session = self.sessions.get(index)?;
        let id = session.client_id.as_str();
        access.subscribable(id, session.standing.as_deref()?, filter)
    }

    /// Whether the will of a session may be published. Of a session that was brought back nobody knows any more in
    /// which groups its client was and where it came from: its will had the right when it was kept.
    pub(crate) fn may_leave_will(
        &mut self,
        index: u32,
        topic: &TopicName,
        qos: Qos,
        retain: bool,
    ) -> bool {
        let session = self.sessions.get(index);
        let is_restored = session
            .and_then(|session| session.standing.as_deref())
            .is_some_and(|standing| standing.listener == NOWHERE);
        is_restored || self.may_publish(index, topic, qos, retain)
    }

    /// Whether what waits for a session must not reach its client, since it has lost the right to it.
    #[inline]
    pub(crate) fn has_lost(&self, index: u32, topic: &TopicName) -> bool {
        let standing = self.sessions.get(index).and_then(|session| session.standing.as_deref());
        standing.is_some_and(|standing| standing.is_doubtful) && !self.may_receive(index, topic)
    }

    /// Whether the client of a session may subscribe to a topic.
    #[cold]
    #[inline(never)]
    fn may_receive(&self, index: u32, topic: &TopicName) -> bool {
        let filter = TopicFilter::new(topic.text().clone());
        // A topic name is a filter.
        filter.is_ok_and(|filter| self.may_subscribe(index, &filter).is_some())
    }

    /// A client that is connected has proved once more who it is. False if it is somebody else now, which it must
    /// not become: its session belongs to the user whose it is.
    pub(crate) fn proves_again(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        identity: Option<Arc<Identity>>,
    ) -> bool {
        let Some(identity) = identity else { return true };
        let index = self.session_of(conn);
        let session = index.and_then(|index| self.sessions.get_mut(index));
        let Some(standing) = session.and_then(|session| session.standing.as_deref_mut()) else {
            return true;
        };
        let is_same = standing.user() == Some(&identity.user);
        if is_same {
            standing.ends_at = Tick::after(identity.ends_at_ms);
            (standing.identity, standing.learned) = (Some(identity), None);
            // It may be in fewer groups than before.
            index.inspect(|&index| self.review(turn, index));
        }
        is_same
    }

    /// The rules are others from now on. Those who are connected lose what they may have no longer, some in each
    /// input; those who are not, when they come.
    pub(crate) fn set_rules(&mut self, rules: Option<Arc<Rules>>) {
        self.config.access.rules = rules;
        self.rules_epoch = self.rules_epoch.wrapping_add(1);
        self.reviewed = 0;
        self.overdue = true;
    }

    /// Disconnects whom this is about: at once who has the client identifier, others as they are found.
    pub(crate) fn on_ban(&mut self, turn: &mut Turn<'_>, banned: Banned) {
        if let Banned::ClientId(client_id) = &banned {
            if let Some(index) = self.find_session(client_id) {
                self.shut_out(turn, index);
            }
        } else if self.config.access.is_on {
            self.banned.push(banned);
            (self.reviewed, self.overdue) = (0, true);
        }
    }

    fn shut_out(&mut self, turn: &mut Turn<'_>, index: u32) {
        if let Some(conn) = self.conn_of(index) {
            let reason = ReasonCode::AdministrativeAction;
            self.end_by(turn, conn, EndedBy::Admin, Violation::new(reason, "banned"));
        }
    }

    /// Goes on looking at the subscriptions of those who are connected. True if there is more to look at.
    pub(crate) fn review_some(&mut self, turn: &mut Turn<'_>) -> bool {
        let end = self.sessions.end();
        let upto = self.reviewed.saturating_add(REVIEWED_PER_INPUT).min(end);
        for index in self.reviewed..upto {
            let Some(session) = self.sessions.get(index).filter(|it| it.is_online()) else {
                continue;
            };
            let standing = session.standing.as_deref();
            let is_banned = |banned: &Banned| standing.is_some_and(|it| it.is_of(banned));
            match self.banned.iter().any(is_banned) {
                true => self.shut_out(turn, index),
                false => self.review(turn, index),
            }
        }
        self.reviewed = if upto == end { u32::MAX } else { upto };
        if upto == end {
            self.banned.clear();
        }
        upto != end
    }

    /// Takes the subscriptions from a session that its client may not have, or not any more.
    pub(crate) fn review(&mut self, turn: &mut Turn<'_>, index: u32) {
        if !self.config.access.is_on {
            return;
        }
        for filter in self.filters_of(index) {
            if self.may_subscribe(index, &filter).is_some() {
                continue;
            }
            self.give_due(turn, index);
            if self.unsubscribe(turn, index, &filter) {
                self.cancel_pulls(index, vec![&filter]);
                if let Some(session) = self.sessions.get_mut(index) {
                    if let Some(standing) = &mut session.standing {
                        standing.is_doubtful = true;
                    }
                    let client_id = session.client_id();
                    turn.out.events.push(Event::Revoked { client_id, filter });
                }
            }
        }
    }

    /// The filters of all subscriptions of a session, as its client wrote them.
    fn filters_of(&self, index: u32) -> Vec<TopicFilter> {
        let Some(session) = self.sessions.get(index) else { return Vec::new() };
        let own = session.subscriptions.as_slice().iter();
        let own = own.map(|of| Bytes::copy_from_slice(self.matcher.filter(of.filter)));
        let shared = session.rare.as_deref().into_iter().flat_map(|rare| rare.shared.keys());
        let shared = shared.map(|group| group.written().into_bytes().into());
        own.chain(shared)
            .filter_map(|bytes| TopicFilter::new(Text::new(bytes).ok()?).ok())
            .collect()
    }

    /// Ends a subscription of either kind; false if there was none.
    pub(crate) fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        filter: &TopicFilter,
    ) -> bool {
        let existed = match filter.shared() {
            Some(shared) => self.leave(turn, index, &shared),
            None => self.remove_subscription(index, filter),
        };
        if existed && let Some(incarnation) = self.keeps_subscriptions(index) {
            let filter = crate::subscribe::own_filter(filter);
            self.record(turn, Record::Unsubscribed { incarnation, filter });
        }
        existed
    }
}
