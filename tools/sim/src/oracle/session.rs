//! Oracle *session*: CONNACK, Session Present, take-over, and how long a session lives.
//!
//! [MQTT5-3.1.2-4] to -6, [MQTT5-3.1.4-3], [MQTT5-3.2.2-2], -3 and -6, [MQTT5-3.1.2-23],
//! [MQTT311-3.1.2-4] to -6, [MQTT311-3.1.4-2], [MQTT311-3.1.3-8].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petrel_proto::{ConnAck, Connect, ReasonCode, Version};

use crate::model::{Conn, Key, Model, Session, WillState};
use crate::oracle::Hint;
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "session";

/// How late a shard may be to notice that time has passed, in milliseconds.
pub const SLACK_MS: u64 = 1000;

impl Model {
    /// Accounts for a CONNECT.
    pub(super) fn on_connect(&mut self, key: Key, connect: &Connect, hint: &Hint) -> Checked {
        let mut conn = self.conn_of(connect);
        conn.refuse |= hint.hostile.is_some() || self.stopping;
        let authenticates = connect.properties.authentication_method.is_some();
        if authenticates && !conn.refuse {
            conn.pending = Some(Box::new(connect.clone()));
        }
        let settled = conn.refuse || authenticates;
        self.conns.insert(key, conn);
        if settled { Ok(()) } else { self.take_session(key, connect) }
    }

    /// An accepted CONNECT gets its session.
    pub(super) fn take_session(&mut self, key: Key, connect: &Connect) -> Checked {
        let Some(mut conn) = self.conns.remove(&key) else { return Ok(()) };
        let nameless = conn.nameless;
        let earlier = self.by_client.get(&conn.client_id).copied();
        let earlier = earlier.filter(|&s| self.sessions[s].ended.is_none() && !nameless);
        conn.present = Some(false);
        if let Some(session) = earlier {
            conn.present = self.resume(session, connect.clean_start)?;
            if conn.present != Some(false) {
                conn.session = Some(session);
            }
        }
        if nameless {
            // A stand-in until CONNACK assigns one; before MQTT 5 nobody ever learns it.
            conn.client_id = format!("?{}", self.sessions.len());
        }
        conn.will = self.arm_will(key.0, &conn.client_id, connect);
        let session = match conn.session {
            Some(session) => session,
            None => self.open_session(&conn.client_id, key.0, conn.version),
        };
        conn.session = Some(session);
        self.attach(session, key, &conn);
        self.conns.insert(key, conn);
        Ok(())
    }

    /// What CONNECT says of the connection.
    fn conn_of(&self, connect: &Connect) -> Conn {
        let properties = &connect.properties;
        let version = connect.version;
        let asked = match version {
            Version::V5 => properties.session_expiry_interval_s,
            _ => Some(if connect.clean_start { 0 } else { u32::MAX }),
        };
        let keep_alive_s = match self.limits.server_keep_alive_s {
            // Before MQTT 5 a client cannot be told.
            imposed if imposed > 0 && version.is_v5() => imposed,
            _ => connect.keep_alive_s,
        };
        let nameless = connect.client_id.is_empty();
        Conn {
            client_id: connect.client_id.as_str().to_owned(),
            version,
            session: None,
            present: None,
            refuse: nameless && version == Version::V3_1_1 && !connect.clean_start,
            connack: false,
            disconnect: false,
            ended: false,
            must_close: None,
            receive_maximum: properties
                .receive_maximum
                .unwrap_or(u16::MAX)
                .min(self.limits.outgoing_inflight_maximum),
            packet_bytes_max: properties.maximum_packet_size.unwrap_or(u32::MAX),
            alias_max: properties
                .topic_alias_maximum
                .unwrap_or(0)
                .min(self.limits.outgoing_topic_alias_maximum),
            aliases_in: BTreeMap::new(),
            aliases_out: BTreeMap::new(),
            will: None,
            keep_alive_ms: u64::from(keep_alive_s) * 1000,
            since_ms: self.at.now_ms,
            heard_ms: self.at.now_ms,
            expiry_s: asked.unwrap_or(0).min(self.limits.session_expiry_max_s),
            asked_expiry_s: asked,
            owed: VecDeque::new(),
            unread_bytes: 0,
            in_flight: BTreeSet::new(),
            resent_up_to: None,
            quiet: properties.request_problem_information == Some(false),
            nameless,
            pending: None,
            exchange: false,
        }
    }

