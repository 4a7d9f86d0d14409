//! What must hold whatever crashes: nothing acknowledged is lost, nothing comes twice at QoS 2, what
//! comes is in order, and nothing comes back that was discarded.

use std::collections::{BTreeMap, BTreeSet};

use petrel_proto::Qos;

use super::client::{Client, MessageId, Wants};
use crate::violated;
use crate::violation::Checked;

/// A message as it was published.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    pub topic: u8,
    pub qos: Qos,
    pub retain: bool,
    /// When it was sent first, in steps.
    pub at: u64,
    /// When its publisher learned that the broker has it; `u64::MAX` for not.
    pub acknowledged: u64,
    /// Its publisher lost its session meanwhile and cannot tell.
    pub uncertain: bool,
    /// It expires, and need not arrive.
    pub expires: bool,
}

/// What is known of all messages.
#[derive(Debug, Default)]
pub struct Oracle {
    pub published: BTreeMap<MessageId, Published>,
    pub arrivals: u64,
    /// Messages of QoS 1 that were published again: the acknowledgement may be of the second copy, while the
    /// first is still on its way between shards.
    pub again: BTreeSet<MessageId>,
    /// Queues are soon full: what is dropped at first may come when it is published again.
    pub tight: bool,
    /// Shared groups, by number.
    pub groups: BTreeMap<u8, Group>,
}

/// What is known of a shared group.
#[derive(Debug, Default)]
pub struct Group {
    /// When a member was told that it is one who stays for ever; what is published later must come.
    since: Option<u64>,
    /// When the session of a member of QoS 2 ended last: what was on its way to it goes to nobody
    /// else ([MQTT5-4.8.2-5]).
    ended: u64,
    /// What has reached one of its members; true if at QoS 2.
    got: BTreeMap<MessageId, bool>,
}

impl Oracle {
    /// A message reaches an application.
    pub fn arrives(
        &mut self,
        client: &mut Client,
        id: MessageId,
        qos: Qos,
        stored: bool,
    ) -> Checked {
        self.arrivals += 1;
        let at = self.arrivals;
        let Some(published) = self.published.get(&id).copied() else {
            return Err(violated!("crash", "{} got {id:?}, which nobody published", client.name));
        };
        // What waits in a shared group is not a member's.
        let own = client.group().is_none();
        let may_be_late = published.uncertain || self.again.contains(&id);
        if own && published.acknowledged < client.asked_at && !stored && !may_be_late {
            return Err(violated!(
                "crash",
                "{} got {id:?}, which was acknowledged before its session began: the session before \
                 came back",
                client.name
            ));
        }
        if let Some(group) = client.group() {
            return self.arrives_in_group(client, group, (id, qos), published);
        }
        let is_first = !client.got.contains_key(&id);
        let got = client.got.entry(id).or_insert(super::client::Got { times: 0, at, qos });
        if stored {
            // An answer to SUBSCRIBE is no delivery of what was published.
            return Ok(());
        }
        got.times += 1;
        let times = got.times;
        // Exactly once needs both sides to be at QoS 2 and to have kept their sessions.
        if qos == Qos::ExactlyOnce && times > 1 && !published.uncertain {
            return Err(violated!("crash", "{} got {id:?} {times} times", client.name));
        }
        // What was published before the subscription may come again, and late.
        let counts = client.subscribed && published.at > client.since && !self.tight;
        // What has expired at first may come when it is published again.
        let counts = counts && !published.expires;
        if is_first && !published.uncertain && counts {
            self.check_order(client, id, qos, published)?;
        }
        Ok(())
    }

    /// A member is told that it is one.
    pub fn member_begins(&mut self, client: &Client, step: u64) {
        let stays = client.habits.lasting && !client.habits.leaves && !client.habits.forgetful;
        if let Some(group) = client.group().filter(|_| stays) {
            self.groups.entry(group).or_default().since.get_or_insert(step);
        }
    }

    /// The session of a client ends, or may have ended.
    pub fn member_ends(&mut self, client: &Client, step: u64) {
        if let Some(group) = client.group().filter(|_| client.habits.qos == Qos::ExactlyOnce) {
            self.groups.entry(group).or_default().ended = step;
        }
    }

    /// A message reaches a member of a shared group that is kept: at QoS 2 one member, once, and nobody
    /// after that.
    fn arrives_in_group(
        &mut self,
        client: &Client,
        group: u8,
        (id, qos): (MessageId, Qos),
        published: Published,
    ) -> Checked {
        let Group { got, since, .. } = self.groups.entry(group).or_default();
        let before = got.get(&id).copied();
        let is_kept = since.is_some_and(|since| published.at > since);
        if before == Some(true) && is_kept && !published.uncertain {
            return Err(violated!("crash", "{} got {id:?}, which its group has had", client.name));
        }
        got.insert(id, qos == Qos::ExactlyOnce);
        Ok(())
    }

