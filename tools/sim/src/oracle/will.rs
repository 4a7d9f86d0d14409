//! Oracle *will*: a will is published exactly when it must be.
//!
//! [MQTT5-3.1.2-8], [MQTT5-3.1.2-10], [MQTT5-3.1.3-9], [MQTT5-3.14.4-3], [MQTT311-3.1.2-8],
//! [MQTT311-3.1.2-10]. A watcher that subscribes to all wills makes each of them visible.

use petrel_proto::Connect;

use crate::label::Label;
use crate::model::{Instance, Model, WillState, WillView};
use crate::oracle::session::SLACK_MS;
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "will";

impl Model {
    /// Takes note of the will in a CONNECT.
    pub(super) fn arm_will(
        &mut self,
        shard: u16,
        client_id: &str,
        connect: &Connect,
    ) -> Option<usize> {
        let will = connect.will.as_deref()?;
        let label = Label::of(&will.payload)?;
        self.will_of.insert(label, self.wills.len());
        self.wills.push(WillView {
            label,
            will: will.clone(),
            client_id: client_id.to_owned(),
            shard,
            state: WillState::Armed,
        });
        Some(self.wills.len() - 1)
    }

    /// A new CONNECT reaches the session of these wills, which ends or goes on.
    pub(super) fn settle_wills(&mut self, session: usize, ends: bool) {
        let client_id = &self.sessions[session].client_id;
        for will in &mut self.wills {
            let WillState::Due(at_ms) = will.state else { continue };
            if will.client_id == *client_id {
                will.state = match (ends, at_ms <= self.at.now_ms) {
                    (true, _) => WillState::Now,
                    (false, true) => WillState::Either,
                    (false, false) => WillState::Removed,
                };
            }
        }
    }

    /// A will may be on its way: checks that it should be, and lets it set out.
    pub(super) fn see_will(&mut self, label: Option<Label>, shard: u16) -> Checked {
        let Some(&at) = label.and_then(|label| self.will_of.get(&label)) else { return Ok(()) };
        let view = &mut self.wills[at];
        match view.state {
            WillState::Published => return Ok(()),
            WillState::Now | WillState::Last | WillState::Either => {}
            WillState::Due(due_ms) => hold!(
                due_ms <= self.at.now_ms,
                ORACLE,
                "{:?} of {:?} was published {} ms before its delay was over [MQTT5-3.1.3-9]",
                view.label,
                view.client_id,
                due_ms - self.at.now_ms
            ),
            WillState::Armed => {
                return Err(violated!(
                    ORACLE,
                    "{:?} of {:?} was published while its connection is up",
                    view.label,
                    view.client_id
                ));
            }
            WillState::Removed => {
                return Err(violated!(
                    ORACLE,
                    "{:?} of {:?} was published though it was removed [MQTT5-3.1.2-10] \
                     [MQTT5-3.1.3-9]",
                    view.label,
                    view.client_id
                ));
            }
        }
        view.state = WillState::Published;
        let mut properties = view.will.properties.clone();
        let expiry_s = properties.message_expiry_interval_s.take();
        let instance = Instance {
            label: view.label,
            publisher: view.client_id.clone(),
            topic: view.will.topic.clone(),
            qos: view.will.qos,
            retain: view.will.retain,
            properties,
            payload: view.will.payload.clone(),
            at: self.at,
            expires_ms: petrel_shard::message::expiry(expiry_s, self.at.now_ms),
        };
        self.set_out(shard, instance)
    }

    /// Every will that is due has been published.
    pub(super) fn check_wills(&mut self, shard: u16, timer: bool) -> Checked {
        for view in &self.wills {
            let late = match view.state {
                WillState::Now => !self.stopping,
                WillState::Last => true,
                WillState::Due(at_ms) => {
                    timer && view.shard == shard && at_ms + SLACK_MS <= self.at.now_ms
                }
                _ => false,
            };
            hold!(
                !late || self.stopping && view.state != WillState::Last,
                ORACLE,
                "{:?} of {:?} should have been published and was not ({:?}) [MQTT5-3.1.2-8]",
                view.label,
                view.client_id,
                view.state
            );
        }
        Ok(())
    }
}