    /// A CONNECT reaches a session that may live on. Returns the Session Present to show.
    fn resume(&mut self, session: usize, clean_start: bool) -> Checked<Option<bool>> {
        if let Some(old) = self.sessions[session].conn {
            self.must_close(old, vec![ReasonCode::SessionTakenOver]);
            self.end_conn(old, false)?;
        }
        let doubtful = self.doubtful(session);
        let gone = self.sessions[session].ended.is_some();
        self.settle_wills(session, gone || clean_start);
        Ok(if gone {
            Some(false)
        } else if clean_start {
            self.end_session(session);
            Some(false)
        } else if doubtful {
            None
        } else {
            Some(true)
        })
    }

    fn open_session(&mut self, client_id: &str, shard: u16, version: Version) -> usize {
        let session = self.sessions.len();
        self.sessions.push(Session::new(client_id.to_owned(), shard, version));
        self.by_client.insert(client_id.to_owned(), session);
        session
    }

    fn attach(&mut self, at: usize, key: Key, conn: &Conn) {
        let session = &mut self.sessions[at];
        session.conn = Some(key);
        session.version = conn.version;
        session.packet_bytes_min = session.packet_bytes_min.min(conn.packet_bytes_max);
        self.note_given_up(at, conn.packet_bytes_max);
    }

    /// Checks a CONNACK against what its CONNECT asked for and what was known before.
    pub(super) fn on_connack(&mut self, key: Key, ack: &ConnAck) -> Checked {
        let conn =
            self.conns.get_mut(&key).ok_or_else(|| violated!(ORACLE, "CONNACK to nobody"))?;
        hold!(!conn.connack, ORACLE, "{key:?} got a second CONNACK");
        conn.connack = true;
        if conn.refuse {
            hold!(ack.reason.is_error(), ORACLE, "{key:?} had to be refused and was accepted");
            hold!(!ack.session_present, ORACLE, "a refusal shows Session Present [MQTT5-3.2.2-6]");
            conn.must_close = Some(Vec::new());
            self.closing.push(key);
            return Ok(());
        }
        hold!(
            ack.reason == ReasonCode::Success,
            ORACLE,
            "{key:?} of {:?} was refused with {:?} without cause",
            conn.client_id,
            ack.reason
        );
        let (version, client_id) = (conn.version, conn.client_id.clone());
        let (expected, session) = (conn.present, conn.session);
        if version != Version::V3_1 {
            hold!(
                expected.is_none_or(|expected| expected == ack.session_present),
                ORACLE,
                "{client_id:?} was shown Session Present {} and should see {expected:?} \
                 [MQTT5-3.2.2-2] [MQTT5-3.2.2-3]",
                ack.session_present
            );
        }
        if let Some(session) = session {
            // The doubt is over: either it was still there, or it had expired just before.
            self.sessions[session].expires_ms = None;
            if expected.is_none() && !ack.session_present {
                self.replace_expired(session, key);
            }
        }
        if version == Version::V5 { self.check_connack_properties(key, ack) } else { Ok(()) }
    }

    fn replace_expired(&mut self, session: usize, key: Key) {
        self.sessions[session].conn = None;
        self.end_session(session);
        let Some(mut conn) = self.conns.remove(&key) else { return };
        let session = self.open_session(&conn.client_id, key.0, conn.version);
        conn.session = Some(session);
        self.attach(session, key, &conn);
        self.conns.insert(key, conn);
    }