    /// At the end: what reached nobody of a group that still has members.
    fn check_groups(&self, clients: &[Client]) -> Checked {
        for (number, group) in &self.groups {
            let Some(since) = group.since else { continue };
            if clients.iter().any(|one| one.group() == Some(*number) && one.has_quit) {
                continue;
            }
            for (id, published) in &self.published {
                let promised = published.acknowledged < u64::MAX && published.at > since;
                let excused = published.expires
                    || published.qos == Qos::ExactlyOnce && published.at <= group.ended;
                if promised && !excused && !group.got.contains_key(id) {
                    return Err(violated!(
                        "crash",
                        "nobody of group {number} got {id:?} of {published:?}, which was acknowledged"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Of one publisher, topic and QoS, what comes for the first time comes in order.
    fn check_order(&self, client: &Client, id: MessageId, qos: Qos, new: Published) -> Checked {
        let later = client.got.range(id..).find(|(other, got)| {
            other.publisher == id.publisher
                && other.number > id.number
                && got.qos == qos
                && got.times > 0
                && self.published.get(other).is_some_and(|other| {
                    other.topic == new.topic && other.qos == new.qos && !other.uncertain
                })
        });
        match later {
            Some((other, _)) if other.publisher == id.publisher => Err(violated!(
                "crash",
                "{} got {other:?} before {id:?} [MQTT5-4.6.0-6]",
                client.name
            )),
            _ => Ok(()),
        }
    }

    /// At the end, when everybody is connected and nothing moves.
    pub fn check_end(&self, clients: &[Client]) -> Checked {
        if self.tight {
            return Ok(());
        }
        self.check_groups(clients)?;
        for client in clients.iter().filter(|client| client.habits.lasting) {
            self.check_promised(client)?;
            let Some(wants) = client.habits.subscribes else { continue };
            for (id, published) in &self.published {
                let wanted = match wants {
                    Wants::All => true,
                    Wants::Topic(topic) => topic == published.topic,
                    Wants::Group(_) => false,
                };
                let promised = published.acknowledged < u64::MAX
                    && published.at > client.since
                    && !published.expires;
                if wanted && promised && client.subscribed && !client.got.contains_key(id) {
                    return Err(violated!(
                        "crash",
                        "{} never got {id:?} of {published:?}, which was acknowledged",
                        client.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Of each topic the number of the last retained message that was acknowledged before a step.
    pub fn retained_before(&self, step: u64) -> BTreeMap<u8, u32> {
        let retained = self.published.iter().filter(|(id, published)| {
            id.publisher == 0 && published.retain && published.acknowledged < step
        });
        // Its messages are in order.
        retained.map(|(id, published)| (published.topic, id.number)).collect()
    }

    /// What a SUBACK promised of retained messages, or something newer.
    fn check_promised(&self, client: &Client) -> Checked {
        for (&topic, &number) in &client.retained {
            let least = MessageId { publisher: 0, number };
            let is_it = |id: &MessageId| {
                id.publisher == 0 && self.published.get(id).is_some_and(|it| it.topic == topic)
            };
            if client.subscribed && !client.got.range(least..).any(|(id, _)| is_it(id)) {
                return Err(violated!(
                    "crash",
                    "{} never got what topic {topic} retained, which was number {number} when it \
                     subscribed [MQTT5-3.3.1-9]",
                    client.name
                ));
            }
        }
        Ok(())
    }

    /// What a new subscriber must get of each topic with retained messages of one publisher.
    pub fn check_retained(&self, topic: u8, publisher: u8, got: Option<MessageId>) -> Checked {
        let of_topic = self.published.iter().filter(|(id, published)| {
            published.retain && published.topic == topic && id.publisher == publisher
        });
        let acknowledged = of_topic
            .clone()
            .filter(|(_, published)| published.acknowledged < u64::MAX)
            .map(|(id, _)| id.number)
            .max();
        let Some(least) = acknowledged else { return Ok(()) };
        match got {
            Some(got) if got.publisher == publisher && got.number >= least => Ok(()),
            _ => Err(violated!(
                "crash",
                "topic {topic}: the retained message is {got:?}, and {least} of {publisher} was \
                 acknowledged"
            )),
        }
    }
}
