//! Somebody who watches a run: it must be the same run, and all of it must be said.
//!
//! Has chance of its own, so that the run that is watched is that of the same seed. Some watch everything from the
//! beginning: then each packet, in and out, and each message that is dropped must be said. The others change
//! what they watch all the time.

use std::sync::Arc;

use petrel_proto::{Packet, Text, TopicFilter};
use petrel_shard::{Input, Now, Outbox, Shard, Subject, Traced, WATCHES_MAX, Watched, What};

use crate::oracle::Output;
use crate::rng::Rng;
use crate::violation::Checked;
use crate::{hold, violated};

/// Inputs after which something else is watched, in percent.
const CHANGES_PERCENT: u64 = 3;

/// Watches the shards of a run.
#[derive(Debug)]
pub struct Watcher {
    rng: Rng,
    /// Everything is watched from the beginning.
    is_all: bool,
    begun: Vec<u16>,
    number: u64,
    /// What was said in all.
    pub said: u64,
}

impl Watcher {
    /// One for the run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed_0f3a_7c4e_11aa);
        let is_all = rng.percent(50);
        Self { rng, is_all, begun: Vec::new(), number: 0, said: 0 }
    }

    /// Before an input: perhaps something else is watched.
    ///
    /// # Errors
    /// To watch did something.
    pub fn before(
        &mut self,
        (shard, mind): (u16, &mut Shard),
        now: Now,
        out: &mut Outbox,
    ) -> Checked {
        let changes = match self.is_all {
            true => !self.begun.contains(&shard),
            false => self.rng.percent(CHANGES_PERCENT),
        };
        if !changes {
            return Ok(());
        }
        self.begun.push(shard);
        self.number += 1;
        let subjects = match self.is_all {
            true => everything(),
            false => self.something(),
        };
        let watched = Watched { number: self.number, subjects };
        let is_none = !self.is_all && self.rng.percent(30);
        let before = (out.writes.len(), out.peers.len(), out.events.len(), out.ledger);
        mind.handle(now, Input::Watch((!is_none).then(|| Arc::new(watched))), out);
        let after = (out.writes.len(), out.peers.len(), out.events.len(), out.ledger);
        hold!(before == after, "watch", "to watch wrote {:?} and not {:?}", after, before);
        Ok(())
    }

    fn something(&mut self) -> [Option<Subject>; WATCHES_MAX] {
        let rng = &mut self.rng;
        std::array::from_fn(|_| match rng.below(12) {
            0..=2 => Some(Subject::ClientId(text(&format!("client-{}", rng.between(1, 10))))),
            3 => Some(Subject::User(text(rng.pick::<&str>(&["one", "two"])))),
            4 => Some(addresses("127.0.0.0/8")),
            5 => Some(addresses("10.0.0.0/8")),
            6..=7 => Some(topic(rng.pick::<&str>(&["t/#", "#", "t/a", "+/+", "$d/#", "w/1"]))),
            _ => None,
        })
    }

    /// After an input: if everything is watched, all of it was said.
    ///
    /// # Errors
    /// Something was not.
    pub fn after(&mut self, packet: Option<&Packet>, out: &mut Outbox, output: &Output) -> Checked {
        let traced = std::mem::take(&mut out.traced);
        let left_out = std::mem::take(&mut out.untraced);
        self.said += traced.len() as u64;
        if !self.is_all || left_out > 0 {
            return Ok(());
        }
        let sent: Vec<_> = traced.iter().filter_map(sent).collect();
        let written = output.packets.iter().map(|(conn, packet, bytes)| (*conn, packet, *bytes));
        let written: Vec<_> = written.collect();
        hold!(sent == written, "watch", "{sent:?} is said to be sent, and not {written:?}");
        if let Some(packet) = packet {
            let came = |it: &&Traced| matches!(&it.what, What::Came(came) if **came == *packet);
            let count = traced.iter().filter(came).count();
            hold!(count == 1, "watch", "it is said {count} times that {packet:?} came");
        }
        let dropped = traced.iter().map(dropped).sum::<u64>();
        let drops = output.drops.all();
        hold!(dropped == drops, "watch", "{dropped} drops are said and not {:?}", output.drops);
        for one in &traced {
            let is_about = one.client_id.is_some() || one.topic.is_some() || one.conn.is_some();
            hold!(is_about && !one.to.is_none(), "watch", "{one:?} is about nobody");
        }
        let rights = traced.iter().filter(|it| matches!(it.what, What::Right { .. })).count();
        let denied = traced
            .iter()
            .any(|it| matches!(it.what, What::Right { filter: None, allowed: None, .. }));
        let refused = traced.iter().any(|it| matches!(it.what, What::Refused(_)));
        if denied && !refused {
            return Err(violated!("watch", "what is denied is not refused, of {rights}"));
        }
        Ok(())
    }
}

fn sent(traced: &Traced) -> Option<(petrel_shard::ConnId, &Packet, usize)> {
    match &traced.what {
        What::Sent { packet, bytes } => Some((traced.conn?, packet, *bytes)),
        _ => None,
    }
}

fn dropped(traced: &Traced) -> u64 {
    match traced.what {
        What::Dropped { copies, .. } => copies,
        What::Refused(_) | What::NotRetained => 1,
        _ => 0,
    }
}

fn everything() -> [Option<Subject>; WATCHES_MAX] {
    let mut all = [addresses("0.0.0.0/0"), topic("#"), topic("$d/#")].into_iter();
    std::array::from_fn(|_| all.next())
}

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap_or_default()
}

fn topic(filter: &str) -> Subject {
    Subject::Topic(TopicFilter::new(text(filter)).unwrap_or_else(|why| unreachable!("{why}")))
}

fn addresses(range: &str) -> Subject {
    Subject::Addresses(range.parse().unwrap_or_else(|why| unreachable!("{range} {why}")))
}