    fn check_connack_properties(&mut self, key: Key, ack: &ConnAck) -> Checked {
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        let properties = &ack.properties;
        let limits = &self.limits;
        hold!(
            properties.receive_maximum.unwrap_or(u16::MAX) == limits.receive_maximum,
            ORACLE,
            "CONNACK tells Receive Maximum {:?}",
            properties.receive_maximum
        );
        hold!(
            properties.topic_alias_maximum.unwrap_or(0) == limits.topic_alias_maximum,
            ORACLE,
            "CONNACK tells Topic Alias Maximum {:?}",
            properties.topic_alias_maximum
        );
        hold!(
            properties.maximum_packet_size == Some(limits.maximum_packet_size_bytes),
            ORACLE,
            "CONNACK tells Maximum Packet Size {:?}",
            properties.maximum_packet_size
        );
        hold!(
            properties.server_keep_alive_s.unwrap_or(0) == limits.server_keep_alive_s,
            ORACLE,
            "CONNACK tells Server Keep Alive {:?} [MQTT5-3.2.2-21]",
            properties.server_keep_alive_s
        );
        let told = properties.session_expiry_interval_s.or(conn.asked_expiry_s).unwrap_or(0);
        hold!(
            told == conn.expiry_s,
            ORACLE,
            "CONNACK tells a Session Expiry Interval of {told} s, in force are {} s",
            conn.expiry_s
        );
        hold!(
            properties.assigned_client_id.is_some() == conn.nameless,
            ORACLE,
            "CONNACK assigns {:?} to {:?} [MQTT5-3.2.2-16]",
            properties.assigned_client_id,
            conn.client_id
        );
        let Some(assigned) = &properties.assigned_client_id else { return Ok(()) };
        let assigned = assigned.as_str().to_owned();
        hold!(
            self.slots.home_of(assigned.as_bytes()).0 == key.0,
            ORACLE,
            "the assigned identifier {assigned:?} is at home on another shard than {}",
            key.0
        );
        hold!(
            self.by_client.get(&assigned).is_none_or(|&s| self.sessions[s].ended.is_some()),
            ORACLE,
            "the assigned identifier {assigned:?} belongs to a session that lives"
        );
        let stand_in = std::mem::replace(&mut conn.client_id, assigned.clone());
        self.by_client.remove(&stand_in);
        if let Some(session) = conn.session {
            self.sessions[session].client_id.clone_from(&assigned);
            self.by_client.insert(assigned.clone(), session);
        }
        if let Some(will) = conn.will {
            self.wills[will].client_id = assigned;
        }
        Ok(())
    }

    /// A connection ended, by whatever cause. The will goes its way unless it is removed.
    pub(super) fn end_conn(&mut self, key: Key, remove_will: bool) -> Checked {
        let Some(conn) = self.conns.get_mut(&key).filter(|conn| !conn.ended) else {
            return Ok(());
        };
        conn.ended = true;
        let expiry_s = conn.expiry_s;
        if let Some(session) = conn.session {
            self.forgo_parts(session);
            self.check_at_most_once(session)?;
            self.sessions[session].conn = None;
            match expiry_s {
                0 => self.end_session(session),
                u32::MAX => {}
                s => {
                    self.sessions[session].expires_ms = Some(self.at.now_ms + u64::from(s) * 1000);
                }
            }
        }
        self.release_will(key, remove_will);
        Ok(())
    }

    /// A connection ends or is about to: its will goes its way unless it is removed.
    pub(super) fn release_will(&mut self, key: Key, remove_will: bool) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let expiry_s = conn.expiry_s;
        if let Some(will) = conn.will.take() {
            let delay_s = self.wills[will].will.delay_interval_s.unwrap_or(0).min(expiry_s);
            self.wills[will].state = match (remove_will, delay_s) {
                (true, _) => WillState::Removed,
                _ if self.stopping => WillState::Either,
                (false, 0) => WillState::Now,
                (false, s) => WillState::Due(self.at.now_ms + u64::from(s) * 1000),
            };
        }
    }

    /// The session is over; nothing of it may be seen again.
    pub(super) fn end_session(&mut self, session: usize) {
        if self.sessions[session].ended.is_none() {
            self.sessions[session].ended = Some(self.at);
            self.sessions[session].expires_ms = None;
            self.leave_groups(session);
        }
    }

    /// Sessions whose time is certainly over end.
    pub(super) fn expire_sessions(&mut self, shard: u16) {
        let over: Vec<usize> = (self.by_client.values().copied())
            .filter(|&s| {
                let session = &self.sessions[s];
                // What a cap means for sessions before MQTT 5 is the broker's own affair.
                session.shard == shard
                    && session.version.is_v5()
                    && session.expires_ms.is_some_and(|at| at + SLACK_MS <= self.at.now_ms)
            })
            .collect();
        for session in over {
            self.end_session(session);
        }
    }
}
