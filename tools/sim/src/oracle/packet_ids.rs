//! Oracle *packet_ids*: identifiers, the window of messages in flight, and sending again.
//!
//! [MQTT5-2.2.1-4], [MQTT5-3.3.4-9], [MQTT5-4.9.0-1], [MQTT5-4.4.0-1], [MQTT5-3.3.1-1],
//! [MQTT5-4.3.3-4], [MQTT311-4.4.0-1].

use petrel_proto::{Publish, Qos};

use crate::label::Label;
use crate::model::{Key, Model, Outgoing};
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "packet_ids";

impl Model {
    /// Accounts for a message sent for the first time.
    pub(super) fn first_sending(
        &mut self,
        key: Key,
        session: usize,
        (publish, topic, instance): (&Publish, &str, usize),
        group: Option<((String, String), usize)>,
    ) -> Checked {
        let Some(id) = publish.packet_id.map(petrel_proto::PacketId::get) else { return Ok(()) };
        if publish.qos == Qos::AtMostOnce {
            return Ok(());
        }
        let label = self.instances[instance].label;
        let used = self.sessions[session].out.iter().position(|out| out.packet_id == id);
        if let Some(at) = used.filter(|&at| self.sessions[session].out[at].given_up) {
            self.sessions[session].out.remove(at);
        }
        let session = &mut self.sessions[session];
        if let Some(used) = session.out.iter().find(|out| out.packet_id == id) {
            return Err(violated!(
                ORACLE,
                "{:?} was sent {label:?} with packet identifier {id}, which {used:?} still uses \
                 [MQTT5-2.2.1-4]",
                session.client_id
            ));
        }
        session.sendings += 1;
        session.out.push(Outgoing {
            packet_id: id,
            instance,
            label,
            topic: topic.to_owned(),
            qos: publish.qos,
            received: false,
            conn: key,
            given_up: false,
            number: session.sendings,
            group,
        });
        self.take_window(key, id)
    }

    /// Checks a PUBLISH with DUP.
    pub(super) fn sending_again(
        &mut self,
        key: Key,
        session: usize,
        (publish, topic, label): (&Publish, &str, Label),
    ) -> Checked {
        let id = publish.packet_id.map_or(0, petrel_proto::PacketId::get);
        let session = &mut self.sessions[session];
        let who = session.client_id.clone();
        let out = session.out.iter_mut().find(|out| out.packet_id == id);
        let out = out.ok_or_else(|| {
            violated!(
                ORACLE,
                "{who:?} was sent {label:?} with DUP and identifier {id}, which is not in flight"
            )
        })?;
        hold!(
            out.label == label && out.topic == topic && out.qos == publish.qos,
            ORACLE,
            "{who:?} was sent {label:?} to {topic:?} again, but in flight under {id} is {out:?}"
        );
        hold!(
            !out.received,
            ORACLE,
            "{who:?} was sent {label:?} again after its PUBREC [MQTT5-4.3.3-4]"
        );
        hold!(
            out.conn != key,
            ORACLE,
            "{who:?} was sent {label:?} again on the same connection [MQTT5-4.4.0-1]"
        );
        out.conn = key;
        out.given_up = false;
        let number = out.number;
        if let Some(conn) = self.conns.get_mut(&key) {
            hold!(
                conn.resent_up_to.is_none_or(|last| last < number),
                ORACLE,
                "{who:?} was sent {label:?} again out of the original order [MQTT5-4.6.0-1]"
            );
            conn.resent_up_to = Some(number);
        }
        self.take_window(key, id)
    }

    /// A session goes on with another connection, which some of what is in flight may not fit.
    pub(super) fn note_given_up(&mut self, session: usize, packet_bytes_max: u32) {
        let ids = [u32::MAX >> 4; 4];
        let instances = &self.instances;
        for out in &mut self.sessions[session].out {
            out.given_up |= !out.received && !instances[out.instance].fits(packet_bytes_max, &ids);
        }
    }

    fn take_window(&mut self, key: Key, id: u16) -> Checked {
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        conn.in_flight.insert(id);
        hold!(
            conn.in_flight.len() <= usize::from(conn.receive_maximum),
            ORACLE,
            "{:?} has {} messages in flight, its Receive Maximum is {} [MQTT5-3.3.4-9]",
            conn.client_id,
            conn.in_flight.len(),
            conn.receive_maximum
        );
        Ok(())
    }

    /// A PUBREL that answers no PUBREC of this connection: allowed once after a reconnect, and where the
    /// message does not fit the new connection, so that the client forgets its identifier.
    pub(super) fn on_pubrel_again(&mut self, key: Key, id: u16) -> Checked {
        let Some(conn) = self.conns.get(&key) else { return Ok(()) };
        let Some(session) = conn.session else { return Ok(()) };
        let session = &mut self.sessions[session];
        let who = &session.client_id;
        let is_ended = |out: &Outgoing| out.given_up && out.qos == Qos::ExactlyOnce;
        let mut all = session.out.iter_mut().filter(|out| out.packet_id == id);
        let out = all.find(|out| out.received || is_ended(out));
        let out = out.ok_or_else(|| {
            violated!(ORACLE, "{who:?} was sent PUBREL {id}, which no PUBREC asked for")
        })?;
        hold!(out.conn != key, ORACLE, "{who:?} was sent PUBREL {id} twice on one connection");
        (out.conn, out.received, out.given_up) = (key, true, false);
        Ok(())
    }

    /// The client is done with a delivery: the identifier is free, the window opens.
    pub(super) fn finish(&mut self, key: Key, session: usize, id: u16) {
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.in_flight.remove(&id);
        }
        let out = &mut self.sessions[session].out;
        let Some(at) = out.iter().position(|out| out.packet_id == id) else { return };
        if let Some(group) = out.remove(at).group {
            self.group_acked(session, group);
        }
    }

    /// Nothing is in flight once everybody is connected and everything has come to rest.
    pub(crate) fn check_nothing_in_flight(&self) -> Checked {
        for conn in self.conns.values() {
            let Some(session) = conn.session.map(|session| &self.sessions[session]) else {
                continue;
            };
            hold!(
                session.out.iter().all(|out| out.given_up),
                ORACLE,
                "{:?} is connected and at rest, in flight are still {:?} [MQTT5-4.4.0-1]",
                session.client_id,
                session.out
            );
        }
        Ok(())
    }
}
