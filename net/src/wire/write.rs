//! From packets to a socket.

use bytes::{Bytes, BytesMut};
use petrel_proto::SharedHead;

use super::{SENDS_PER_FLUSH, Wire, WireEvent};
use crate::ConnKey;
use crate::conn::{Flags, NO_STAGE};
use crate::outbound::{Queue, Stage, Stopped, send_slice};

/// Stages kept for ever; more are made when there are more connections to write to, and kept for as long as
/// there are.
const STAGES_KEPT: usize = 256;
/// When a stage is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// At the end of the turn.
    Turn,
    /// When its turn comes among many.
    Backlog,
}

/// A stage that has grown beyond this gives its memory back; beyond the second if there are many.
const STAGE_BYTES_KEPT: usize = 16 << 10;
const STAGE_BYTES_KEPT_OF_MANY: usize = 1 << 10;
/// Payloads up to this many bytes are copied.
const COPIED_PAYLOAD_BYTES_MAX: usize = 1024;

impl Wire {
    /// Gathers bytes for a connection; they leave with [`Wire::flush`]. Nothing happens if the
    /// connection is gone.
    ///
    /// *Cost*: one copy of `head`; a large `payload` is shared, except over TLS.
    pub fn write(&mut self, key: ConnKey, head: SharedHead<'_>, payload: &Bytes) {
        self.write_to_stage(key, head, payload, Urgency::Turn);
    }

    /// The same for a message that goes to many at once: they are sent by the flushes that follow, some at each,
    /// so that the others do not wait for all of them.
    pub fn write_as_one_of_many(&mut self, key: ConnKey, head: SharedHead<'_>, payload: &Bytes) {
        self.write_to_stage(key, head, payload, Urgency::Backlog);
    }

