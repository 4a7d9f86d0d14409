//! Oracle *order*: messages of one publisher to one topic at one QoS arrive in their order.
//!
//! [MQTT5-4.6.0-5], [MQTT5-4.6.0-6], [MQTT311-4.6.0-5], [MQTT311-4.6.0-6]. Shared subscriptions
//! are left out: a message that comes back from one member to another has lost its place. So are
//! empty payloads, which carry no name.

use petrel_proto::Qos;

use crate::hold;
use crate::label::Label;
use crate::model::{Key, Model};
use crate::violation::Checked;

const ORACLE: &str = "order";

impl Model {
    /// A message goes to a session for the first time, with this QoS.
    pub(super) fn check_order(
        &mut self,
        key: Key,
        session: usize,
        instance: usize,
        qos: Qos,
    ) -> Checked {
        let message = &self.instances[instance];
        if message.label == Label::Empty || self.group_could_send(session, &message.topic) {
            return Ok(());
        }
        let view = &self.sessions[session];
        let namesakes = self.by_label.get(&message.label).map_or(0, Vec::len);
        if namesakes > 1 && !message.fits(view.packet_bytes_min, &[u32::MAX >> 4; 4]) {
            // One of them may count as delivered, and nobody can tell which this is.
            return Ok(());
        }
        let topic = message.topic.text().as_str().to_owned();
        let view = &self.sessions[session];
        let who = &view.client_id;
        if qos != Qos::AtMostOnce {
            let behind = view.out.iter().find(|out| {
                out.conn != key
                    && !out.received
                    && out.topic == topic
                    && out.qos == qos
                    && self.instances[out.instance].publisher == message.publisher
                    && !out.given_up
            });
            hold!(
                behind.is_none(),
                ORACLE,
                "{who:?} was sent {:?} before {behind:?} was sent again [MQTT5-4.6.0-6]",
                message.label
            );
        }
        let lane = (message.publisher.clone(), topic, message.qos, qos);
        let last = self.sessions[session].latest.insert(lane, instance);
        let who = &self.sessions[session].client_id;
        let message = &self.instances[instance];
        // A message that its publisher sent again is there several times under one name, and which of
        // them this is does not show.
        let namesakes = self.by_label.get(&message.label).into_iter().flatten();
        let newest = namesakes.copied().max().unwrap_or(instance);
        if let Some(last) = last {
            hold!(
                last < newest,
                ORACLE,
                "{who:?} was sent {:?} after {:?}, both to {:?} from {:?} [MQTT5-4.6.0-6]",
                message.label,
                self.instances[last].label,
                message.topic,
                message.publisher
            );
        }
        Ok(())
    }
}
