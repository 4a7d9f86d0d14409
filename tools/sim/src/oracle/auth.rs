//! Oracle *auth*: the exchange of AUTH packets goes step by step.
//!
//! [MQTT5-4.12.0-2], [MQTT5-4.12.0-5], [MQTT5-4.12.1-2]. What the first exchange decides, the
//! session, is seen by [`super::session`].

use petrel_proto::{Auth, ReasonCode};
use petrel_shard::Verdict;

use crate::hold;
use crate::model::{Key, Model};
use crate::violation::Checked;

const ORACLE: &str = "auth";

impl Model {
    /// The client begins another exchange on a connection that is up.
    pub(super) fn on_client_auth(&mut self, key: Key, auth: &Auth) {
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.exchange |= auth.reason == ReasonCode::ReAuthenticate;
        }
    }

    /// An authentication method has decided what comes next.
    pub(super) fn on_verdict(&mut self, key: Key, verdict: &Verdict) -> Checked {
        let Some(conn) = self.conns.get_mut(&key).filter(|conn| !conn.ended) else {
            return Ok(());
        };
        match (verdict, conn.pending.take()) {
            (Verdict::Continue { .. }, pending) => {
                conn.pending = pending;
                self.auth_due = Some((key, ReasonCode::ContinueAuthentication));
            }
            (Verdict::Accept { .. }, Some(connect)) => {
                conn.heard_ms = self.at.now_ms;
                conn.since_ms = self.at.now_ms;
                return self.take_session(key, &connect);
            }
            (Verdict::Accept { .. }, None) => {
                conn.exchange = false;
                self.auth_due = Some((key, ReasonCode::Success));
            }
            (Verdict::Refuse { .. }, Some(_)) => {
                conn.refuse = true;
                self.closing.push(key);
            }
            (Verdict::Refuse { reason }, None) => return self.on_broken_rule(key, vec![*reason]),
        }
        Ok(())
    }

    /// Checks an AUTH to a client.
    pub(super) fn on_server_auth(&mut self, key: Key, auth: &Auth) -> Checked {
        let due = self.auth_due.take();
        hold!(
            due == Some((key, auth.reason)),
            ORACLE,
            "{key:?} was sent AUTH {:?}, due was {due:?}",
            auth.reason
        );
        hold!(
            auth.method.as_ref().is_some_and(|method| method.as_str() == "sim"),
            ORACLE,
            "{key:?} was sent AUTH with the method {:?} [MQTT5-4.12.0-5]",
            auth.method
        );
        Ok(())
    }

    /// The step that was decided has been sent.
    pub(super) fn check_auth_sent(&mut self) -> Checked {
        let due = self.auth_due.take();
        hold!(due.is_none(), ORACLE, "{due:?} was decided and no AUTH was sent [MQTT5-4.12.0-2]");
        Ok(())
    }
}
