//! Acknowledgements from a client for what was sent to it ([MQTT5-4.3], [MQTT5-4.9]).

use petrel_proto::{Ack, Qos, ReasonCode};

use crate::ConnId;
use crate::connection::Violation;
use crate::flow::{Inflight, Stage};
use crate::shard::{Shard, Turn};

impl Shard {
    /// PUBACK ends a QoS 1 delivery, whatever its reason ([MQTT5-4.4.0-2]).
    pub(crate) fn on_puback(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        ack: &Ack,
    ) -> Result<(), Violation> {
        self.finish(
            turn,
            conn,
            ack,
            |stage| matches!(stage, Stage::Published(delivery) if delivery.qos == Qos::AtLeastOnce),
        )
    }

    /// PUBREC: the message is with the client and is released; an error ends the delivery
    /// ([MQTT5-4.3.3-4], [MQTT5-4.4.0-2]).
    pub(crate) fn on_pubrec(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        ack: &Ack,
    ) -> Result<(), Violation> {
        if ack.reason.is_error() {
            return self.finish(turn, conn, ack, |stage| {
                matches!(stage, Stage::Published(delivery) if delivery.qos == Qos::ExactlyOnce)
            });
        }
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
        let mut reason = ReasonCode::PacketIdentifierNotFound;
        let mut position = 0;
        if let Some(flow) = session.flow.as_deref_mut()
            && let Some(at) = flow.find_inflight(ack.packet_id)
        {
            let stage = flow.inflight.get(at).map(|entry| &entry.stage);
            if matches!(stage, Some(Stage::Published(d)) if d.qos != Qos::ExactlyOnce) {
                return Err(Violation::protocol("PUBREC for a QoS 1 message"));
            }
            let record = match flow.inflight.get(at) {
                Some(Inflight { stage: Stage::Released { record, .. }, .. }) => *record,
                Some(Inflight { stage, .. }) => {
                    turn.out.ledger.delivered[2] += 1;
                    match stage.place().recorded() {
                        Some(sequence) => {
                            self.record_released(turn, index, sequence);
                            self.keep.position()
                        }
                        None => 0,
                    }
                }
                None => 0,
            };
            position = record;
            if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_deref_mut()) {
                flow.release_inflight(at, record);
            }
            reason = ReasonCode::Success;
        }
        let waits = self.sessions.get(index).is_some_and(|session| session.queued() > 0);
        self.owe_release(turn, conn, (ack.packet_id, reason), position);
        if waits {
            // The bytes in flight have become fewer.
            self.drain(turn, index);
        }
        Ok(())
    }

    /// PUBCOMP ends a QoS 2 delivery.
    pub(crate) fn on_pubcomp(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        ack: &Ack,
    ) -> Result<(), Violation> {
        self.finish(turn, conn, ack, |stage| matches!(stage, Stage::Released { .. }))
    }

    /// Ends a delivery that is at the stage its acknowledgement answers. One for an identifier
    /// that is not in flight is ignored: it may be the second answer to a retransmission.
    fn finish(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        ack: &Ack,
        expected: impl Fn(&Stage) -> bool,
    ) -> Result<(), Violation> {
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
        let Some(flow) = session.flow.as_deref_mut() else { return Ok(()) };
        let Some(at) = flow.find_inflight(ack.packet_id) else { return Ok(()) };
        if !flow.inflight.get(at).is_some_and(|entry| expected(&entry.stage)) {
            let what = "an acknowledgement of the wrong kind for its packet identifier";
            return Err(Violation::protocol(what));
        }
        let entry = flow.remove_inflight(at);
        match entry.as_ref().map(|entry| &entry.stage) {
            Some(Stage::Published(delivery)) => {
                turn.out.ledger.delivered[delivery.qos as usize] += 1;
                self.done_with(turn, index, delivery);
            }
            Some(Stage::Released { place, .. }) => {
                if let Some(sequence) = place.recorded() {
                    self.record_done(turn, index, sequence);
                }
            }
            None => {}
        }
        if let Some(Inflight { charged: true, .. }) = entry
            && let Some(connection) = self.connection_mut(conn)
        {
            // [MQTT5-4.9.0-2]: never above what the client asked for.
            connection.send_quota = (connection.send_quota + 1).min(connection.receive_maximum);
        }
        self.drain(turn, index);
        Ok(())
    }
}
