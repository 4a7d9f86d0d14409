//! What shards know of what waits is what lanes have, and no more of it than is allowed.

use super::*;

impl World {
    /// Clients are left alone until nothing moves between shards and lanes, perhaps soon after a crash;
    /// then what is known of the sessions that are away must be what is kept of them.
    pub(super) fn audit(&mut self) -> Checked {
        if self.rng.percent(50) {
            self.crash()?;
            self.rest()?;
            self.compare_groups()?;
            for _ in 0..self.rng.below(200) {
                self.random_step(0)?;
            }
        }
        self.rest()?;
        self.compare()?;
        if self.oracle.tight { self.fill() } else { Ok(()) }
    }

    /// Nothing moves any more between shards and lanes.
    fn rest(&mut self) -> Checked {
        for _ in 0..20_000 {
            for shard in 0..self.process.shards.len() as u16 {
                self.carry_out(shard)?;
            }
            let process = &self.process;
            let moving = process.rings.values().map(VecDeque::len).sum::<usize>()
                + process.channels.iter().map(VecDeque::len).sum::<usize>()
                + process.loads.iter().map(Vec::len).sum::<usize>()
                + process.walks.iter().map(VecDeque::len).sum::<usize>()
                + process.marks.len()
                + process.answers.len()
                + process.counted.len()
                + self.lanes.iter().map(Lane::gathered).sum::<usize>()
                + self.failed.iter().filter(|failed| **failed).count();
            if moving == 0 {
                return Ok(());
            }
            self.peer_step()?;
            for lane in 0..self.lanes.len() {
                self.lanes[lane].store_mut().mend();
                self.take_order(lane)?;
                self.commit(lane)?;
                self.fold(lane)?;
                self.count(lane)?;
            }
            self.deliver_mark()?;
            self.deliver_answer()?;
            self.deliver_count()?;
        }
        Err(violated!("crash", "shards and lanes do not come to rest"))
    }

    /// Those who are away, but for members of groups: what waits in these is the group's, which keeps it.
    fn away(&self) -> impl Iterator<Item = (usize, petrel_shard::Waiting)> {
        let own = self.clients.iter().enumerate().filter(|(_, client)| client.group().is_none());
        own.filter_map(|(at, client)| {
            let home = self.process.slots.home_of(client.name.as_bytes());
            let name = Text::try_from(client.name.as_str()).unwrap_or_default();
            let waiting = self.process.shards[usize::from(home.0)].waiting(&name)?;
            (!waiting.online).then_some((at, waiting))
        })
    }

    fn compare(&self) -> Checked {
        for shard in &self.process.shards {
            hold!(shard.has_counted(), "crash", "a shard has not counted what waits");
        }
        for (at, waiting) in self.away() {
            let Some(incarnation) = waiting.incarnation else { continue };
            let lane = usize::from(incarnation.slot().0) % self.lanes.len();
            let page = self.lanes[lane]
                .load(incarnation, 0..u64::MAX, usize::MAX, usize::MAX)
                .map_err(|error| storage(&error))?;
            let found = found_in(&page);
            let known = (waiting.queued + waiting.inflight, waiting.bytes);
            let name = &self.clients[at].name;
            // All messages have as many bytes, so that shares of sums are exact.
            hold!(
                known == found,
                "crash",
                "{name}: {known:?} messages and bytes are known to wait, and {found:?} do"
            );
        }
        Ok(())
    }

    /// Nobody has come back, so all that waits in groups is with them.
    fn compare_groups(&self) -> Checked {
        for lane in &self.lanes {
            let mut groups = Vec::new();
            lane.groups(|incarnation, key| groups.push((incarnation, key)))
                .map_err(|error| storage(&error))?;
            for (incarnation, key) in groups {
                let owner = self.process.slots.home(incarnation.slot());
                let known = self.process.shards[usize::from(owner.0)].waiting_in_group(incarnation);
                let page = lane
                    .load(incarnation, 0..u64::MAX, usize::MAX, usize::MAX)
                    .map_err(|error| storage(&error))?;
                let found = found_in(&page);
                hold!(
                    known == Some(found),
                    "crash",
                    "{key:?}: {known:?} messages and bytes are known to wait, and {found:?} do"
                );
            }
        }
        Ok(())
    }

    /// Somebody publishes more than queues take: they must be full, and not fuller.
    fn fill(&mut self) -> Checked {
        let before: BTreeMap<usize, (u64, u64)> =
            self.away().map(|(at, it)| (at, (it.queued, it.inflight))).collect();
        let habits = Habits {
            lasting: false,
            publishes: false,
            subscribes: None,
            qos: Qos::AtLeastOnce,
            will: false,
            retain: false,
            hurries: false,
            late: 0,
            forgetful: false,
            leaves: false,
            receive_maximum: 10,
        };
        let filler = self.clients.len();
        self.clients.push(Client::new("filler".into(), habits));
        self.connect(filler, true)?;
        self.rest()?;
        let most = self.limits.session_queue_messages;
        for number in 0..3 * (most + 1) {
            let (topic, qos, retain) = ((number % 3) as u8, Qos::AtLeastOnce, false);
            let id = MessageId { publisher: filler as u8, number };
            let (at, acknowledged, uncertain, expires) = (self.step, u64::MAX, true, false);
            let published = Published { topic, qos, retain, at, acknowledged, uncertain, expires };
            self.oracle.published.insert(id, published);
            let packet_id = PacketId(std::num::NonZeroU16::MIN);
            let (received, sent, expiry_s) = (false, true, None);
            let one = Unfinished { id, packet_id, topic, qos, retain, received, sent, expiry_s };
            self.send(filler, Packet::Publish(act::publish_of(&one, false)))?;
            self.rest()?;
        }
        self.clients[filler].inbox.clear();
        self.clients[filler].connected = true;
        self.compare()?;
        let policy = self.limits.session_queue_full;
        for (at, waiting) in self.away() {
            let client = &self.clients[at];
            let found = before.get(&at).copied();
            let (Some(_), Some((before, inflight))) = (client.habits.subscribes, found) else {
                continue;
            };
            if !client.subscribed || client.clean {
                continue;
            }
            // What was in flight waits with the rest when that leaves the memory.
            let expected = match policy {
                QueueFull::DropNewest => {
                    let least = before.max(u64::from(most));
                    least..=least + inflight
                }
                QueueFull::DropOldest => u64::from(most)..=u64::from(most),
            };
            hold!(
                expected.contains(&waiting.queued),
                "crash",
                "{}: {before} messages waited and {} do, of at most {most}",
                client.name,
                waiting.queued
            );
        }
        Ok(())
    }
}

/// Messages of a page, and their bytes. What a client has and has not completed is none any more.
fn found_in(page: &Page) -> (u64, u64) {
    let messages = page.messages.iter().filter_map(|stored| stored.delivery.as_ref());
    let costs = messages.map(|delivery| delivery.message.cost_bytes() as u64);
    (costs.clone().count() as u64, costs.sum())
}
