//! Oracle *shared*: a message of a shared group goes to one member, and never gets stuck.
//!
//! [MQTT5-4.8.2-3] to -6, and what users call stuck: a message that waits while a member is there.

use petrel_proto::{Publish, Qos, TopicFilter};

use crate::label::Label;
use crate::model::{GroupRouted, GroupSending, Key, Member, Model, Sub};
use crate::violation::{Checked, Violation};
use crate::{hold, violated};

const ORACLE: &str = "shared";

/// How long the news of a connection may take to the owner of a group, in milliseconds.
const KNOWN_MS: u64 = 300;

/// Names a group: share name and filter.
type Name = (String, String);

fn name(share: &str, filter: &TopicFilter) -> Name {
    (share.to_owned(), filter.text().as_str().to_owned())
}

impl Model {
    /// A SUBSCRIBE makes a session a member, or changes its QoS.
    pub(super) fn join_group(&mut self, session: usize, written: &str, share: &str, sub: &Sub) {
        let view = &mut self.sessions[session];
        view.shared_qos.entry(written.to_owned()).or_default().insert(sub.qos);
        view.shared_ids.entry(written.to_owned()).or_default().insert(sub.id);
        let group = self.groups.entry(name(share, &sub.filter)).or_default();
        if !group.members.iter().any(|member| member.session == session && member.left.is_none()) {
            group.members.push(Member { session, since: self.at.step, acked: None, left: None });
        }
    }

    /// The SUBACK left.
    pub(super) fn joined_group(
        &mut self,
        session: usize,
        share: &str,
        filter: &TopicFilter,
        asked: u64,
    ) {
        let step = self.at.step;
        let Some(group) = self.groups.get_mut(&name(share, filter)) else { return };
        for member in &mut group.members {
            if member.session == session && member.left.is_none() && member.since <= asked {
                member.acked.get_or_insert(step);
            }
        }
    }

    /// An UNSUBSCRIBE ends a membership.
    pub(super) fn leave_group(&mut self, session: usize, share: &str, filter: &TopicFilter) {
        let step = self.at.step;
        let Some(group) = self.groups.get_mut(&name(share, filter)) else { return };
        for member in &mut group.members {
            if member.session == session {
                member.left.get_or_insert(step);
            }
        }
    }

    /// The end of a session ends all its memberships.
    pub(super) fn leave_groups(&mut self, session: usize) {
        let step = self.at.step;
        for member in self.groups.values_mut().flat_map(|group| &mut group.members) {
            if member.session == session {
                member.left.get_or_insert(step);
            }
        }
    }

    /// A message sets out: the groups that want it.
    pub(super) fn route_to_groups(&mut self, instance: usize) {
        let message = &self.instances[instance];
        for ((_, filter), group) in &mut self.groups {
            let wanted = petrel_proto::Text::try_from(filter.as_str())
                .and_then(TopicFilter::new)
                .is_ok_and(|filter| filter.matches(&message.topic));
            if !wanted {
                continue;
            }
            let members = group.members.iter().filter(|member| member.left.is_none());
            let online = members.map(|member| {
                let key = self.sessions[member.session].conn?;
                // The owner of the group learns with a delay who has come back.
                let known = self.conns.get(&key)?.since_ms + KNOWN_MS <= self.at.now_ms;
                let told = self.under_way.iter().all(|((from, _), &n)| *from != key.0 || n == 0);
                (known && told && member.acked.is_some()).then_some((member.session, key))
            });
            let online = online.collect::<Option<Vec<_>>>().filter(|online| !online.is_empty());
            group.routed.push(GroupRouted { instance, online });
        }
    }

    /// Whether a message to this topic may also come through a group of the session, so that its
    /// copies cannot be told apart.
    pub(super) fn group_could_send(&self, session: usize, topic: &petrel_proto::TopicName) -> bool {
        self.sessions[session].shared_qos.keys().any(|written| {
            petrel_proto::Text::try_from(written.as_str())
                .and_then(TopicFilter::new)
                .ok()
                .and_then(|filter| filter.shared())
                .is_some_and(|shared| shared.filter.matches(topic))
        })
    }

    /// Checks a message that may have come to a session through one of its groups. Returns the
    /// group and the message if it did.
    pub(super) fn group_sending(
        &mut self,
        session: usize,
        label: Label,
        topic: &str,
        publish: &Publish,
    ) -> Checked<Option<(Name, usize)>> {
        let view = &self.sessions[session];
        let ids = publish.properties.subscription_identifiers.as_slice();
        let mut problem = None;
        for (written, qoses) in &view.shared_qos {
            let Some(shared) = petrel_proto::Text::try_from(written.as_str())
                .and_then(TopicFilter::new)
                .ok()
                .and_then(|filter| filter.shared())
            else {
                continue;
            };
            let group_name = name(shared.share.text().as_str(), &shared.filter);
            for &instance in self.by_label.get(&label).into_iter().flatten().rev() {
                let message = &self.instances[instance];
                let ids_right = (view.shared_ids.get(written))
                    .is_some_and(|known| known.iter().any(|id| id.as_slice() == ids));
                let fits = message.topic.text().as_str() == topic
                    && shared.filter.matches(&message.topic)
                    && !publish.retain
                    && ids_right
                    && qoses.iter().any(|qos| (*qos).min(message.qos) == publish.qos);
                if !fits {
                    continue;
                }
                match self.may_send(&group_name, instance, session) {
                    Ok(()) => {
                        let found = (group_name, instance);
                        self.note_group_sending(&found, session, publish.qos);
                        return Ok(Some(found));
                    }
                    Err(violation) => problem = Some(violation),
                }
            }
        }
        problem.map_or(Ok(None), Err)
    }

