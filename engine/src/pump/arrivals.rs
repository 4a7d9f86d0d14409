//! Who comes: how many may, who they are, and who waits at the door.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use petrel_access::{Answer, Finding, scram};
use petrel_net::{ConnKey, Remote, WireEvent};
use petrel_proto::{
    ConnAck, ConnAckProperties, Connect, DecodeError, Packet, ReasonCode, Text, Version, encode,
    encoded_len,
};
use petrel_shard::{Asks, ConnId, Input, Origin, Question, Verdict, Whence, refusal};

use super::callers::Caller;
use super::{
    LET_IN_PER_TURN_MAX, LEVEL_THAT_REFUSES, Parts, Pump, WORK_OF_A_SESSION, WORK_PER_TURN_MAX,
    id_of, key_of,
};
use crate::doorway::{Causes, Waits, causes};
use crate::guard::{Comer, Denied};
use crate::log::{self, Area, Level};
use crate::report::{Asker, Proof};
use crate::trace;

impl Pump {
    /// Answers who a client is, or has it wait until that is known. It is not read meanwhile.
    pub(super) fn answer(&mut self, question: Question) {
        let conn = question.conn;
        let method = match &question.asks {
            Asks::Step { method, .. } => method.clone(),
            Asks::Credentials(_) => Text::EMPTY,
        };
        if let (Asks::Credentials(_), Some(desk)) = (&question.asks, &mut self.parts.desk) {
            return match desk.ask(self.now.mono_ms, question) {
                Some(finding) => self.pass_finding(conn, finding),
                None => self.parts.wire.pause(key_of(conn)),
            };
        }
        let verdict = match &question.asks {
            Asks::Step { method, listener, data, starts }
                if method.as_str() == scram::METHOD && self.parts.scram.is_some() =>
            {
                let (who, data) = ((conn, *listener), data.as_deref());
                self.parts.scram.as_mut().map(|scram| scram.step(who, data, *starts))
            }
            _ => Some(self.parts.auth.answer(&question)),
        };
        match verdict {
            Some(verdict) => self.pass_verdict(conn, verdict, Proof::Exchange(method.as_str())),
            None => self.parts.wire.pause(key_of(conn)),
        }
    }

    fn pass_finding(&mut self, conn: ConnId, mut finding: Finding) {
        let continues = Verdict::Continue { data: None };
        let verdict = std::mem::replace(&mut finding.verdict, continues);
        self.pass_verdict(conn, verdict, Proof::Desk(&finding));
    }

    /// Tells the shard who a client is, if so many of that user may come.
    fn pass_verdict(&mut self, conn: ConnId, mut verdict: Verdict, proof: Proof<'_>) {
        if log::is_on(Area::Authentication, Level::Warn) {
            self.report_verdict(conn, &verdict, Ok(proof));
        }
        if let Verdict::Accept { identity: Some(identity), .. } = &verdict {
            let seat = self.seats.get_mut(&key_of(conn)).map(|seat| &mut **seat);
            let entered = self.parts.guard.enter_as(seat, &identity.user, self.now.mono_ms);
            if let Err(denied) = entered {
                self.report_verdict(conn, &verdict, Err(denied));
                verdict = Verdict::Refuse { reason: denied.reason() };
            }
        }
        self.feed(Input::Verdict { conn, verdict });
    }

    /// Has the log say what was found out about a client, or why it may not come all the same.
    #[cold]
    fn report_verdict(&self, conn: ConnId, verdict: &Verdict, said: Result<Proof<'_>, Denied>) {
        let Some(client) = self.shard.client_of(conn) else { return };
        let caller = self.callers.get(key_of(conn));
        let proved = match verdict {
            Verdict::Accept { identity: Some(identity), .. } => Some(&identity.user),
            _ => None,
        };
        let user = proved.or(client.user.as_ref());
        let asker = Asker { client_id: &client.client_id, user, caller };
        match said {
            Ok(proof) => self.report.authenticated(asker, client.listener, verdict, proof),
            Err(denied) => self.report.turned_down(asker, client.listener, denied),
        }
    }

