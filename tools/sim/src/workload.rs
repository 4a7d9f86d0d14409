//! What clients do: a random choice at every turn, within the protocol.

use bytes::Bytes;
use petrel_proto::{
    Auth, Connect, ConnectProperties, Disconnect, MessageFields, MessageProperties, Packet,
    PayloadFormat, Publish, PublishProperties, Qos, ReasonCode, ReasonProperties, RetainHandling,
    Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter, TopicName, Unsubscribe,
    UserProperties, Version, Will, encoded_len,
};
use petrel_shard::{ConnId, Input, Verdict};

use crate::client::{InFlight, text};
use crate::label::Label;
use crate::oracle::Hint;
use crate::oracle::delivery::RECEIVERS_MANY;
use crate::rng::Rng;
use crate::violation::Checked;
use crate::world::{Event, World};

impl World {
    /// Lets every client begin: the watchers first, the others once those have subscribed.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn begin(&mut self) -> Checked {
        let watchers = self.watchers();
        for watcher in 0..watchers {
            self.connect(watcher, false);
            self.subscribe_to(watcher, &[("w/#", Qos::AtMostOnce)]);
        }
        self.run_until_quiet(10_000)?;
        for client in watchers..self.clients.len() {
            let delay_ms = self.rng.below(200);
            self.schedule(delay_ms, Event::Act(client));
        }
        Ok(())
    }

    /// How many of the first clients are watchers.
    pub(crate) fn watchers(&self) -> usize {
        self.clients.iter().take_while(|client| client.habits.watcher).count()
    }

    /// A client's turn.
    pub(crate) fn act(&mut self, client: usize) -> Checked {
        if self.settling {
            self.come_back(client);
            return Ok(());
        }
        if self.actions_left == 0 {
            return Ok(());
        }
        self.actions_left -= 1;
        self.act_once(client)?;
        let pause_ms = self.rng.below(self.scenario.pause_ms) + 1;
        self.schedule(pause_ms, Event::Act(client));
        Ok(())
    }

    fn act_once(&mut self, client: usize) -> Checked {
        if self.scenario.jumps && self.rng.percent(2) {
            self.now_ms += *self.rng.pick(&[1_000, 4_000, 15_000]);
        }
        let Some(link) = self.clients[client].link else {
            if self.rng.percent(50) {
                self.connect_random(client);
            }
            return Ok(());
        };
        if !self.clients[client].connected {
            return Ok(());
        }
        if self.clients[client].habits.hostile && self.rng.percent(15) {
            self.break_a_rule(client, link);
            return Ok(());
        }
        match self.rng.below(100) {
            0..=19 => self.subscribe_random(client, link),
            20..=25 => self.unsubscribe_random(client, link),
            26..=77 => self.publish_some(client, link),
            78..=79 => return self.publish_own(),
            80..=84 => self.send(link, &Packet::PingReq),
            85..=88 => self.disconnect(client, link),
            89..=92 => self.lose(client, link),
            93..=96 => {
                // The old connection goes on; the broker has to end it.
                self.links[link].reading = false;
                self.connect_random(client);
            }
            97 => return self.kick_somebody(),
            98 => self.authenticate_again(link),
            _ => return self.change_the_rules(),
        }
        Ok(())
    }

    fn authenticate_again(&mut self, at: usize) {
        let link = &mut self.links[at];
        if link.authenticates && !std::mem::replace(&mut link.authenticates_again, true) {
            self.send(at, &auth(ReasonCode::ReAuthenticate));
        }
    }

    fn lose(&mut self, client: usize, link: usize) {
        let abrupt = self.rng.percent(70);
        self.close_link(link, abrupt);
        self.clients[client].on_link_lost();
    }

    /// The next rules hold for all shards at once.
    fn change_the_rules(&mut self) -> Checked {
        if self.scenario.policies.len() < 2 {
            return Ok(());
        }
        self.scenario.policies.rotate_left(1);
        let policy = self.scenario.policies[0].clone();
        let rules = Some(std::sync::Arc::new(policy.rules()));
        self.model.set_policy(policy);
        for shard in 0..self.shards() {
            self.feed(shard, Input::Rules(rules.clone()), &Hint::default())?;
        }
        Ok(())
    }

    fn kick_somebody(&mut self) -> Checked {
        let live: Vec<_> = (self.links.iter())
            .filter(|link| !self.clients[link.client].habits.watcher)
            .filter_map(|link| link.key)
            .collect();
        if live.is_empty() {
            return Ok(());
        }
        let (shard, conn) = *self.rng.pick(&live);
        let reason = ReasonCode::AdministrativeAction;
        self.feed(shard, Input::Kick { conn, reason }, &Hint::default())
    }

    /// The broker has ended the connection of a client.
    pub(crate) fn on_eof(&mut self, client: usize) {
        if let Some(link) = self.clients[client].link {
            self.close_link(link, false);
        }
        self.clients[client].on_link_lost();
        if self.settling {
            self.schedule(10, Event::Act(client));
        }
    }

    fn connect_random(&mut self, client: usize) {
        let rng = &mut self.rng;
        let me = &mut self.clients[client];
        let version = me.habits.version;
        let v5 = version == Version::V5;
        let nameless = me.client_id.is_empty();
        let capped = self.scenario.limits.session_expiry_max_s != u32::MAX;
        let clean = rng.percent(me.habits.clean_percent)
            || nameless && !v5
            || capped && version == Version::V3_1;
        let mut properties = ConnectProperties::default();
        if v5 {
            let longest = if nameless { &[0, 3, 10][..] } else { &[0, 3, 10, 60, u32::MAX][..] };
            properties.session_expiry_interval_s = rng.percent(80).then(|| *rng.pick(longest));
            properties.receive_maximum = rng.percent(60).then(|| *rng.pick(&[1, 2, 5, 100]));
            properties.maximum_packet_size = rng.percent(10).then(|| *rng.pick(&[64, 150]));
            properties.topic_alias_maximum = rng.percent(60).then(|| *rng.pick(&[0, 1, 2, 10]));
            properties.request_problem_information = rng.percent(20).then_some(false);
            if rng.percent(10) {
                // What comes with CONNACK must fit.
                properties.maximum_packet_size = None;
                properties.authentication_method = Some(text("sim"));
                properties.authentication_data = Some(Bytes::from_static(b"hello"));
            }
        }
        let keep_alive_s = *rng.pick(&[0, 0, 0, 2, 5]);
        let mute = rng.percent(20);
        // When a will is routed is seen by the first who gets it, who may be late if it goes in parts.
        let in_parts = self.scenario.limits.receivers_per_turn < RECEIVERS_MANY;
        let will = (rng.percent(40) && !in_parts).then(|| {
            let label = me.next_will();
            let mut will = Will {
                topic: topic(&format!("w/{client}")),
                payload: label.payload(rng.below(40) as usize),
                qos: qos(rng),
                retain: rng.percent(25),
                delay_interval_s: None,
                properties: PublishProperties::default(),
            };
            if v5 {
                will.delay_interval_s = *rng.pick(&[None, Some(0), Some(1), Some(5)]);
                will.properties = publish_properties(rng);
            }
            Box::new(will)
        });
        let connect = Connect {
            version,
            clean_start: clean,
            keep_alive_s,
            client_id: text(&me.client_id),
            will,
            username: rng.percent(10).then(|| text("somebody")),
            password: None,
            properties,
        };
        let link = self.connect_with(client, connect);
        self.clients[client].mute = mute;
        let authenticates =
            self.clients[client].habits.version == Version::V5 && self.links[link].authenticates;
        if clean && !authenticates && self.rng.percent(30) {
            self.subscribe_random(client, link);
            self.publish_random(client, link, Some(Qos::AtMostOnce));
        }
    }

    /// Connects with a session that is kept; for the beginning and the end of a run.
    pub(crate) fn connect(&mut self, client: usize, clean: bool) -> usize {
        let me = &self.clients[client];
        let version = me.habits.version;
        let mut properties = ConnectProperties::default();
        if version == Version::V5 && !clean {
            properties.session_expiry_interval_s = Some(1000);
        }
        let connect = Connect {
            version,
            clean_start: clean || me.client_id.is_empty() && version != Version::V5,
            keep_alive_s: 0,
            client_id: text(&me.client_id),
            will: None,
            username: None,
            password: None,
            properties,
        };
        self.connect_with(client, connect)
    }

    fn connect_with(&mut self, client: usize, connect: Connect) -> usize {
        let link = self.open_link(client);
        self.links[link].authenticates = connect.properties.authentication_method.is_some();
        let me = &mut self.clients[client];
        me.mute = false;
        me.keep_alive_s = connect.keep_alive_s;
        me.on_new_link(link, connect.clean_start);
        self.send(link, &Packet::Connect(Box::new(connect)));
        link
    }

    fn come_back(&mut self, client: usize) {
        let me = &self.clients[client];
        let gone = me.client_id.is_empty() || me.habits.hostile || me.retired;
        if me.link.is_none() && !gone {
            let capped = self.scenario.limits.session_expiry_max_s != u32::MAX;
            let clean = capped && me.habits.version == Version::V3_1;
            self.connect(client, clean);
        }
    }

    fn subscribe_random(&mut self, client: usize, link: usize) {
        let rng = &mut self.rng;
        let me = &mut self.clients[client];
        let v5 = me.habits.version == Version::V5;
        let mut filters = Vec::new();
        for _ in 0..rng.between(1, 3) {
            let written = match rng.percent(20) {
                true => self.scenario.shared[client % self.scenario.shared.len()],
                false => *rng.pick(&self.scenario.filters),
            };
            if filters.iter().any(|f: &SubscribeFilter| f.filter.text().as_str() == written) {
                continue;
            }
            let filter = filter(written);
            let mut options = SubscriptionOptions { qos: qos(rng), ..Default::default() };
            if v5 {
                options.no_local = !filter.is_shared() && rng.percent(20);
                // With it, a retained message could not be told from a group's.
                options.retain_as_published = !filter.is_shared() && rng.percent(40);
                options.retain_handling = *rng.pick(&[
                    RetainHandling::Send,
                    RetainHandling::Send,
                    RetainHandling::SendIfNew,
                    RetainHandling::DoNotSend,
                ]);
            }
            me.subscribed.insert(written.to_owned());
            filters.push(SubscribeFilter { filter, options });
        }
        let packet_id = me.next_id();
        me.requests.insert(packet_id.get());
        let subscription_identifier = (v5 && rng.percent(50)).then(|| rng.between(1, 300) as u32);
        let packet = Subscribe {
            packet_id,
            subscription_identifier,
            user_properties: UserProperties::default(),
            filters: filters.into(),
        };
        self.send(link, &Packet::Subscribe(Box::new(packet)));
    }

    /// Subscribes to plain filters with default options.
    pub(crate) fn subscribe_to(&mut self, client: usize, wanted: &[(&str, Qos)]) {
        let Some(link) = self.clients[client].link else { return };
        let me = &mut self.clients[client];
        let packet_id = me.next_id();
        me.requests.insert(packet_id.get());
        let filters = wanted.iter().map(|&(written, qos)| {
            me.subscribed.insert(written.to_owned());
            let options = SubscriptionOptions { qos, ..Default::default() };
            SubscribeFilter { filter: filter(written), options }
        });
        let packet = Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: filters.collect(),
        };
        self.send(link, &Packet::Subscribe(Box::new(packet)));
    }

    fn unsubscribe_random(&mut self, client: usize, link: usize) {
        let rng = &mut self.rng;
        let me = &mut self.clients[client];
        let known: Vec<String> = me.subscribed.iter().cloned().collect();
        let written = match known.is_empty() || rng.percent(10) {
            true => (*rng.pick(&self.scenario.filters)).to_owned(),
            false => rng.pick(&known).clone(),
        };
        me.subscribed.remove(&written);
        let packet_id = me.next_id();
        me.requests.insert(packet_id.get());
        let packet = Unsubscribe {
            packet_id,
            user_properties: UserProperties::default(),
            filters: [filter(&written)].into_iter().collect(),
        };
        self.send(link, &Packet::Unsubscribe(Box::new(packet)));
    }

    fn publish_some(&mut self, client: usize, link: usize) {
        for _ in 0..self.rng.between(1, 4) {
            self.publish_random(client, link, None);
        }
    }

    fn publish_random(&mut self, client: usize, link: usize, only: Option<Qos>) {
        let rng = &mut self.rng;
        let me = &mut self.clients[client];
        let mut qos = only.unwrap_or_else(|| qos(rng));
        if !me.has_window() {
            qos = Qos::AtMostOnce;
        }
        let name = rng.pick(&self.scenario.topics);
        let retain = rng.percent(25);
        let clears = retain && rng.percent(20);
        let payload = match clears {
            true => Bytes::new(),
            false => {
                let bytes = *rng.pick(&[0, 20, 60, 200, 1500]);
                me.next_message().payload(bytes)
            }
        };
        let v5 = me.habits.version == Version::V5;
        // Messages without a payload have no name, so they all look alike.
        let properties = match v5 && !clears {
            true => publish_properties(rng),
            false => PublishProperties::default(),
        };
        let packet_id = (qos > Qos::AtMostOnce).then(|| me.next_id());
        let mut publish =
            Publish { dup: false, qos, retain, topic: topic(name), packet_id, properties, payload };
        // An alias takes three bytes more.
        let allowed =
            self.scenario.limits.maximum_packet_size_bytes.min(me.server.packet_bytes_max);
        let bytes = encoded_len(&Packet::Publish(publish.clone()), me.habits.version);
        if bytes.is_none_or(|bytes| bytes + 4 > allowed as usize) {
            publish.payload = publish.payload.slice(..publish.payload.len().min(20));
            publish.properties = PublishProperties::default();
        }
        if packet_id.is_some() {
            me.in_flight.push(InFlight { publish: publish.clone(), received: false });
        }
        me.alias(&mut publish, rng);
        self.send(link, &Packet::Publish(publish));
    }

    /// A shard publishes a message of the broker itself.
    fn publish_own(&mut self) -> Checked {
        let shard = self.rng.below(u64::from(self.shards())) as u16;
        let rng = &mut self.rng;
        let qos = qos(rng);
        let name = rng.pick(&self.scenario.topics).clone();
        let retain = rng.percent(50);
        let (bytes, properties) = match retain && rng.percent(20) {
            true => (None, PublishProperties::default()),
            false => (Some(*rng.pick(&[20, 60, 200])), publish_properties(rng)),
        };
        let number = self.next_own(shard);
        let payload = match bytes {
            Some(bytes) => Label::Own(shard.into(), number).payload(bytes),
            None => Bytes::new(),
        };
        let topic = topic(&name);
        let publish =
            Publish { dup: false, qos, retain, topic, packet_id: None, properties, payload };
        self.feed(shard, Input::Publish(Box::new(publish)), &Hint::default())
    }

    fn disconnect(&mut self, client: usize, link: usize) {
        let rng = &mut self.rng;
        let mut packet = Disconnect::new(ReasonCode::Success);
        if self.clients[client].habits.version == Version::V5 {
            packet.reason = *rng.pick(&[
                ReasonCode::Success,
                ReasonCode::DisconnectWithWill,
                ReasonCode::UnspecifiedError,
            ]);
            let key = self.links[link].key;
            let lives_on = key
                .and_then(|key| self.model.conns.get(&key))
                .is_some_and(|conn| conn.expiry_s > 0);
            if lives_on && rng.percent(30) {
                packet.session_expiry_interval_s = Some(*rng.pick(&[0, 2, 30]));
            }
        }
        self.send(link, &Packet::Disconnect(Box::new(packet)));
        self.close_link(link, false);
        self.clients[client].on_link_lost();
    }

    /// A packet has reached a client.
    pub(crate) fn on_client_packet(&mut self, link: usize, packet: &Packet) {
        let client = self.links[link].client;
        if self.clients[client].link != Some(link) {
            return;
        }
        if let Packet::ConnAck(ack) = packet {
            let again = self.clients[client].on_connack(ack);
            for packet in again {
                self.send(link, &packet);
            }
            let keep_alive_s = self.clients[client].keep_alive_s;
            if keep_alive_s > 0 {
                self.schedule(u64::from(keep_alive_s) * 500, Event::Ping(client, link));
            }
            return;
        }
        if let Packet::Auth(packet) = packet {
            match packet.reason {
                ReasonCode::Success => self.links[link].authenticates_again = false,
                _ => self.send(link, &auth(ReasonCode::ContinueAuthentication)),
            }
            return;
        }
        let waiting: [usize; 4] = std::array::from_fn(|n| self.clients[client].acks[n].len());
        self.clients[client].on_packet(packet, &mut self.rng);
        for (kind, before) in waiting.into_iter().enumerate() {
            for _ in before..self.clients[client].acks[kind].len() {
                let delay_ms = self.rng.below(self.clients[client].habits.ack_delay_ms + 1);
                self.schedule(delay_ms, Event::Ack(client, link, kind));
            }
        }
    }

    pub(crate) fn send_ack(&mut self, client: usize, link: usize, kind: usize) {
        if self.clients[client].link != Some(link) {
            return;
        }
        if let Some(ack) = self.clients[client].acks[kind].pop_front() {
            self.send(link, &ack);
        }
    }

    pub(crate) fn ping(&mut self, client: usize, link: usize) {
        let me = &self.clients[client];
        let silent = me.mute && !self.settling;
        if me.link != Some(link) || silent {
            return;
        }
        let wait_ms = u64::from(me.keep_alive_s) * 500;
        self.send(link, &Packet::PingReq);
        self.schedule(wait_ms, Event::Ping(client, link));
    }

    /// The authentication method answers.
    pub(crate) fn answer_question(&mut self, shard: u16, conn: ConnId) -> Checked {
        let verdict = match self.rng.below(100) {
            0..=64 => {
                Verdict::Accept { data: Some(Bytes::from_static(b"welcome")), identity: None }
            }
            65..=89 => Verdict::Continue { data: Some(Bytes::from_static(b"and?")) },
            _ => Verdict::Refuse { reason: ReasonCode::NotAuthorized },
        };
        self.feed(shard, Input::Verdict { conn, verdict }, &Hint::default())
    }
}

