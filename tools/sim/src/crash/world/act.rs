//! What clients do, and the end of a run.

use super::*;

impl World {
    /// A client does one thing that it can do.
    pub(super) fn client_step(&mut self, at: usize) -> Checked {
        if self.clients[at].conn.is_none() {
            if self.step < self.clients[at].habits.late {
                return Ok(());
            }
            let clean = self.clients[at].habits.forgetful && self.rng.percent(15);
            return self.connect(at, clean);
        }
        match self.rng.below(100) {
            0 => self.drop_connection(at),
            1 => self.disconnect(at),
            2..50 => self.read(at),
            50..75 => self.answer(at),
            _ => self.say_something(at),
        }
    }

    pub(super) fn connect(&mut self, at: usize, clean: bool) -> Checked {
        let step = self.step;
        let client = &mut self.clients[at];
        let clean = clean || client.clean || !client.habits.lasting;
        client.clean = clean;
        if clean {
            self.oracle.member_ends(client, step);
        }
        let mut will = None;
        if client.habits.will {
            client.will_number += 1;
            let id = will_id(at, client.will_number);
            let qos = client.habits.qos;
            let (topic, uncertain) = (WILLS, true);
            let (acknowledged, retain, expires) = (u64::MAX, false, false);
            let published =
                Published { topic, qos, retain, at: step, acknowledged, uncertain, expires };
            self.oracle.published.insert(id, published);
            will = Some(Box::new(Will {
                topic: topic_name(WILLS),
                payload: Bytes::from(id.payload()),
                qos,
                retain: false,
                delay_interval_s: None,
                properties: PublishProperties::default(),
            }));
        }
        let client = &self.clients[at];
        let connect = Box::new(Connect {
            version: Version::V5,
            clean_start: clean,
            keep_alive_s: 0,
            client_id: Text::try_from(client.name.as_str()).unwrap_or_default(),
            will,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval_s: client.habits.lasting.then_some(u32::MAX),
                receive_maximum: Some(client.habits.receive_maximum),
                ..ConnectProperties::default()
            },
        });
        let home = self.process.slots.home_of(client.name.as_bytes());
        self.process.next_conn += 1;
        let index = self.process.next_conn;
        let conn = ConnId { index, generation: 1 };
        self.process.conns.insert((home.0, conn), at);
        self.clients[at].conn = Some((home.0, conn));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let origin = Origin {
            listener: 0,
            allow_anonymous: true,
            authenticates: false,
            address,
            certificate: None,
        };
        self.feed(home.0, Input::Connect { conn, connect, origin })
    }

    fn drop_connection(&mut self, at: usize) -> Checked {
        let Some((shard, conn)) = self.clients[at].conn else { return Ok(()) };
        self.process.conns.remove(&(shard, conn));
        self.connection_ends(at);
        self.feed(shard, Input::Closed { conn })
    }

    fn disconnect(&mut self, at: usize) -> Checked {
        let client = &mut self.clients[at];
        let Some((shard, conn)) = client.conn.filter(|_| client.connected) else { return Ok(()) };
        // The will is gone, or not, if the broker dies before it has heard of it.
        client.connected = false;
        self.process.conns.remove(&(shard, conn));
        self.connection_ends(at);
        let packet = Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::Success)));
        self.feed(shard, Input::Packet { conn, packet })
    }

    pub(super) fn send(&mut self, at: usize, packet: Packet) -> Checked {
        let Some((shard, conn)) = self.clients[at].conn else { return Ok(()) };
        self.feed(shard, Input::Packet { conn, packet })
    }

    /// A client reads the next packet.
    fn read(&mut self, at: usize) -> Checked {
        let step = self.step;
        let Some(packet) = self.clients[at].inbox.pop_front() else { return Ok(()) };
        self.say(|| format!("{} reads {packet:?}", self.clients[at].name));
        let client = &mut self.clients[at];
        if !matches!(packet, Packet::ConnAck(_)) {
            hold!(client.connected, "crash", "{} got {packet:?} before CONNACK", client.name);
        }
        match packet {
            Packet::ConnAck(connack) => {
                hold!(connack.reason == ReasonCode::Success, "crash", "{connack:?}");
                client.connected = true;
                let expected = client.promised && !client.clean;
                hold!(
                    connack.session_present || !expected,
                    "crash",
                    "the session of {} is lost",
                    client.name
                );
                hold!(
                    !(connack.session_present && client.clean),
                    "crash",
                    "{} asked for a clean start",
                    client.name
                );
                if !connack.session_present {
                    self.oracle.member_ends(client, step);
                    for one in &client.unfinished {
                        if let Some(published) = self.oracle.published.get_mut(&one.id) {
                            published.uncertain |= published.acknowledged == u64::MAX;
                        }
                    }
                    client.lose_session();
                }
                client.clean = false;
                for one in &mut client.unfinished {
                    one.sent = false;
                }
            }
            Packet::SubAck(_) => {
                client.subscribed = true;
                client.promised |= client.habits.lasting;
                client.since = step;
                if client.habits.subscribes == Some(Wants::All) {
                    client.retained = self.oracle.retained_before(client.asked_at);
                    if !client.retained.is_empty() && self.rng.percent(30) {
                        self.doomed_at = step + self.rng.below(40);
                    }
                }
                self.oracle.member_begins(client, step);
            }
            Packet::Publish(publish) => return self.receive(at, publish),
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                let packet_id = ack.packet_id;
                let found = client.unfinished.iter().position(|one| one.packet_id == packet_id);
                let Some(found) = found else { return Ok(()) };
                let one = &mut client.unfinished[found];
                if let Some(published) = self.oracle.published.get_mut(&one.id) {
                    published.acknowledged = published.acknowledged.min(step);
                }
                if one.qos == Qos::AtLeastOnce {
                    client.unfinished.remove(found);
                } else {
                    client.promised |= client.habits.lasting;
                    one.received = true;
                    let ack = Ack::new(packet_id, ReasonCode::Success);
                    client.owes.push_back(Packet::PubRel(ack));
                }
            }
            Packet::PubComp(ack) => {
                client.unfinished.retain(|one| one.packet_id != ack.packet_id);
            }
            Packet::PubRel(ack) => {
                client.receiving.remove(&ack.packet_id);
                let ack = Ack::new(ack.packet_id, ReasonCode::Success);
                client.owes.push_back(Packet::PubComp(ack));
            }
            Packet::Disconnect(_) => {
                return Err(violated!("crash", "{} was disconnected", client.name));
            }
            _ => {}
        }
        Ok(())
    }

    /// A message reaches a client ([MQTT5-4.3.3-10] on its side).
    fn receive(&mut self, at: usize, publish: Publish) -> Checked {
        let Some(id) = MessageId::of(&publish.payload) else {
            return Err(violated!("crash", "a payload that nobody sent"));
        };
        let client = &mut self.clients[at];
        let packet_id = publish.packet_id.unwrap_or(PacketId(std::num::NonZeroU16::MIN));
        let ack = Ack::new(packet_id, ReasonCode::Success);
        if publish.qos > Qos::AtMostOnce
            && let Some(before) = client.receiving.get(&packet_id)
        {
            hold!(
                *before == id && publish.qos == Qos::ExactlyOnce,
                "crash",
                "{} got {id:?} as {packet_id:?}, and holds that for {before:?} [MQTT5-2.2.1-4]",
                client.name
            );
        }
        if publish.qos == Qos::ExactlyOnce {
            client.owes.push_back(Packet::PubRec(ack));
            if client.receiving.insert(packet_id, id).is_some() {
                return Ok(());
            }
        } else {
            client.owes.push_back(Packet::PubAck(ack));
        }
        self.oracle.arrives(client, id, publish.qos, publish.retain)
    }

    fn answer(&mut self, at: usize) -> Checked {
        match self.clients[at].owes.pop_front() {
            Some(packet) => self.send(at, packet),
            None => Ok(()),
        }
    }

    /// A client subscribes, goes on with what is unfinished, or publishes.
    fn say_something(&mut self, at: usize) -> Checked {
        let step = self.step;
        let client = &mut self.clients[at];
        if !client.connected {
            return Ok(());
        }
        let leaves = client.habits.leaves && client.subscribed && self.rng.percent(3);
        if leaves || (client.quits && !client.has_quit) {
            (client.subscribed, client.subscribing) = (false, false);
            client.has_quit = client.quits;
            return self.unsubscribe(at);
        }
        let client = &mut self.clients[at];
        if let Some(wants) = client.habits.subscribes
            && !client.subscribed
            && !client.subscribing
            && !client.has_quit
        {
            client.subscribing = true;
            if client.asked_at == u64::MAX {
                client.asked_at = step;
            }
            return self.subscribe(at, wants);
        }
        if let Some(one) = client.unfinished.iter_mut().find(|one| !one.sent) {
            // Again, in the order of the first time ([MQTT5-4.6.0-1]).
            one.sent = true;
            let one = one.clone();
            if one.qos == Qos::AtLeastOnce {
                self.oracle.again.insert(one.id);
            }
            let packet = match one.received {
                true => Packet::PubRel(Ack::new(one.packet_id, ReasonCode::Success)),
                false => Packet::Publish(publish_of(&one, true)),
            };
            return self.send(at, packet);
        }
        let window = self.rng.index(8);
        let client = &mut self.clients[at];
        if !client.habits.publishes || client.unfinished.len() > window {
            return Ok(());
        }
        let Some(packet_id) = client.free_packet_id() else { return Ok(()) };
        client.published += 1;
        let id = MessageId { publisher: at as u8, number: client.published };
        let (qos, retain) = (client.habits.qos, client.habits.retain);
        let topic = match retain {
            // Some of them seldom change.
            true if self.rng.percent(50) => RETAINED + 10 * (1 + self.rng.below(9) as u8),
            true => RETAINED,
            false => self.rng.below(3) as u8,
        };
        let hurries = self.clients[at].habits.hurries && self.rng.percent(40);
        let expiry_s = hurries.then(|| 1 + self.rng.below(20) as u32);
        let (received, sent) = (false, true);
        let one = Unfinished { id, packet_id, topic, qos, retain, received, sent, expiry_s };
        let packet = Packet::Publish(publish_of(&one, false));
        self.clients[at].unfinished.push_back(one);
        let (acknowledged, uncertain, expires) = (u64::MAX, false, hurries);
        let published =
            Published { topic, qos, retain, at: step, acknowledged, uncertain, expires };
        self.oracle.published.insert(id, published);
        self.send(at, packet)
    }

    fn subscribe(&mut self, at: usize, wants: Wants) -> Checked {
        let filter = filter_of(wants)?;
        let options =
            SubscriptionOptions { qos: self.clients[at].habits.qos, ..Default::default() };
        let subscribe = Subscribe {
            packet_id: PacketId(std::num::NonZeroU16::MAX),
            subscription_identifier: None,
            user_properties: Default::default(),
            filters: [SubscribeFilter { filter, options }].into_iter().collect(),
        };
        self.send(at, Packet::Subscribe(Box::new(subscribe)))
    }

    fn unsubscribe(&mut self, at: usize) -> Checked {
        let Some(wants) = self.clients[at].habits.subscribes else { return Ok(()) };
        let unsubscribe = Unsubscribe {
            packet_id: PacketId(std::num::NonZeroU16::MAX),
            user_properties: Default::default(),
            filters: [filter_of(wants)?].into_iter().collect(),
        };
        self.send(at, Packet::Unsubscribe(Box::new(unsubscribe)))
    }

    /// Nothing fails any more: everybody finishes what is unfinished, and the oracle counts.
    pub(super) fn settle(&mut self) -> Checked {
        for lane in &mut self.lanes {
            lane.store_mut().mend();
        }
        let quits = self.rng.percent(50);
        for client in &mut self.clients {
            client.habits.publishes = false;
            client.habits.leaves = false;
            client.quits = quits && client.group() == Some(1);
        }
        self.audit()?;
        let mut quiet = 0;
        for _ in 0..20_000 {
            if quiet > 3 {
                self.oracle.check_end(&self.clients)?;
                self.check_groups()?;
                return self.check_retained();
            }
            quiet = if self.round()? { 0 } else { quiet + 1 };
        }
        Err(violated!("crash", "the run does not come to rest: {}", self.left()))
    }

    /// What is still under way, in words.
    fn left(&self) -> String {
        let clients = self.clients.iter().filter_map(|client| {
            let waits = client.waits();
            let parts = (client.inbox.len(), client.owes.len(), &client.unfinished, waits);
            let nothing = parts.0 + parts.1 + parts.2.len() == 0 && !waits;
            (!nothing).then(|| format!("{} {} {parts:?}", client.name, client.connected))
        });
        let promises: Vec<usize> =
            self.process.shards.iter().map(|shard| shard.census().promises).collect();
        let gathered: Vec<usize> = self.lanes.iter().map(Lane::gathered).collect();
        let loads: Vec<usize> = self.process.loads.iter().map(Vec::len).collect();
        format!(
            "clients {:?}, promises {promises:?}, gathered {gathered:?}, loads {loads:?}, marks {}",
            clients.collect::<Vec<_>>(),
            self.process.marks.len()
        )
    }

    /// Everybody does what can be done. Returns whether anything was.
    fn round(&mut self) -> Checked<bool> {
        self.step += 1;
        self.now_ms += 50;
        let before = self.activity();
        for at in 0..self.clients.len() {
            if self.clients[at].conn.is_none() {
                self.connect(at, false)?;
            }
            self.read(at)?;
            self.answer(at)?;
            self.say_something(at)?;
        }
        self.peer_step()?;
        for lane in 0..self.lanes.len() {
            self.take_order(lane)?;
            if self.failed[lane] || self.process.channels[lane].is_empty() {
                self.commit(lane)?;
            }
            self.fold(lane)?;
            self.count(lane)?;
        }
        self.deliver_mark()?;
        self.deliver_answer()?;
        self.deliver_count()?;
        for shard in 0..self.process.shards.len() as u16 {
            self.carry_out(shard)?;
        }
        self.tick()?;
        Ok(before > 0 || self.activity() > 0)
    }

    /// How much is under way.
    fn activity(&self) -> usize {
        let process = &self.process;
        let clients = self.clients.iter().map(|client| {
            let waits = usize::from(client.waits());
            client.inbox.len() + client.owes.len() + client.unfinished.len() + waits
        });
        let rings = process.rings.values().map(VecDeque::len).sum::<usize>();
        let channels = process.channels.iter().map(VecDeque::len).sum::<usize>();
        let gathered = self.lanes.iter().map(Lane::gathered).sum::<usize>();
        let loads = process.loads.iter().map(Vec::len).sum::<usize>();
        let promises: usize = process.shards.iter().map(|shard| shard.census().promises).sum();
        clients.sum::<usize>()
            + rings
            + channels
            + gathered
            + loads
            + promises
            + process.marks.len()
            + process.answers.len()
            + process.walks.iter().map(VecDeque::len).sum::<usize>()
            + process.counted.len()
    }

    /// What is kept of shared groups: those that have members, and nothing that waits in them.
    fn check_groups(&self) -> Checked {
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for lane in &self.lanes {
            let mut groups = Vec::new();
            lane.groups(|incarnation, key| groups.push((incarnation, key)))
                .map_err(|error| storage(&error))?;
            for (incarnation, key) in groups {
                let all = lane.load(incarnation, 0..u64::MAX, usize::MAX, usize::MAX);
                let left = all.map_err(|error| storage(&error))?.messages;
                hold!(left.is_empty(), "crash", "group {key:?} keeps {left:?}");
                found.entry(key.share.as_str().to_owned()).or_default().push(incarnation.to_u64());
            }
        }
        for group in 0..2 {
            let mut members =
                self.clients.iter().filter(|one| one.group() == Some(group) && !one.has_quit);
            let most = usize::from(members.clone().next().is_some());
            let least = usize::from(members.any(|one| one.habits.lasting));
            let count = found.get(&format!("g{group}")).map_or(0, Vec::len);
            hold!(
                (least..=most).contains(&count),
                "crash",
                "group {group} is kept {count} times, and it should be {least} to {most} times"
            );
        }
        Ok(())
    }

    /// Somebody new asks for what is retained.
    fn check_retained(&mut self) -> Checked {
        let habits = Habits {
            lasting: false,
            publishes: false,
            subscribes: Some(Wants::Topic(RETAINED)),
            qos: Qos::AtLeastOnce,
            will: false,
            retain: false,
            hurries: false,
            late: 0,
            forgetful: false,
            leaves: false,
            receive_maximum: 10,
        };
        self.clients.push(Client::new("witness".into(), habits));
        let mut quiet = 0;
        for _ in 0..2_000 {
            quiet = if self.round()? { 0 } else { quiet + 1 };
            if quiet > 3 {
                break;
            }
        }
        let got = self.clients.last().and_then(|witness| witness.got.keys().next_back().copied());
        self.oracle.check_retained(RETAINED, 0, got)
    }
}

fn filter_of(wants: Wants) -> Checked<TopicFilter> {
    let filter = match wants {
        Wants::All => "t/+".to_owned(),
        Wants::Topic(topic) => format!("t/{topic:02}"),
        Wants::Group(group) => format!("$share/g{group}/t/+"),
    };
    let text = Text::try_from(filter.as_str()).unwrap_or_default();
    TopicFilter::new(text).map_err(|error| violated!("crash", "no filter: {error}"))
}

pub(super) fn publish_of(one: &Unfinished, dup: bool) -> Publish {
    Publish {
        dup,
        qos: one.qos,
        retain: one.retain,
        topic: topic_name(one.topic),
        packet_id: Some(one.packet_id),
        properties: PublishProperties {
            message_expiry_interval_s: one.expiry_s,
            ..PublishProperties::default()
        },
        payload: Bytes::from(one.id.payload()),
    }
}
