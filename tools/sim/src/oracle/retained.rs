//! Oracle *retained*: what a topic retains, who gets it, and that it never goes back in time.
//!
//! [MQTT5-3.3.1-5] to -11, [MQTT311-3.3.1-5] to -11, [MQTT5-3.8.4-4]. What its author may not publish any more is
//! held back.

use petrel_proto::{Publish, Qos, TopicFilter};

use crate::label::Label;
use crate::model::{
    Instance, Key, Model, Moment, Retained, RetainedAnswer, RetainedAsked, Session, Sub,
};
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "retained";

/// How long a SUBSCRIBE may wait for its retained messages, in milliseconds.
const ANSWER_MS: u64 = 2000;

impl Model {
    /// The owner of a topic takes a retained message, or clears the topic.
    pub(super) fn retain(&mut self, instance: usize, shard: u16) -> Checked {
        let message = &self.instances[instance];
        let topic = message.topic.text().as_str().to_owned();
        let owner = self.home(topic.as_bytes());
        hold!(
            owner == shard,
            ORACLE,
            "the retained message of {topic:?} went to shard {shard}, its owner is {owner}"
        );
        let value = (!message.payload.is_empty()).then_some(instance);
        let value = Retained { at: message.at, instance: value };
        self.retained.entry(topic).or_default().push(value);
        Ok(())
    }

    /// A SUBSCRIBE asks for what its filter matches.
    pub(super) fn ask_retained(&mut self, session: usize, key: Key, sub: &Sub) {
        self.sessions[session].asked.push(RetainedAsked {
            at: self.at,
            conn: key,
            filter: sub.filter.clone(),
            qos: sub.qos,
            id: sub.id,
            no_local: sub.no_local,
            open: true,
            answered: Default::default(),
        });
    }

    /// The subscription ends or is made again, so that earlier questions need no answer.
    pub(super) fn replace_asked(&mut self, session: usize, filter: &TopicFilter) {
        for asked in &mut self.sessions[session].asked {
            asked.open &= asked.filter != *filter;
        }
    }

    /// Checks a retained message to a client. Returns the message.
    pub(super) fn retained_sending(
        &mut self,
        session: usize,
        label: Label,
        topic: &str,
        publish: &Publish,
    ) -> Checked<usize> {
        let who = self.sessions[session].client_id.clone();
        let history = self.retained.get(topic).map_or(&[][..], Vec::as_slice);
        let place = history.iter().rposition(|value| {
            value.instance.is_some_and(|instance| self.instances[instance].label == label)
        });
        let place = place.ok_or_else(|| self.never_retained(session, label, topic))?;
        let instance = history[place].instance.unwrap_or_default();
        let message = &self.instances[instance];
        let replaced = history.get(place + 1).map(|value| value.at);
        let ids = publish.properties.subscription_identifiers.to_vec();
        let answer = RetainedAnswer { instance, qos: publish.qos, ids, replaced };
        let asked = &mut self.sessions[session].asked;
        let open = |asked: &&RetainedAsked| !asked.answered.contains_key(topic);
        let since = (asked.iter().filter(open))
            .rfind(|asked| asked.allows(&answer, message))
            .map_or(self.at, |asked| asked.at);
        let first = (asked.iter().filter(open))
            .find(|asked| asked.allows(&answer, message))
            .map_or(self.at, |asked| asked.at);
        let mut tried = vec![false; asked.len()];
        if !attribute(asked, &self.instances, topic, answer, &mut tried) {
            return Err(violated!(
                ORACLE,
                "{who:?} was sent {label:?} of {topic:?} as retained ({:?}, identifiers {:?}); it \
                 was replaced at {replaced:?}, and asked was {:?} [MQTT5-3.3.1-9]",
                publish.qos,
                publish.properties.subscription_identifiers,
                self.sessions[session].asked
            ));
        }
        let author = &self.instances[instance].publisher;
        hold!(
            self.policies_since(first.step).any(|policy| policy.may_publish(author, topic)),
            ORACLE,
            "{who:?} was sent {label:?}, which {topic:?} retains, and {author:?} may not publish it any more"
        );
        let view = &mut self.sessions[session];
        view.retained_sent.push((self.at.step, topic.to_owned()));
        self.check_not_stale(session, (label, publish.qos), topic, (place, since))?;
        Ok(instance)
    }

    fn never_retained(
        &self,
        session: usize,
        label: Label,
        topic: &str,
    ) -> crate::violation::Violation {
        let view = &self.sessions[session];
        violated!(
            ORACLE,
            "{:?} was sent {label:?} with RETAIN, which {topic:?} never retained; as a live message \
             it was due as {:?} [MQTT5-3.3.1-12]",
            view.client_id,
            view.expected.get(&label)
        )
    }