    fn write_to_stage(
        &mut self,
        key: ConnKey,
        head: SharedHead<'_>,
        payload: &Bytes,
        urgency: Urgency,
    ) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.has(Flags::MUTE) || conn.flags.has(Flags::CLOSING) {
            return;
        }
        let copied = payload.len() <= COPIED_PAYLOAD_BYTES_MAX || !conn.transport.is_plain();
        let bytes = head.bytes.len() + payload.len();
        self.traffic.sent.count(head.bytes.first());
        let Some(stage) = self.stage(key, urgency) else { return };
        stage.bytes += bytes;
        head.put(&mut stage.small);
        if payload.is_empty() {
        } else if copied {
            stage.small.extend_from_slice(payload);
        } else {
            stage.shared.push((stage.small.len(), payload.clone()));
        }
        self.staged_bytes += bytes;
    }

    /// The stage of a connection, made if it has none.
    fn stage(&mut self, key: ConnKey, urgency: Urgency) -> Option<&mut Stage> {
        let conn = self.conns.get_mut(key)?;
        if conn.stage == NO_STAGE {
            conn.stage = match self.free_stages.pop() {
                Some(free) => free,
                None => {
                    self.stages.push(Stage::new(key));
                    (self.stages.len() - 1) as u32
                }
            };
            self.stages_used = self.stages_used.max(self.stages.len() - self.free_stages.len());
            match urgency {
                Urgency::Turn => self.fresh.push(conn.stage),
                Urgency::Backlog => self.backlog.push_back(conn.stage),
            }
            if let Some(stage) = self.stages.get_mut(conn.stage as usize) {
                stage.key = key;
            }
        }
        self.stages.get_mut(conn.stage as usize)
    }

    /// Keeps what the transport has written until the end of the turn, so that it leaves with what
    /// is answered to the packets that came with it: a ticket with the CONNACK.
    pub(super) fn stage_control(&mut self, key: ConnKey) {
        if self.wire_out.is_empty() {
            return;
        }
        let mut wire_out = std::mem::take(&mut self.wire_out);
        match self.stage(key, Urgency::Turn) {
            Some(stage) => stage.control.append(&mut wire_out),
            None => wire_out.clear(),
        }
        self.wire_out = wire_out;
    }

    /// Sends what was gathered: one write, one TLS record (per 16 KiB) and one WebSocket message per
    /// connection. Tells for each how many bytes wait for the socket.
    ///
    /// Of what was written to many at once, [`SENDS_PER_FLUSH`] connections are sent theirs. What is written
    /// meanwhile to a connection that waits so joins what waits.
    pub fn flush(&mut self, mut flushed: impl FnMut(ConnKey, usize)) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for at in fresh.drain(..) {
            self.flush_stage(at, &mut flushed);
        }
        self.fresh = fresh;
        for _ in 0..SENDS_PER_FLUSH {
            let Some(at) = self.backlog.pop_front() else { break };
            self.flush_stage(at, &mut flushed);
        }
    }

    /// Time has passed: the memory of stages that were not needed meanwhile is given back.
    pub(super) fn rest_stages(&mut self) {
        if self.fresh.is_empty() && self.backlog.is_empty() {
            let most = self.stages_used.max(STAGES_KEPT);
            self.stages_used = 0;
            if self.stages.len() > most {
                self.stages.truncate(most);
                self.stages.shrink_to_fit();
                self.free_stages.retain(|&free| (free as usize) < most);
                self.free_stages.shrink_to_fit();
            }
        }
    }

    /// Bytes that were gathered and that no flush has sent yet.
    #[must_use]
    pub const fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Sends what was gathered for one connection.
    pub(super) fn flush_conn(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get(key)
            && conn.stage != NO_STAGE
        {
            self.send_stage_at(conn.stage);
        }
    }

    /// Sends a stage that is taken out of its list, and frees it.
    fn flush_stage(&mut self, at: u32, flushed: &mut impl FnMut(ConnKey, usize)) {
        let key = self.stages.get(at as usize).map(|stage| stage.key);
        if let Some(pending_bytes) = self.send_stage_at(at)
            && let Some(key) = key
        {
            flushed(key, pending_bytes);
        }
        self.free_stages.push(at);
    }

    /// Sends one stage; `None` if its connection is gone or nothing was in it.
    fn send_stage_at(&mut self, at: u32) -> Option<usize> {
        let nobody = Stage::new(ConnKey { index: u32::MAX, generation: 0 });
        let mut stage = std::mem::replace(self.stages.get_mut(at as usize)?, nobody);
        self.staged_bytes -= stage.bytes;
        let sent = self.send_stage(&mut stage);
        stage.bytes = 0;
        stage.control = Vec::new();
        stage.small.clear();
        stage.shared.clear();
        let most = match self.stages.len() > STAGES_KEPT {
            true => STAGE_BYTES_KEPT_OF_MANY,
            false => STAGE_BYTES_KEPT,
        };
        if stage.small.capacity() > most {
            stage.small = BytesMut::new();
        }
        // Whoever is written to next makes it its own; until then it is nobody's.
        stage.key = ConnKey { index: u32::MAX, generation: 0 };
        if let Some(place) = self.stages.get_mut(at as usize) {
            *place = stage;
        }
        sent
    }

    fn send_stage(&mut self, stage: &mut Stage) -> Option<usize> {
        let key = stage.key;
        let conn = self.conns.get_mut(key)?;
        conn.stage = NO_STAGE;
        if stage.is_empty() || conn.flags.has(Flags::MUTE) {
            return None;
        }
        self.traffic.sent.add_bytes(stage.bytes);
        self.volumes.sent(key, stage.bytes);
        if !conn.transport.is_plain() {
            self.wire_out.append(&mut stage.control);
            if stage.small.is_empty() {
                self.send_control(key);
                return None;
            }
            conn.transport.write(&stage.small, &mut self.wire_out, &mut self.between);
            self.send_control(key);
        } else if conn.queue.is_none() && stage.shared.is_empty() {
            self.send_or_queue(key, &stage.small);
        } else {
            let mut queue =
                conn.queue.take().or_else(|| self.spare_queue.take()).unwrap_or_default();
            if queue.len() == 0 {
                queue.set_stalled_since_ms(self.now_ms);
            }
            stage.drain_into(&mut queue);
            conn.queue = Some(queue);
            if conn.flags.has(Flags::WRITABLE) {
                self.send_queue(key);
            } else {
                self.plan(key);
            }
        }
        Some(self.conns.get(key)?.pending_bytes())
    }

    /// Sends what the transport has written, behind what waits already.
    pub(super) fn send_control(&mut self, key: ConnKey) {
        if self.wire_out.is_empty() {
            return;
        }
        let stage = self.conns.get(key).map_or(NO_STAGE, |conn| conn.stage);
        if self.stages.get(stage as usize).is_some_and(|stage| !stage.control.is_empty()) {
            return self.stage_control(key);
        }
        let mut wire_out = std::mem::take(&mut self.wire_out);
        self.send_or_queue(key, &wire_out);
        wire_out.clear();
        wire_out.shrink_to(super::READ_BYTES_MAX);
        self.wire_out = wire_out;
    }

    /// Sends bytes at once if nothing waits before them, and keeps what the socket does not take.
    fn send_or_queue(&mut self, key: ConnKey, bytes: &[u8]) {
        let now_ms = self.now_ms;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.flags.has(Flags::MUTE) {
            return;
        }
        let mut taken = 0;
        if conn.queue.is_none() {
            let (sent, result) = send_slice(&conn.socket, bytes);
            taken = sent;
            match result {
                Ok(()) => return,
                Err(Stopped::Full) => conn.flags.clear(Flags::WRITABLE),
                Err(Stopped::Broken) => return self.mute(key),
            }
        }
        let queue = conn.queue.get_or_insert_with(|| {
            let mut queue = Box::<Queue>::default();
            queue.set_stalled_since_ms(now_ms);
            queue
        });
        queue.push_copy(&bytes[taken..]);
        self.plan(key);
    }

    /// Sends from the queue as far as the socket takes it.
    fn send_queue(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(mut queue) = conn.queue.take() else { return };
        match queue.send(&conn.socket, self.now_ms) {
            Ok(()) => self.spare_queue = Some(queue),
            Err(Stopped::Full) => {
                conn.flags.clear(Flags::WRITABLE);
                conn.queue = Some(queue);
                self.plan(key);
            }
            Err(Stopped::Broken) => self.mute(key),
        }
    }

    /// The socket takes bytes again.
    pub(super) fn resume_output(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get(key) else { return };
        // Something else may have emptied the queue since the socket was found to take bytes.
        if conn.queue.is_none() && !conn.flags.has(Flags::CHOKED) {
            return;
        }
        self.send_queue(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let pending_bytes = conn.pending_bytes();
        let closing = conn.flags.has(Flags::CLOSING);
        if conn.flags.has(Flags::KNOWN) && !closing {
            self.events.push_back(WireEvent::Flushed { conn: key, pending_bytes });
        }
        if pending_bytes <= self.limits.read_stop_bytes / 2 && conn.flags.lower(Flags::CHOKED) {
            self.restart_packet_clock(key);
            self.make_ready(key);
        }
        if closing && pending_bytes == 0 {
            self.shut(key);
        }
    }

    /// Writing has failed. What the peer sent before it went may still be read, so the end of the
    /// connection is found by reading.
    fn mute(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.flags.set(Flags::MUTE);
        conn.queue = None;
        if conn.flags.has(Flags::CLOSING) {
            self.forget(key);
            return;
        }
        conn.flags.set(Flags::ENDED);
        conn.flags.clear(Flags::CHOKED);
        self.make_ready(key);
    }
}