    /// Whether a message of a group may go to this member after all that was sent before.
    fn may_send(&self, group: &Name, instance: usize, session: usize) -> Checked {
        let sent = self.groups.get(group).and_then(|group| group.sent.get(&instance));
        for earlier in sent.into_iter().flatten() {
            let member = &self.sessions[earlier.session];
            let closing = |key: Key| self.conns.get(&key).is_none_or(|c| c.must_close.is_some());
            let gone = member.ended.is_some()
                || member.conn.is_none_or(closing)
                || self.doubtful(earlier.session)
                || !self.is_member(group, earlier.session);
            let who = &self.sessions[session].client_id;
            let label = self.instances[instance].label;
            hold!(
                // Messages without a payload cannot be told apart.
                label == Label::Empty || earlier.qos == Qos::AtLeastOnce && !earlier.acked && gone,
                ORACLE,
                "{who:?} was sent {label:?} of group {group:?}, which {:?} had got as {earlier:?} \
                 [MQTT5-4.8.2-5]",
                member.client_id
            );
        }
        Ok(())
    }

    fn is_member(&self, group: &Name, session: usize) -> bool {
        self.groups.get(group).is_some_and(|group| {
            group.members.iter().any(|member| member.session == session && member.left.is_none())
        })
    }

    fn note_group_sending(&mut self, (group, instance): &(Name, usize), session: usize, qos: Qos) {
        if let Some(group) = self.groups.get_mut(group) {
            let sending = GroupSending { session, qos, acked: false };
            group.sent.entry(*instance).or_default().push(sending);
        }
    }

    /// A member acknowledged a message of a group.
    pub(super) fn group_acked(&mut self, session: usize, (group, instance): (Name, usize)) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        for sending in group.sent.get_mut(&instance).into_iter().flatten() {
            sending.acked |= sending.session == session;
        }
    }

    /// No message of a group is missing once everybody is connected and everything is at rest.
    pub(crate) fn check_all_shared(&self) -> Checked {
        for (name, group) in &self.groups {
            for routed in &group.routed {
                let message = &self.instances[routed.instance];
                // Messages without a payload cannot be told apart, nor can a QoS 1 message that its
                // publisher sent again.
                let namesakes = self.by_label.get(&message.label).map_or(0, Vec::len);
                let settled = message.label == Label::Empty
                    || namesakes > 1
                    || group.sent.contains_key(&routed.instance)
                    || message.expires_ms <= self.at.now_ms
                    || self.lossy_queues;
                if !settled && self.was_due(name, routed) {
                    return Err(self.stuck(name, routed));
                }
            }
        }
        Ok(())
    }

    /// Whether some member had to get the message: one was there from before the message until
    /// now and could take it, or all of them were online and still are.
    fn was_due(&self, name: &Name, routed: &GroupRouted) -> bool {
        let Some(group) = self.groups.get(name) else { return false };
        let message = &self.instances[routed.instance];
        let members = || {
            let step = message.at.step;
            group.members.iter().filter(move |member| member.left.is_none_or(|left| left >= step))
        };
        let fits = members().all(|member| {
            message.fits(self.sessions[member.session].packet_bytes_min, &[u32::MAX >> 4])
        });
        let written = format!("$share/{}/{}", name.0, name.1);
        let at_least_once = message.qos > Qos::AtMostOnce
            && members().all(|member| {
                let qos = self.sessions[member.session].shared_qos.get(&written);
                qos.is_some_and(|qos| !qos.contains(&Qos::AtMostOnce))
            });
        let stayed = members().any(|member| {
            let acked = member.acked.is_some_and(|acked| acked < message.at.step);
            acked && member.left.is_none() && self.sessions[member.session].conn.is_some()
        });
        let all_stayed = routed.online.as_ref().is_some_and(|online| {
            let same = |&(session, key): &(usize, Key)| {
                self.sessions[session].conn == Some(key) && self.is_member(name, session)
            };
            online.iter().all(same) && members().count() == online.len()
        });
        // With little room for bytes that wait, QoS 0 messages are dropped.
        let roomy = self.limits.outgoing_bytes_maximum > 100_000;
        fits && (at_least_once && stayed || all_stayed && roomy)
    }

    fn stuck(&self, name: &Name, routed: &GroupRouted) -> Violation {
        let message = &self.instances[routed.instance];
        violated!(
            ORACLE,
            "{:?} to {:?} ({:?}, step {}) never reached a member of {name:?}; members are {:?}",
            message.label,
            message.topic,
            message.qos,
            message.at.step,
            self.groups.get(name).map(|group| &group.members)
        )
    }
}
