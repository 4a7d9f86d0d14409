//! The encodings of one message that its receivers share.

use petrel_proto::Qos;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::deliver::{Body, Outgoing};
use crate::event::DropReason;
use crate::losses::lose;
use crate::outbox::Encoded;
use crate::shard::Turn;
use crate::{ConnId, Message};

/// One encoding for each form in which the message at hand has gone out: MQTT 5 or before, QoS and RETAIN.
/// What is a receiver's own, an alias, subscription identifiers or DUP, is encoded for it alone; a packet
/// identifier is put in when the bytes are copied to the socket's.
///
/// Invariant: between [`Forms::begin`] and [`Forms::end`] the message stays where it is, and the outbox is not
/// cleared.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    /// Where the message is; compared, never followed.
    message: usize,
    encoded: SmallVec<[(Form, Encoded); 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    is_v5: bool,
    qos: Qos,
    retain: bool,
}

impl Forms {
    /// A message is about to be delivered.
    pub(crate) fn begin(&mut self, message: &Message) {
        self.message = std::ptr::from_ref(message).addr();
        self.encoded.clear();
    }

    /// It has been.
    pub(crate) const fn end(&mut self) {
        self.message = 0;
    }

    /// Sends the message at hand in a form that there is. Says whether it was sent, or was too large and is
    /// dropped; `None` if it has to be encoded.
    #[inline(always)]
    pub(crate) fn send<B: Body>(
        &self,
        turn: &mut Turn<'_>,
        (conn, connection): (ConnId, &mut Connection),
        outgoing: &Outgoing<'_, B>,
    ) -> Option<bool> {
        let form = self.form(connection, outgoing)?;
        let (_, encoded) = self.encoded.iter().find(|(other, _)| *other == form)?;
        if encoded.packet_bytes > connection.maximum_packet_size as usize {
            lose(turn, connection.session, outgoing.message.topic(), DropReason::TooLarge);
            return Some(false);
        }
        connection.set_pending_bytes(connection.pending_bytes() + encoded.packet_bytes);
        turn.out.send(conn, encoded, outgoing.packet_id);
        Some(true)
    }

    /// Keeps an encoding for the receivers that follow, if it is of the message at hand and fits them.
    pub(crate) fn put<B>(
        &mut self,
        connection: &Connection,
        outgoing: &Outgoing<'_, B>,
        encoded: Encoded,
    ) {
        if self.message != 0
            && let Some(form) = self.form(connection, outgoing)
        {
            self.encoded.push((form, encoded));
        }
    }

    #[inline]
    fn form<B>(&self, connection: &Connection, outgoing: &Outgoing<'_, B>) -> Option<Form> {
        let shared = std::ptr::from_ref(outgoing.message).addr() == self.message
            && outgoing.identifiers.is_empty()
            && connection.alias_maximum == 0
            && !outgoing.dup;
        let form =
            Form { is_v5: connection.version.is_v5(), qos: outgoing.qos, retain: outgoing.retain };
        shared.then_some(form)
    }
}