/// A step of the only authentication method.
fn auth(reason: ReasonCode) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        method: Some(text("sim")),
        data: Some(Bytes::from_static(b"step")),
        properties: ReasonProperties::EMPTY,
    }))
}

/// A topic name known to be valid.
pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(text(name)).unwrap_or_default()
}

/// A topic filter known to be valid.
pub(crate) fn filter(written: &str) -> TopicFilter {
    match TopicFilter::new(text(written)) {
        Ok(filter) => filter,
        Err(error) => panic!("{written:?} is not a filter: {error}"),
    }
}

fn qos(rng: &mut Rng) -> Qos {
    *rng.pick(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn publish_properties(rng: &mut Rng) -> PublishProperties {
    let mut properties = PublishProperties::default();
    if rng.percent(60) {
        return properties;
    }
    let payload_format = *rng.pick(&[None, Some(PayloadFormat::Bytes), Some(PayloadFormat::Utf8)]);
    let mut fields = MessageFields { payload_format, ..MessageFields::default() };
    properties.message_expiry_interval_s = *rng.pick(&[None, None, Some(1), Some(5), Some(100)]);
    fields.response_topic = rng.percent(30).then(|| text("answers/here"));
    fields.correlation_data = rng.percent(30).then(|| Bytes::from_static(b"\x00\xff"));
    fields.content_type = rng.percent(30).then(|| text("text/plain"));
    if rng.percent(40) {
        let (a, b) = (text("a"), text("b"));
        fields.user_properties = UserProperties::from_pairs([(&a, &b), (&b, &a), (&a, &b)]);
    }
    properties.message = MessageProperties::of(&fields).unwrap_or_default();
    properties
}
