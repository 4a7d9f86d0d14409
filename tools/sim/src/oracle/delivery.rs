//! Oracle *delivery*: who gets a message, how often, and what of it may change on the way.
//!
//! [MQTT5-4.5.0-1], [MQTT5-3.8.4-8], [MQTT5-3.3.4-2] to -5, [MQTT5-3.8.3-3], [MQTT5-3.3.1-12],
//! [MQTT5-3.3.1-13], [MQTT5-3.3.2-4] to -6, [MQTT5-3.3.2-15] to -20, [MQTT5-3.3.2-8] to -12,
//! [MQTT5-4.3.1-1], [MQTT5-4.3.2-2], [MQTT5-4.3.3-2], [MQTT5-4.7.2-1], [MQTT311-3.8.4-6].
//!
//! The filters are compared the slow, obvious way, so this is also where a matcher or an interest
//! table that is wrong comes to light.

use std::collections::BTreeSet;

use petrel_proto::{Packet, PacketId, Publish, PublishProperties, Qos, Version, encoded_len};
use petrel_shard::{DropReason, Drops};

use crate::label::Label;
use crate::model::{Expected, Instance, Key, Model, Routing, Sub};
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "delivery";

/// No message has as many receivers.
pub const RECEIVERS_MANY: u32 = 512;

/// What the shard may take to hand on a message at QoS 0, in milliseconds.
const AT_MOST_ONCE_MS: u64 = 500;

impl Model {
    /// A message was accepted at a shard and sets out from there.
    pub(super) fn set_out(&mut self, shard: u16, instance: Instance) -> Checked {
        let owner = self.home(instance.topic.as_bytes());
        let retain = instance.retain;
        let at = self.instances.len();
        self.by_label.entry(instance.label).or_default().push(at);
        self.instances.push(instance);
        self.routing.push(Routing { instance: at, from: shard, to: BTreeSet::new() });
        self.arrive(at, shard);
        self.route_to_groups(at);
        if retain && owner == shard { self.retain(at, shard) } else { Ok(()) }
    }

    /// A shard publishes a message of the broker itself, which no rules keep from anybody.
    pub(super) fn on_own_publish(&mut self, shard: u16, publish: &Publish) -> Checked {
        let Some(label) = Label::of(&publish.payload) else { return Ok(()) };
        let mut properties = publish.properties.clone();
        let expiry_s = properties.message_expiry_interval_s.take();
        let instance = Instance {
            label,
            // Each shard has an order of its own, and no client has this name.
            publisher: format!("shard {shard}"),
            topic: publish.topic.clone(),
            qos: publish.qos,
            retain: publish.retain,
            properties,
            payload: publish.payload.clone(),
            at: self.at,
            expires_ms: petrel_shard::message::expiry(expiry_s, self.at.now_ms),
        };
        self.set_out(shard, instance)
    }

    /// A message is at a shard and goes to the sessions there.
    pub(super) fn arrive(&mut self, instance: usize, shard: u16) {
        let message = &self.instances[instance];
        let now_ms = self.at.now_ms;
        for &at in self.by_client.values() {
            let session = &self.sessions[at];
            if session.shard != shard || session.ended.is_some() {
                continue;
            }
            let subs: Vec<&Sub> = session
                .subs
                .values()
                .filter(|sub| sub.share.is_none() && sub.filter.matches(&message.topic))
                .filter(|sub| !(sub.no_local && session.client_id == message.publisher))
                .collect();
            let Some(granted) = subs.iter().map(|sub| sub.qos).max() else { continue };
            let qos = granted.min(message.qos);
            let mut ids: Vec<u32> = subs.iter().filter_map(|sub| sub.id).collect();
            ids.sort_unstable();
            let doubtful = session.expires_ms.is_some_and(|at_ms| at_ms <= now_ms);
            // Several messages in one step may fill a small socket, as what an ended session gives back does
            // with its will, and so may what comes late.
            let alone = self.routing.len() <= 1 && !matches!(message.label, Label::Will(..));
            let roomy =
                alone && !self.delivers_in_parts() || self.limits.outgoing_bytes_maximum > 100_000;
            let must = if qos == Qos::AtMostOnce {
                let limit = self.limits.outgoing_bytes_maximum as usize;
                session.conn.and_then(|key| self.conns.get(&key)).is_some_and(|conn| {
                    roomy
                        && conn.connack
                        && conn.must_close.is_none()
                        && 2 * conn.unread_bytes < limit
                })
            } else {
                !doubtful && !self.lossy_queues
            };
            let online = session.conn.and_then(|key| self.conns.get(&key));
            // What is retained goes out at once.
            let late = self.delivers_in_parts()
                && !message.retain
                && online.is_some_and(|conn| conn.connack);
            let expected = Expected {
                instance,
                late,
                at: self.at,
                qos,
                ids,
                as_published: subs.iter().any(|sub| sub.retain_as_published),
                must,
                sent: false,
            };
            self.sessions[at].expected.entry(message.label).or_default().push(expected);
        }
    }

