//! AUTH: enhanced authentication and re-authentication ([MQTT5-4.12]).
//!
//! The shard leads the exchange; what a step means is decided elsewhere, through
//! [`Question`] and [`Verdict`].

use bytes::Bytes;
use petrel_proto::{Auth, Packet, ReasonCode, ReasonProperties};

use crate::connection::{Connection, Violation};
use crate::outbox::{Asks, Question};
use crate::session::Session;
use crate::shard::{Shard, Turn};
use crate::{ConnId, Verdict};

/// What a client is told that is not who its CONNECT says. No word on why: that would help others.
const NOT_WHO: &str = "authentication failed";

impl Shard {
    /// A step of the client.
    pub(crate) fn on_auth(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: Auth,
    ) -> Result<(), Violation> {
        let Some(connection) = self.connection_mut(conn) else { return Ok(()) };
        let live = connection.is_live();
        let Some(auth) = connection.auth_mut() else {
            return Err(Violation::protocol("AUTH without a method in CONNECT [MQTT5-4.12.0-6]"));
        };
        if packet.method.as_ref() != Some(&auth.method) {
            let what = "AUTH must name the method of the CONNECT [MQTT5-4.12.0-5]";
            return Err(Violation::protocol(what));
        }
        let starts = match packet.reason {
            ReasonCode::ReAuthenticate if live && !auth.running => true,
            ReasonCode::ContinueAuthentication if auth.running && !auth.asked => false,
            _ => return Err(Violation::protocol("AUTH out of turn [MQTT5-4.12.0-3]")),
        };
        auth.running = true;
        self.ask(turn, conn, packet.data, starts);
        Ok(())
    }

    /// Asks what a step of the client means.
    pub(crate) fn ask(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        data: Option<Bytes>,
        starts: bool,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(auth) = connection.auth_mut() else { return };
        auth.asked = true;
        let (method, listener) = (auth.method.clone(), auth.listener);
        let session = connection.session;
        let client_id = match connection.extras().and_then(|extras| extras.pending.as_deref()) {
            Some(pending) => Some(pending.connect.client_id.clone()),
            None => self.sessions.get(session).map(Session::client_id),
        };
        if let Some(client_id) = client_id {
            let data = data.as_deref().map(Bytes::copy_from_slice);
            let asks = Asks::Step { method, listener, data, starts };
            turn.out.questions.push(Question { conn, client_id, asks });
        }
    }

    /// The answer to a question.
    pub(crate) fn on_verdict(&mut self, turn: &mut Turn<'_>, conn: ConnId, verdict: Verdict) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let live = connection.is_live();
        if connection.asked_mut().is_some() {
            return self.on_verdict_of_connect(turn, conn, verdict);
        }
        let Some(auth) = connection.auth_mut().filter(|auth| auth.asked) else { return };
        auth.asked = false;
        let method = auth.method.clone();
        let step = |reason, data| {
            let properties = ReasonProperties::EMPTY;
            Packet::Auth(Box::new(Auth { reason, method: Some(method), data, properties }))
        };
        match verdict {
            Verdict::Continue { data } => {
                self.send(turn, conn, &step(ReasonCode::ContinueAuthentication, data));
            }
            Verdict::Accept { data, identity } if live => {
                auth.running = false;
                if !self.proves_again(turn, conn, identity) {
                    let what = "it has proved to be another user";
                    return self.violate(
                        turn,
                        conn,
                        Violation::new(ReasonCode::NotAuthorized, what),
                    );
                }
                self.send(turn, conn, &step(ReasonCode::Success, data));
            }
            Verdict::Accept { data, identity } => {
                if let Some(pending) = self.connection_mut(conn).and_then(Connection::take_pending)
                {
                    self.accept(turn, conn, *pending, data, identity);
                }
            }
            // [MQTT5-4.12.0-4], [MQTT5-4.12.1-2]
            Verdict::Refuse { reason } => {
                self.violate(turn, conn, Violation::new(reason, "authentication failed"));
            }
        }
    }

    /// Who the client of a CONNECT is.
    fn on_verdict_of_connect(&mut self, turn: &mut Turn<'_>, conn: ConnId, verdict: Verdict) {
        match verdict {
            Verdict::Accept { identity, .. } => {
                if let Some(pending) = self.connection_mut(conn).and_then(Connection::take_pending)
                {
                    self.accept(turn, conn, *pending, None, identity);
                }
            }
            // There is nothing to go on with.
            Verdict::Continue { .. } => {
                self.violate(turn, conn, Violation::new(ReasonCode::NotAuthorized, NOT_WHO));
            }
            // [MQTT5-3.1.4-2]
            Verdict::Refuse { reason } => {
                self.violate(turn, conn, Violation::new(reason, NOT_WHO));
            }
        }
    }
}