    /// Takes what was found out of clients that wait, up to so much work.
    pub(super) fn hear_desk(&mut self) {
        for _ in 0..WORK_PER_TURN_MAX / WORK_OF_A_SESSION {
            let Some(desk) = &mut self.parts.desk else { return };
            let wire = &self.parts.wire;
            let is_there = |conn| !wire.has_ended(key_of(conn));
            let Some((conn, answer)) = desk.next(self.now.mono_ms, is_there) else { return };
            let key = key_of(conn);
            let answer = if wire.has_ended(key) { Answer::Gone } else { answer };
            self.parts.wire.resume(key);
            match answer {
                Answer::Verdict(finding) => self.pass_finding(conn, finding),
                // Its CONNACK would reach nobody, and its session may have a later connection.
                Answer::Gone => {
                    let volume = self.parts.wire.volume(key);
                    self.forget(key, volume);
                    self.parts.wire.close(key);
                    self.feed(Input::Closed { conn });
                }
            }
            if self.is_full() {
                self.carry_out();
            }
        }
    }

    pub(super) fn origin(&self, listener: u16, peer: Remote) -> Origin {
        let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let lets_in = self.parts.lets_in.get(usize::from(listener)).copied().unwrap_or_default();
        Origin {
            listener,
            allow_anonymous: lets_in.anonymous,
            authenticates: lets_in.asks,
            address: peer.address.unwrap_or(nowhere),
            certificate: peer.user,
        }
    }

    /// A CONNECT of a client whose home is here. While lanes have more to write than they may have, one
    /// that causes more waits.
    pub(super) fn welcome(
        &mut self,
        conn: ConnKey,
        connect: Box<Connect>,
        listener: u16,
        peer: Remote,
    ) {
        if self.is_laden(causes(&connect)) && self.stop_at_ms.is_none() {
            return self.keep_waiting(conn, WireEvent::Connect { conn, connect, listener, peer });
        }
        if self.overload.level() >= LEVEL_THAT_REFUSES
            && !self.shard.has_session(&connect.client_id)
        {
            self.parts.guard.count(Denied::Busy);
            self.say_denied(conn, &connect, listener, &peer, Denied::Busy);
            return self.deny(conn, &connect, Denied::Busy, (listener, peer.address));
        }
        let address = peer.address.map(|address| address.ip());
        let (client_id, user) = (&connect.client_id, connect.username.as_ref());
        let user = user.or(peer.user.as_ref());
        let taken = self.shard.connection_of(client_id).map(key_of);
        let takes_over = taken.and_then(|conn| self.seats.get(&conn)).map(|seat| &**seat);
        let comer = Comer { listener, address, client_id, user, takes_over };
        match self.parts.guard.enter(&comer, self.now.mono_ms) {
            Ok(None) => {}
            Ok(Some(seat)) => drop(self.seats.insert(conn, seat)),
            Err(denied) => {
                self.say_denied(conn, &connect, listener, &peer, denied);
                return self.deny(conn, &connect, denied, (listener, peer.address));
            }
        }
        if self.callers.is_on() {
            let (since_ms, address) = (self.now.mono_ms, peer.address);
            self.callers.begin(conn, Caller { since_ms, listener, address, volume: None });
        }
        let origin = self.origin(listener, peer);
        self.feed(Input::Connect { conn: id_of(conn), connect, origin });
    }

    /// Says to those who watch that somebody may not come.
    fn say_denied(
        &mut self,
        conn: ConnKey,
        connect: &Connect,
        listener: u16,
        peer: &Remote,
        denied: Denied,
    ) {
        if !self.parts.tracer.is_on() {
            return;
        }
        let whence = peer.address.map(|address| Whence { address, listener });
        let user = connect.username.as_ref().or(peer.user.as_ref());
        let client_id = connect.client_id.as_str();
        let about = trace::Comer { client_id, user: user.map(Text::as_str), whence };
        let why = (denied.reason(), denied.what());
        self.parts.tracer.denied(self.parts.clock.micros(), id_of(conn), &about, why);
    }

    /// Answers a CONNECT of somebody who may not come.
    fn deny(
        &mut self,
        conn: ConnKey,
        connect: &Connect,
        denied: Denied,
        (listener, address): (u16, Option<SocketAddr>),
    ) {
        self.report.denied(&connect.client_id, denied, address, listener);
        let connack = ConnAck {
            session_present: false,
            reason: denied.reason(),
            properties: ConnAckProperties::default(),
        };
        self.packet.clear();
        encode(&Packet::ConnAck(Box::new(connack)), connect.version, &mut self.packet);
        self.parts.wire.write(conn, self.packet[..].into(), &Bytes::new());
        self.parts.wire.close(conn);
    }

