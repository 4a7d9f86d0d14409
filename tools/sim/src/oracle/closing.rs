//! Oracle *closing*: who may be closed and why, what a connection may carry and until when.
//!
//! [MQTT5-3.14.4-1], [MQTT5-3.2.0-1], [MQTT5-3.1.2-22], [MQTT311-3.1.2-24], [MQTT5-4.13.1-1],
//! [MQTT5-3.1.2-24], [MQTT5-3.14.2-2].

use petrel_proto::{Disconnect, Packet, ReasonCode};

use crate::model::{Key, Model, WillState};
use crate::oracle::session::SLACK_MS;
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "closing";

/// How long an authentication has to be left alone, in milliseconds.
const AUTHENTICATION_MS: u64 = 5_000;

impl Model {
    /// The connection has to be closed in this step.
    pub(super) fn must_close(&mut self, key: Key, reasons: Vec<ReasonCode>) {
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.must_close = Some(reasons);
            self.closing.push(key);
        }
    }

    /// The client broke a rule, or the operator ends the connection.
    pub(super) fn on_broken_rule(&mut self, key: Key, reasons: Vec<ReasonCode>) -> Checked {
        let Some(conn) = self.conns.get_mut(&key).filter(|conn| !conn.ended) else {
            return Ok(());
        };
        if !conn.connack {
            // It authenticates: CONNACK will tell.
            conn.refuse = true;
            self.closing.push(key);
            return Ok(());
        }
        self.must_close(key, reasons);
        self.end_conn(key, false)
    }

    /// The broker will stop: the wills that nothing could cancel any more are due.
    pub(super) fn on_last_wills(&mut self, shard: u16) {
        self.stopping = true;
        for (key, conn) in &mut self.conns {
            if key.0 != shard || !conn.connack || conn.ended {
                continue;
            }
            let Some(will) = conn.will else { continue };
            let will = &mut self.wills[will];
            let delay_s = will.will.delay_interval_s.unwrap_or(0).min(conn.expiry_s);
            if delay_s == 0 {
                will.state = WillState::Last;
                conn.will = None;
            }
        }
    }

    /// The broker stops.
    pub(super) fn on_shutdown(&mut self, shard: u16) -> Checked {
        self.stopping = true;
        let keys: Vec<Key> = self.conns.keys().copied().filter(|key| key.0 == shard).collect();
        for key in keys {
            // One after the other: the will of the first may still reach the last.
            self.must_close(key, vec![ReasonCode::ServerShuttingDown]);
            if let Some(conn) = self.conns.get_mut(&key) {
                conn.refuse |= !conn.connack;
            }
        }
        for will in &mut self.wills {
            if will.state != WillState::Published && will.state != WillState::Removed {
                will.state = WillState::Either;
            }
        }
        Ok(())
    }

    /// Finds the cause of a close that no input demanded: the keep alive.
    pub(super) fn explain_close(&mut self, key: Key) -> Checked {
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        if conn.must_close.is_some() || conn.refuse || conn.ended {
            return Ok(());
        }
        let idle_ms = self.at.now_ms - conn.heard_ms;
        if conn.pending.is_some() && idle_ms >= AUTHENTICATION_MS {
            conn.refuse = true;
            return Ok(());
        }
        hold!(
            conn.keep_alive_ms > 0 && idle_ms * 2 >= conn.keep_alive_ms * 3,
            ORACLE,
            "{:?} was closed without cause; it was idle for {idle_ms} ms, its keep alive is {} ms",
            conn.client_id,
            conn.keep_alive_ms
        );
        // It ends when its turn comes: the will of another that is closed before may reach it.
        self.must_close(key, vec![ReasonCode::KeepAliveTimeout]);
        self.release_will(key, false);
        Ok(())
    }

    /// Checks that a connection may carry this packet now.
    pub(super) fn check_sendable(&mut self, key: Key, packet: &Packet, bytes: usize) -> Checked {
        let conn = self.conns.get_mut(&key).ok_or_else(|| {
            violated!(ORACLE, "{key:?} is closed or was never open and was sent {packet:?}")
        })?;
        let who = &conn.client_id;
        hold!(!conn.disconnect, ORACLE, "{who:?} was sent {packet:?} after DISCONNECT");
        let opening = matches!(packet, Packet::ConnAck(_) | Packet::Auth(_));
        hold!(
            conn.connack || opening,
            ORACLE,
            "{who:?} was sent {packet:?} before CONNACK [MQTT5-3.2.0-1]"
        );
        let goodbye = matches!(packet, Packet::Disconnect(_));
        hold!(!conn.ended || goodbye, ORACLE, "{who:?} has ended and was sent {packet:?}");
        hold!(
            bytes as u64 <= u64::from(conn.packet_bytes_max),
            ORACLE,
            "{who:?} accepts {} bytes and was sent {bytes}: {packet:?} [MQTT5-3.1.2-24]",
            conn.packet_bytes_max
        );
        let limit = self.limits.outgoing_bytes_maximum as usize;
        hold!(
            !matches!(packet, Packet::Publish(_)) || conn.unread_bytes < limit,
            ORACLE,
            "{who:?} has left {} bytes unread, {limit} are allowed, and was sent {packet:?}",
            conn.unread_bytes
        );
        conn.unread_bytes += bytes;
        Ok(())
    }

    /// Checks a DISCONNECT from the broker.
    pub(super) fn on_server_disconnect(&mut self, key: Key, packet: &Disconnect) -> Checked {
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        hold!(conn.version.is_v5(), ORACLE, "DISCONNECT to {:?}, which is not v5", conn.client_id);
        hold!(
            conn.must_close.as_ref().is_some_and(|reasons| reasons.contains(&packet.reason)),
            ORACLE,
            "{:?} was sent DISCONNECT {:?}, right is {:?}",
            conn.client_id,
            packet.reason,
            conn.must_close
        );
        hold!(
            packet.session_expiry_interval_s.is_none(),
            ORACLE,
            "the broker's DISCONNECT holds a Session Expiry Interval [MQTT5-3.14.2-2]"
        );
        conn.disconnect = true;
        Ok(())
    }

    /// The shard has let go of a connection.
    pub(super) fn closed(&mut self, key: Key) -> Checked {
        self.end_conn(key, false)?;
        let Some(conn) = self.conns.remove(&key) else { return Ok(()) };
        let told = conn.must_close.as_ref().is_none_or(Vec::is_empty) || conn.disconnect;
        hold!(
            told || !conn.version.is_v5() || !conn.connack,
            ORACLE,
            "{:?} was closed without a DISCONNECT {:?} [MQTT5-4.13.2-1]",
            conn.client_id,
            conn.must_close
        );
        hold!(
            conn.connack || !conn.refuse,
            ORACLE,
            "{:?} was closed and got no CONNACK",
            conn.client_id
        );
        Ok(())
    }

    /// Everything that had to be closed in this step is.
    pub(super) fn check_closed(&mut self) -> Checked {
        for key in self.closing.drain(..) {
            if let Some(conn) = self.conns.get(&key) {
                return Err(violated!(
                    ORACLE,
                    "{:?} should have been closed for {:?} and is still open",
                    conn.client_id,
                    conn.must_close
                ));
            }
        }
        Ok(())
    }

    /// Nobody who is silent for too long is still there [MQTT5-3.1.2-22].
    pub(super) fn check_keep_alive(&mut self, shard: u16) -> Checked {
        for (key, conn) in &self.conns {
            let silent_ms = self.at.now_ms - conn.heard_ms;
            hold!(
                key.0 != shard
                    || conn.keep_alive_ms == 0
                    || conn.pending.is_some()
                    || silent_ms * 2 <= conn.keep_alive_ms * 3 + 2 * SLACK_MS,
                ORACLE,
                "{:?} is silent for {silent_ms} ms with a keep alive of {} ms and still connected",
                conn.client_id,
                conn.keep_alive_ms
            );
        }
        Ok(())
    }
}
