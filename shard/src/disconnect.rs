//! The end of connections and of sessions ([MQTT5-3.14], [MQTT5-4.1]).

use std::collections::BTreeMap;

use petrel_proto::{ClientId, Disconnect, Packet, ReasonCode, ReasonProperties, Text};

use crate::ConnId;
use crate::connect::{client_hash, fit};
use crate::connection::{Connection, Violation};
use crate::event::{DropReason, EndedBy, Event, Limit};
use crate::ledger::drop_message;
use crate::peer::PeerMessage;
use crate::sabotage::{self, Sabotage};
use crate::session::OFFLINE;
use crate::shard::{Shard, Turn};
use crate::timers::Tick;
use crate::traced::Note;
use crate::waiting::HEAD_MESSAGES;

impl Shard {
    /// The client says goodbye. DISCONNECT 0x00 discards the will ([MQTT5-3.14.4-3],
    /// [MQTT5-3.1.2-10]); every other reason keeps it.
    pub(crate) fn on_disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: &Disconnect,
    ) -> Result<(), Violation> {
        let expiry_max = self.limits().session_expiry_max_s;
        if let Some(index) = self.session_of(conn)
            && let Some(session) = self.sessions.get_mut(index)
        {
            match packet.session_expiry_interval_s {
                // With a maximum of 0 nothing says what the CONNECT asked for, and nothing changes.
                Some(expiry_s)
                    if expiry_s > 0 && session.expiry_interval_s == 0 && expiry_max > 0 =>
                {
                    let what =
                        "DISCONNECT must not raise a Session Expiry Interval of 0 (3.14.2.2.2)";
                    return Err(Violation::protocol(what));
                }
                Some(expiry_s) => {
                    if expiry_s > expiry_max {
                        turn.out.limited.count(Limit::SessionExpiriesCapped);
                    }
                    session.expiry_interval_s = expiry_s.min(expiry_max);
                }
                None => {}
            }
            let any = sabotage::on(Sabotage::WillRemovedByAnyDisconnect);
            if (packet.reason == ReasonCode::Success || any)
                && let Some(rare) = session.rare.as_deref_mut()
            {
                rare.will = None;
            }
        }
        turn.out.closes.push(conn);
        if self.session_of(conn).is_none() {
            // It was still authenticating; nothing is owed to it.
            if self.connection(conn).is_some() {
                self.remove_connection(conn);
            }
        }
        self.end_connection(turn, conn, EndedBy::Client, packet.reason, "");
        Ok(())
    }

    /// Tells an MQTT 5 client why it is disconnected, if it is live ([MQTT5-3.14.0-1],
    /// [MQTT5-3.14.2-1]).
    pub(crate) fn send_disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        violation: Violation,
    ) {
        let Some(connection) = self.connection(conn) else { return };
        let silent = violation.reason == ReasonCode::SessionTakenOver
            && sabotage::on(Sabotage::TakeOverSilent);
        if !connection.version.is_v5() || !connection.is_live() || silent {
            return;
        }
        let Connection { version, maximum_packet_size, .. } = *connection;
        let problem_information = connection.problem_information();
        let reason = match violation.reason {
            reason if reason.is_of_disconnect() => reason,
            ReasonCode::BadUserNameOrPassword | ReasonCode::Banned => ReasonCode::NotAuthorized,
            ReasonCode::ServerUnavailable => ReasonCode::ServerBusy,
            _ => ReasonCode::ProtocolError,
        };
        let mut disconnect = Disconnect::new(reason);
        if problem_information {
            disconnect.properties = ReasonProperties {
                reason_string: Text::try_from(violation.what).ok(),
                ..ReasonProperties::EMPTY
            };
        }
        let mut packet = Packet::Disconnect(Box::new(disconnect));
        fit(&mut packet, version, maximum_packet_size);
        self.send(turn, conn, &packet);
    }

    /// A session without its connection: it ends now, or waits for its expiry.
    pub(crate) fn session_offline(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.conn = OFFLINE;
        for entry in session.flow.iter_mut().flat_map(|flow| &mut flow.inflight) {
            entry.sent = false;
            entry.charged = false;
        }
        // What was on its way is not for the next connection, or waits for it with the rest.
        self.give_due(turn, index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.expiry_interval_s == 0 {
            return self.end_session(turn, index);
        }
        session.expires_at = match session.expiry_interval_s {
            u32::MAX => Tick::NEVER,
            expiry_s => Tick::after(turn.now_ms.saturating_add(u64::from(expiry_s) * 1000)),
        };
        if let Some(rare) = session.rare.as_deref_mut() {
            rare.subacks.clear();
            for pull in &mut rare.retained {
                // An answer that is still under way is asked for anew, so it must not be taken.
                self.queries = self.queries.wrapping_add(1);
                pull.query = self.queries;
                for source in &mut pull.sources {
                    source.asked = false;
                }
            }
            if let Some(pending) = rare.will.as_deref_mut() {
                let delay_s = pending.will.delay_interval_s.unwrap_or(0);
                pending.fires_at_ms = turn.now_ms.saturating_add(u64::from(delay_s) * 1000);
            }
        }
        if session.will().is_some_and(|will| will.fires_at_ms <= turn.now_ms) {
            self.publish_will(turn, index);
        }
        self.forget_owed(index);
        self.record_session(turn, index);
        self.release_group_messages(turn, index);
        self.tell_groups(turn, index);
        self.evict(index, HEAD_MESSAGES);
        self.trim(index);
        self.settle(index);
        self.arm_session(turn, index);
    }

    /// [MQTT5-4.13.2-1]: a client is told where to go, if it can be told and there is such a place.
    pub(crate) fn on_send_away(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        server_reference: Option<Text>,
    ) {
        let (reason, what) = match server_reference {
            Some(_) => (ReasonCode::UseAnotherServer, "sent to another server"),
            None => (ReasonCode::ServerShuttingDown, "sent away"),
        };
        let Some(connection) = self.connection(conn) else { return };
        if server_reference.is_none() || !connection.is_live() || !connection.version.is_v5() {
            return self.end_by(turn, conn, EndedBy::Admin, Violation::new(reason, what));
        }
        let disconnect = Disconnect { server_reference, ..Disconnect::new(reason) };
        self.send(turn, conn, &Packet::Disconnect(Box::new(disconnect)));
        // One that is too large for the client has ended the connection already.
        if self.connection(conn).is_some() {
            turn.out.closes.push(conn);
            self.end_connection(turn, conn, EndedBy::Admin, reason, what);
        }
    }

    /// The operator ends a session.
    pub(crate) fn on_end_session(&mut self, turn: &mut Turn<'_>, client_id: &ClientId) {
        let conn = self.find_session(client_id).and_then(|index| self.conn_of(index));
        if let Some(conn) = conn {
            let what = "the operator has ended its session";
            let why = Violation::new(ReasonCode::AdministrativeAction, what);
            self.end_by(turn, conn, EndedBy::Admin, why);
        }
        // It may have ended with its connection.
        if let Some(index) = self.find_session(client_id) {
            let (client_id, what) = (client_id.clone(), "an operator has ended it");
            turn.out.events.push(Event::SessionEnded { client_id, what });
            self.end_session(turn, index);
        }
    }

    /// Ends a session: its will is published if it has not been ([MQTT5-3.1.2-8]), its state goes.
    pub(crate) fn end_session(&mut self, turn: &mut Turn<'_>, index: u32) {
        self.record_end(turn, index);
        self.publish_will(turn, index);
        self.drop_due(turn, index);
        self.leave_groups(turn, index);
        if self.watching.is_some() {
            self.say_session_ends(turn, index);
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        let hash = self.key.hash(session.client_id.as_bytes());
        for &subscription in std::mem::take(&mut session.subscriptions).as_slice() {
            if !sabotage::on(Sabotage::SubscriptionLeaked) {
                self.remove_receiver(subscription.filter, subscription.position);
            }
        }
        let (key, sessions) = (&self.key, &self.sessions);
        self.by_client.remove(hash, index, |other| client_hash(key, sessions, other));
        self.sessions.remove(index);
        turn.out.losses.forget(index);
        turn.out.refusals.forget(index);
    }

    /// Leaves every group, giving back what it had not started to send.
    fn leave_groups(&mut self, turn: &mut Turn<'_>, index: u32) {
        let member = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let held = session.held();
        let orphans = crate::share::take_orphans(session);
        for _ in orphans.len() as u64..held {
            drop_message(turn, DropReason::SessionEnded);
        }
        let ended = held.saturating_sub(orphans.len() as u64);
        if ended > 0 {
            turn.out.notes.add(|| Note::lost(index, b"", DropReason::SessionEnded, ended));
        }
        let shared = session.rare.as_deref_mut().map(|rare| std::mem::take(&mut rare.shared));
        for group in shared.into_iter().flat_map(BTreeMap::into_keys) {
            let owner = self.group_owner(&group);
            self.tell(turn, owner, PeerMessage::GroupLeave { group, member });
        }
        self.return_to_groups(turn, member, orphans);
    }
}