    /// A message that set out was sent to every shard where somebody waits for it.
    pub(super) fn check_routed(&self) -> Checked {
        for Routing { instance, from, to } in &self.routing {
            let message = &self.instances[*instance];
            if message.expires_ms <= self.at.now_ms {
                continue;
            }
            let owner = self.home(message.topic.as_bytes());
            for &at in self.by_client.values() {
                let session = &self.sessions[at];
                if session.shard == *from || to.contains(&session.shard) || self.doubtful(at) {
                    continue;
                }
                let missed = session.ended.is_none().then_some(&session.subs);
                let missed = missed.and_then(|subs| {
                    subs.values().find(|sub| {
                        sub.acked.is_some_and(|step| step < self.at.step)
                            && sub.share.is_none()
                            && sub.filter.matches(&message.topic)
                            && !(sub.no_local && session.client_id == message.publisher)
                            && (sub.qos.min(message.qos) > Qos::AtMostOnce
                                || session.conn.is_some())
                    })
                });
                if let Some(sub) = missed {
                    return Err(violated!(
                        ORACLE,
                        "{:?} to {:?} was accepted on shard {from} and not sent to shard {}, where \
                         {:?} has had its SUBACK for {:?} [MQTT5-4.5.0-1]; retained by {owner}",
                        message.label,
                        message.topic,
                        session.shard,
                        session.client_id,
                        sub.filter
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks a PUBLISH to a client.
    pub(super) fn on_delivery(&mut self, key: Key, publish: &Publish) -> Checked {
        let topic = self.topic_of(key, publish)?;
        let Some(conn) = self.conns.get(&key) else { return Ok(()) };
        let version = conn.version;
        let Some(session) = conn.session else { return Ok(()) };
        let label = Label::of(&publish.payload)
            .ok_or_else(|| violated!(ORACLE, "the payload was altered: {publish:?}"))?;
        if publish.dup {
            return self.sending_again(key, session, (publish, &topic, label));
        }
        if let Some((at, instance)) = self.due(session, label, &topic, publish) {
            let expected = self.sessions[session].expected.get_mut(&label);
            if let Some(expected) = expected.and_then(|list| list.get_mut(at)) {
                expected.sent = true;
            }
            self.check_content(session, instance, publish, version)?;
            // Where queues overflow, or some connection of the session took no packet of its length, this
            // may be the retained answer in the place of a live one that was dropped.
            let ids = &publish.properties.subscription_identifiers;
            let bytes_min = self.sessions[session].packet_bytes_min;
            let may_be_dropped =
                self.lossy_queues || !self.instances[instance].fits(bytes_min, ids);
            if !(may_be_dropped && publish.retain) {
                self.check_order(key, session, instance, publish.qos)?;
            }
            return self.first_sending(key, session, (publish, &topic, instance), None);
        }
        if let Some(group) = self.group_sending(session, label, &topic, publish)? {
            self.check_content(session, group.1, publish, version)?;
            let what = (publish, topic.as_str(), group.1);
            return self.first_sending(key, session, what, Some(group));
        }
        if label == Label::Empty && self.group_could_send(session, &crate::workload::topic(&topic))
        {
            // Live copies and those of a group cannot be told apart, nor whose they are.
            let named = self.by_label.get(&label).into_iter().flatten();
            let instance =
                named.copied().find(|&i| self.instances[i].topic.text().as_str() == topic);
            let instance =
                instance.ok_or_else(|| self.why_not_due(session, label, &topic, publish))?;
            return self.first_sending(key, session, (publish, &topic, instance), None);
        }
        if publish.retain {
            let instance = self.retained_sending(session, label, &topic, publish)?;
            self.check_content(session, instance, publish, version)?;
            return self.first_sending(key, session, (publish, &topic, instance), None);
        }
        Err(self.why_not_due(session, label, &topic, publish))
    }

    /// The topic of a PUBLISH, with its alias resolved.
    fn topic_of(&mut self, key: Key, publish: &Publish) -> Checked<String> {
        let topic = publish.topic.text().as_str().to_owned();
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(topic) };
        let Some(alias) = publish.properties.topic_alias else { return Ok(topic) };
        hold!(
            alias != 0 && alias <= conn.alias_max,
            ORACLE,
            "{:?} was sent Topic Alias {alias}, allowed are {} [MQTT5-3.1.2-26]",
            conn.client_id,
            conn.alias_max
        );
        if !topic.is_empty() {
            conn.aliases_out.insert(alias, topic.clone());
            return Ok(topic);
        }
        conn.aliases_out.get(&alias).cloned().ok_or_else(|| {
            violated!(
                ORACLE,
                "{:?} was sent Topic Alias {alias} without a topic and never got one for it",
                conn.client_id
            )
        })
    }

    /// The delivery that a PUBLISH fulfils: its place in the list, and the message.
    fn due(
        &self,
        session: usize,
        label: Label,
        topic: &str,
        publish: &Publish,
    ) -> Option<(usize, usize)> {
        let session = &self.sessions[session];
        let mut ids = publish.properties.subscription_identifiers.to_vec();
        ids.sort_unstable();
        let fitting = |(at, expected): (usize, &Expected)| {
            let message = &self.instances[expected.instance];
            let retain = publish.retain;
            let fits = !expected.sent
                && message.expires_ms > self.at.now_ms
                && message.topic.text().as_str() == topic
                && expected.qos == publish.qos
                && retain == (message.retain && expected.as_published)
                && expected.ids == ids;
            fits.then_some((at, expected.instance))
        };
        let list = session.expected.get(&label)?.iter().enumerate();
        // At QoS 0 a live message goes out in the step in which it arrives, or never; unless there are many
        // receivers, who get it in parts.
        let now = |(_, expected): &(usize, &Expected)| {
            publish.qos > Qos::AtMostOnce || expected.late || expected.at == self.at
        };
        list.filter(now).find_map(fitting)
    }

    fn why_not_due(
        &self,
        session: usize,
        label: Label,
        topic: &str,
        publish: &Publish,
    ) -> crate::violation::Violation {
        let view = &self.sessions[session];
        let known: Vec<&Expected> = (view.expected.get(&label).into_iter().flatten())
            .filter(|expected| self.instances[expected.instance].topic.text().as_str() == topic)
            .collect();
        let (open, done): (Vec<&Expected>, Vec<&Expected>) =
            known.into_iter().partition(|expected| !expected.sent);
        let what = if let Some(open) = open.first() {
            format!(
                "with the wrong QoS, RETAIN or subscription identifiers; right is {open:?} \
                 [MQTT5-3.8.4-8] [MQTT5-3.3.4-3] [MQTT5-3.3.1-12]"
            )
        } else if let Some(done) = done.first() {
            format!("once too often; it was due as {done:?} [MQTT5-4.3.3-2]")
        } else {
            format!("which none of its filters matches: {:?}", view.subs)
        };
        violated!(
            ORACLE,
            "{:?} was sent {label:?} to {topic:?} at {:?} (retain {}, identifiers {:?}), {what}",
            view.client_id,
            publish.qos,
            publish.retain,
            publish.properties.subscription_identifiers
        )
    }

    /// Compares what arrives with what was published.
    fn check_content(
        &self,
        session: usize,
        instance: usize,
        publish: &Publish,
        version: Version,
    ) -> Checked {
        let message = &self.instances[instance];
        let who = &self.sessions[session].client_id;
        hold!(
            publish.payload == message.payload,
            ORACLE,
            "{who:?} got another payload for {:?}",
            message.label
        );
        // A publisher that sends a QoS 1 message again makes another of the same name.
        let namesakes = || {
            let all = self.by_label.get(&message.label).into_iter().flatten();
            all.map(|&instance| self.instances[instance].expires_ms)
        };
        hold!(
            namesakes().any(|expires_ms| expires_ms > self.at.now_ms),
            ORACLE,
            "{who:?} got {:?}, which expired {} ms ago [MQTT5-3.3.2-5]",
            message.label,
            self.at.now_ms - message.expires_ms
        );
        if version != Version::V5 {
            return Ok(());
        }
        let expiry_s = publish.properties.message_expiry_interval_s;
        hold!(
            same(message, publish),
            ORACLE,
            "{who:?} got {:?} with {:?}, published were {:?} [MQTT5-3.3.2-17]",
            message.label,
            publish.properties,
            message.properties
        );
        let left_ms = message.expires_ms.saturating_sub(self.at.now_ms);
        let right = namesakes().any(|expires_ms| {
            let left_ms = expires_ms.saturating_sub(self.at.now_ms);
            match expiry_s.map(u64::from) {
                None => expires_ms == u64::MAX,
                Some(_) if expires_ms == u64::MAX => false,
                Some(s) => s >= left_ms / 1000 && s <= left_ms.div_ceil(1000),
            }
        });
        hold!(
            right,
            ORACLE,
            "{who:?} got {:?} with a Message Expiry Interval of {expiry_s:?} s, {left_ms} ms are \
             left [MQTT5-3.3.2-6]",
            message.label
        );
        Ok(())
    }

    /// Messages at QoS 0 went out at once or will never; called when a connection ends.
    pub(super) fn check_at_most_once(&self, session: usize) -> Checked {
        self.missing(session, |expected| {
            expected.qos == Qos::AtMostOnce
                && expected.at.now_ms + AT_MOST_ONCE_MS <= self.at.now_ms
        })
    }

    /// A session loses its connection: what was still to go out to it at QoS 0 need not.
    pub(super) fn forgo_parts(&mut self, session: usize) {
        if self.delivers_in_parts() {
            let expected = self.sessions[session].expected.values_mut().flatten();
            let unsent = expected.filter(|one| one.qos == Qos::AtMostOnce && !one.sent);
            unsent.for_each(|one| (one.must, one.late) = (false, false));
        }
    }

    /// Messages to more than a few receivers go out while other things happen.
    const fn delivers_in_parts(&self) -> bool {
        self.limits.receivers_per_turn < RECEIVERS_MANY
    }

    /// Nothing is dropped for want of room where there is enough.
    pub(super) fn check_drops(&self, drops: &Drops) -> Checked {
        hold!(
            self.lossy_queues || drops.of(DropReason::QueueFull) == 0,
            ORACLE,
            "a queue was full that holds {} messages and {} bytes",
            self.limits.session_queue_messages,
            self.limits.session_queue_bytes
        );
        Ok(())
    }

    /// Nothing is missing once everybody is connected and everything has come to rest.
    pub(crate) fn check_all_delivered(&self) -> Checked {
        for &session in self.by_client.values() {
            if self.sessions[session].conn.is_some() {
                self.missing(session, |_| true)?;
            }
        }
        Ok(())
    }

    fn missing(&self, session: usize, of_interest: impl Fn(&Expected) -> bool) -> Checked {
        let view = &self.sessions[session];
        for expected in view.expected.values().flatten() {
            if expected.sent || !expected.must || !of_interest(expected) {
                continue;
            }
            let message = &self.instances[expected.instance];
            let expired = message.expires_ms <= self.at.now_ms;
            if expired || !message.fits(view.packet_bytes_min, &expected.ids) {
                continue;
            }
            return Err(violated!(
                ORACLE,
                "{:?} never got {:?} to {:?} of {:?}, due as {expected:?}; its subscriptions are \
                 {:?} [MQTT5-4.5.0-1]",
                view.client_id,
                message.label,
                message.topic,
                message.publisher,
                view.subs
            ));
        }
        Ok(())
    }
}

/// Whether the properties that have to arrive unaltered do.
fn same(message: &Instance, publish: &Publish) -> bool {
    let mut properties = publish.properties.clone();
    properties.message_expiry_interval_s = None;
    properties.topic_alias = None;
    properties.subscription_identifiers.clear();
    properties == message.properties
}

impl Instance {
    /// Whether the message, at its largest, certainly fits into packets of this size.
    pub(super) fn fits(&self, packet_bytes_max: u32, ids: &[u32]) -> bool {
        if packet_bytes_max == u32::MAX {
            return true;
        }
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: self.topic.clone(),
            packet_id: PacketId::new(1),
            properties: PublishProperties {
                message_expiry_interval_s: Some(1),
                topic_alias: Some(1),
                subscription_identifiers: ids.iter().copied().collect(),
                ..self.properties.clone()
            },
            payload: self.payload.clone(),
        });
        encoded_len(&packet, Version::V5).is_some_and(|bytes| bytes <= packet_bytes_max as usize)
    }
}