    /// A live message that the owner took later was not sent since the SUBSCRIBE at the same QoS.
    /// Between one QoS and another there is no order. What came live before the SUBSCRIBE may still
    /// be on its way to the owner, which then answers with what it knows.
    fn check_not_stale(
        &self,
        session: usize,
        (label, qos): (Label, Qos),
        topic: &str,
        (place, since): (usize, Moment),
    ) -> Checked {
        let view = &self.sessions[session];
        let history = self.retained.get(topic).map_or(&[][..], Vec::as_slice);
        let sent = view.expected.values().flatten();
        let sent = sent.filter(|e| e.sent && e.qos == qos && e.at > since);
        for expected in sent {
            let live = &self.instances[expected.instance];
            if !live.retain || live.topic.text().as_str() != topic || live.payload.is_empty() {
                continue;
            }
            let order = history.iter().position(|value| value.instance == Some(expected.instance));
            hold!(
                order.is_some_and(|order| order <= place),
                ORACLE,
                "{:?} was sent the retained {label:?} of {topic:?} after the newer {:?} had come \
                 live",
                view.client_id,
                live.label
            );
        }
        Ok(())
    }

    /// Every SUBSCRIBE got what it asked for, once everything has come to rest.
    pub(crate) fn check_all_retained(&self) -> Checked {
        for view in self.by_client.values().map(|&session| &self.sessions[session]) {
            for (topic, history) in &self.retained {
                let Some(Retained { at, instance: Some(instance) }) = history.last() else {
                    continue;
                };
                self.check_retained_answers(view, topic, *at, *instance)?;
            }
        }
        Ok(())
    }

    /// Several subscriptions of a session may have asked for the topic: since each of them, as many
    /// answers must have come as there are that have asked since.
    fn check_retained_answers(
        &self,
        view: &Session,
        topic: &str,
        set: Moment,
        instance: usize,
    ) -> Checked {
        let message = &self.instances[instance];
        let due = |asked: &&RetainedAsked| {
            view.conn == Some(asked.conn)
                && asked.open
                && asked.at.now_ms + ANSWER_MS <= self.at.now_ms
                && set < asked.at
                && asked.filter.matches(&message.topic)
                && message.expires_ms > self.at.now_ms
                && message.fits(view.packet_bytes_min, asked.id.as_slice())
                && !(asked.no_local && message.publisher == view.client_id)
                && self
                    .policies_since(asked.at.step)
                    .all(|policy| policy.may_publish(&message.publisher, topic))
                && !self.lossy_queues
                && (asked.qos.min(message.qos) > Qos::AtMostOnce
                    || self.limits.outgoing_bytes_maximum > 100_000)
                && !self.overtaken(view, asked, topic)
        };
        let due: Vec<&RetainedAsked> = view.asked.iter().filter(due).collect();
        for asked in &due {
            let since = asked.at.step;
            let asked_since = due.iter().filter(|other| other.at.step >= since).count();
            let sent = view.retained_sent.iter().filter(|(step, of)| *step >= since && of == topic);
            let sent = sent.count();
            hold!(
                sent >= asked_since,
                ORACLE,
                "{:?} subscribed to {:?} and got {:?}, which {topic:?} retains, {sent} times; \
                 {asked_since} of its subscriptions ask for it [MQTT5-3.3.1-9]",
                view.client_id,
                asked.filter,
                message.label
            );
        }
        Ok(())
    }

    /// A live retained message came to the session meanwhile, which may replace the answer.
    fn overtaken(&self, view: &Session, asked: &RetainedAsked, topic: &str) -> bool {
        view.expected.values().flatten().any(|expected| {
            let live = &self.instances[expected.instance];
            live.retain && expected.at > asked.at && live.topic.text().as_str() == topic
        })
    }
}

impl RetainedAsked {
    /// Whether a retained message can be the answer to this SUBSCRIBE.
    fn allows(&self, answer: &RetainedAnswer, message: &Instance) -> bool {
        self.filter.matches(&message.topic)
            && self.id.as_slice() == answer.ids
            && self.qos.min(message.qos) == answer.qos
            && answer.replaced.is_none_or(|at| at > self.at)
    }
}

/// Finds for every answer that a session got for a topic a SUBSCRIBE of its own; those found before
/// make room where they can. A session answers in the order in which it was asked, filter by filter,
/// but which answer is whose does not show.
fn attribute(
    asked: &mut [RetainedAsked],
    instances: &[Instance],
    topic: &str,
    answer: RetainedAnswer,
    tried: &mut [bool],
) -> bool {
    for at in 0..asked.len() {
        if tried[at] || !asked[at].allows(&answer, &instances[answer.instance]) {
            continue;
        }
        tried[at] = true;
        let earlier = asked[at].answered.get(topic).cloned();
        let free = earlier.is_none_or(|it| attribute(asked, instances, topic, it, tried));
        if free {
            asked[at].answered.insert(topic.to_owned(), answer);
            return true;
        }
    }
    false
}
