//! The end of a run: everybody comes back, everything comes to rest, and what must be there is
//! counted; then everybody leaves, and nothing may remain.

use bytes::Bytes;
use petrel_proto::{Disconnect, Packet, Publish, PublishProperties, Qos, ReasonCode, Version};
use petrel_shard::Input;

use crate::client::Client;
use crate::oracle::{Hint, census};
use crate::scenario::Habits;
use crate::violated;
use crate::violation::Checked;
use crate::workload::topic;
use crate::world::{Event, World};

/// The longest that a run may take to come to rest, in milliseconds.
const REST_MS: u64 = 120_000;

impl World {
    /// Runs the whole scenario.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn run(&mut self) -> Checked {
        self.begin()?;
        while self.actions_left > 0 {
            self.run_for(100)?;
        }
        self.settle()?;
        self.check_at_rest()?;
        self.probe_retained()?;
        if self.scenario.shutdown { self.shut_down() } else { self.leave() }
    }

    /// Clients come back and behave until nothing moves.
    fn settle(&mut self) -> Checked {
        self.settling = true;
        self.close_abandoned();
        self.links.iter_mut().for_each(|link| link.read_delay_ms = 0);
        for client in 0..self.clients.len() {
            let habits = &mut self.clients[client].habits;
            (habits.ack_delay_ms, habits.read_delay_ms) = (0, 0);
            if self.clients[client].habits.hostile {
                self.part(client);
            }
            self.schedule(10, Event::Act(client));
        }
        self.run_until_quiet(REST_MS)?;
        // Delayed wills come, and sessions that nobody resumes end.
        self.run_for(8_000)?;
        self.run_until_quiet(REST_MS)?;
        self.close_abandoned();
        for client in 0..self.clients.len() {
            // Some were cut for having been silent, or by a connection that came late.
            self.schedule(10, Event::Act(client));
        }
        self.run_until_quiet(REST_MS)?;
        self.run_for(3_000)
    }

    fn check_at_rest(&self) -> Checked {
        self.model.check_answered()?;
        self.model.check_nothing_in_flight()?;
        self.model.check_all_delivered()?;
        self.model.check_all_shared()?;
        self.model.check_all_retained()
    }

    /// A new subscriber gets exactly what every topic retains.
    fn probe_retained(&mut self) -> Checked {
        let probe = self.add_client("probe", Version::V5);
        self.connect(probe, true);
        self.run_until_quiet(REST_MS)?;
        let filters =
            [("#", Qos::ExactlyOnce), ("+/+", Qos::AtLeastOnce), ("$d/#", Qos::AtMostOnce)];
        for wanted in filters {
            self.subscribe_to(probe, &[wanted]);
        }
        self.run_until_quiet(REST_MS)?;
        self.run_for(3_000)?;
        self.check_at_rest()
    }

    fn add_client(&mut self, client_id: &str, version: Version) -> usize {
        let index = self.clients.len();
        let habits = Habits::good(client_id, version);
        self.clients.push(Client::new(index as u32, habits));
        index
    }

    fn shut_down(&mut self) -> Checked {
        self.clients.iter_mut().for_each(|client| client.retired = true);
        for shard in 0..self.shards() {
            self.feed(shard, Input::LastWills, &Hint::default())?;
        }
        self.run_for(200)?;
        for shard in 0..self.shards() {
            self.feed(shard, Input::Shutdown, &Hint::default())?;
        }
        self.run_for(1_000)?;
        for shard in 0..self.shards() {
            census::check_disconnected(usize::from(shard), &self.shard(shard).census())?;
        }
        match self.model.conns.values().next() {
            Some(conn) => Err(violated!("closing", "{:?} outlived the shutdown", conn.client_id)),
            None => Ok(()),
        }
    }

    /// Everybody leaves for good; the watchers last, since wills may still come.
    fn leave(&mut self) -> Checked {
        let watchers = self.watchers();
        for client in watchers..self.clients.len() {
            self.part(client);
        }
        self.run_until_quiet(REST_MS)?;
        self.end_sessions(|client_id| !client_id.starts_with("watcher"))?;
        self.run_for(8_000)?;
        self.clear_retained()?;
        for watcher in 0..watchers {
            self.part(watcher);
        }
        self.run_until_quiet(REST_MS)?;
        self.end_sessions(|_| true)?;
        for _ in 0..4 {
            self.now_ms += 100_000;
            self.run_for(1_000)?;
        }
        for shard in 0..self.shards() {
            census::check_empty(usize::from(shard), &self.shard(shard).census())?;
        }
        census::check_no_interest(&self.interest().stats())
    }

    fn part(&mut self, client: usize) {
        if let Some(link) = self.clients[client].link {
            self.close_link(link, false);
        }
        self.clients[client].on_link_lost();
        self.clients[client].retired = true;
    }

    /// Ends the sessions that are left, by a clean start and a normal end.
    fn end_sessions(&mut self, which: impl Fn(&str) -> bool) -> Checked {
        let left: Vec<(String, Version)> = (self.model.by_client.iter())
            .filter(|(client_id, session)| {
                let stand_in = client_id.starts_with('?');
                self.model.sessions[**session].ended.is_none() && !stand_in && which(client_id)
            })
            .map(|(client_id, session)| (client_id.clone(), self.model.sessions[*session].version))
            .collect();
        for (client_id, version) in left {
            let client = self.add_client(&client_id, version);
            self.clients[client].retired = true;
            let link = self.connect(client, true);
            let goodbye = Disconnect::new(ReasonCode::Success);
            self.send(link, &Packet::Disconnect(Box::new(goodbye)));
        }
        self.run_until_quiet(REST_MS)
    }

    fn clear_retained(&mut self) -> Checked {
        let topics: Vec<String> = self.model.retained.keys().cloned().collect();
        let client = self.add_client("cleaner", Version::V5);
        let link = self.connect(client, true);
        for name in topics {
            let packet = Publish {
                dup: false,
                qos: Qos::AtMostOnce,
                retain: true,
                topic: topic(&name),
                packet_id: None,
                properties: PublishProperties::default(),
                payload: Bytes::new(),
            };
            self.send(link, &Packet::Publish(packet));
        }
        self.run_until_quiet(REST_MS)?;
        self.part(client);
        self.run_until_quiet(REST_MS)
    }
}