    /// Somebody has sent what is no MQTT.
    pub(super) fn malformed(&mut self, address: Option<IpAddr>, error: &DecodeError) {
        if matches!(error.reason, ReasonCode::MalformedPacket | ReasonCode::ProtocolError)
            && let Some(address) = address
            && let Some(range) = self.parts.guard.malformed(address, self.now.mono_ms)
        {
            self.report.banned_addresses(range);
        }
    }

    /// Answers a first packet that is no good CONNECT, where the protocol has an answer.
    pub(super) fn refuse(&mut self, conn: ConnKey, version: Option<Version>, error: &DecodeError) {
        let address = self.parts.wire.peer(conn).map(|peer| peer.ip());
        self.report.refused(address, error);
        self.malformed(address, error);
        if let Some(version) = version
            && let Some(packet) = refusal(version, error)
            && encoded_len(&packet, version).is_some()
        {
            self.packet.clear();
            encode(&packet, version, &mut self.packet);
            self.parts.wire.write(conn, self.packet[..].into(), &Bytes::new());
        }
        self.parts.wire.close(conn);
    }

    /// True if lanes have more to write than they may have for what causes so much more.
    pub(super) fn is_laden(&self, causes: Causes) -> bool {
        self.parts.storage.as_ref().is_some_and(|storage| storage.is_laden(causes))
    }

    /// True if a disk has failed or has no room.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.parts.storage.as_ref().is_some_and(|storage| storage.troubles().0 > 0)
    }

    /// Who may come in from the doorway, if anybody waits there who may.
    pub(super) fn lets_in(&self) -> Option<Waits> {
        if self.doorway.is_empty() || self.is_laden(Causes::Much) {
            return None;
        }
        if self.doorway.has_connects() {
            return Some(Waits::Connect);
        }
        (!self.is_in_trouble()).then_some(Waits::Packet)
    }

    pub(super) fn keep_waiting(&mut self, conn: ConnKey, event: WireEvent) {
        self.parts.wire.pause(conn);
        self.doorway.push(conn, event);
        if self.doorway.wants_a_look() {
            self.send_away_who_has_gone();
        }
    }

    /// Handles what was not looked at while lanes had too much to write.
    pub(super) fn let_in(&mut self) {
        for _ in 0..LET_IN_PER_TURN_MAX {
            let waiting = match self.lets_in() {
                Some(Waits::Connect) => self.doorway.pop_connect(),
                Some(Waits::Packet) => self.doorway.pop_packet(),
                None => return,
            };
            let Some((conn, event)) = waiting else { return };
            self.parts.wire.resume(conn);
            match event {
                // Its CONNACK would reach nobody, and its session may have a later connection.
                WireEvent::Connect { .. } if self.parts.wire.has_ended(conn) => {
                    self.parts.wire.close(conn);
                }
                event => self.on_event(event),
            }
        }
    }

    /// Who waits is not silent.
    pub(super) fn look_at_the_doorway(&mut self) {
        if self.doorway.is_empty() {
            return;
        }
        for conn in self.doorway.connections() {
            self.shard.excuse(self.now, id_of(conn));
        }
        self.send_away_who_has_gone();
    }

    /// Who has gone while a disk has failed waits no longer.
    pub(super) fn send_away_who_has_gone(&mut self) {
        if !self.is_in_trouble() {
            return;
        }
        let wire = &self.parts.wire;
        for (conn, event) in self.doorway.take_if(|conn| wire.has_ended(conn)) {
            match event {
                WireEvent::Connect { .. } => self.parts.wire.close(conn),
                // Its end comes behind what it sent; that was acknowledged to nobody.
                _ => self.parts.wire.resume(conn),
            }
        }
    }

    /// Looks once more for those who were banned.
    pub(super) fn look_for_the_banned(&mut self) {
        let now_ms = self.now.mono_ms;
        let due = self.banned.extract_if(.., |(_, at_ms)| *at_ms <= now_ms).collect::<Vec<_>>();
        for (target, _) in due {
            if self.parts.guard.bans().holds(&target, now_ms) {
                self.feed(Input::Ban(target));
            }
        }
    }

    /// Who is not read for now and has gone is read to its end.
    pub(super) fn let_those_go_who_have_gone(&mut self) {
        let Parts { wire, .. } = &mut self.parts;
        let gone: Vec<_> = self.held.connections().filter(|conn| wire.has_ended(*conn)).collect();
        gone.into_iter().for_each(|conn| wire.resume(conn));
    }
}
