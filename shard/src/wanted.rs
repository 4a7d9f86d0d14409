//! Who wants the message at hand.

use petrel_proto::Qos;
use smallvec::SmallVec;

use crate::receivers::Receiver;
use crate::subscriptions::Seen;

/// The sessions that want one message, each once.
#[derive(Debug, Default)]
pub(crate) struct WantedSessions {
    pub(crate) sessions: Vec<Wanted>,
    /// The identifiers of those sessions that have several.
    pub(crate) identifiers: Several,
    message: u64,
    /// Some want it at QoS 1 or 2, if it has that.
    pub(crate) reliable: bool,
}

/// One session that wants a message, with what its subscriptions ask for together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) session: u32,
    pub(crate) qos: Qos,
    pub(crate) retain_as_published: bool,
    /// A Subscription Identifier, 0 for none; with [`SEVERAL`] where in the list they are.
    identifier: u32,
}

/// The identifiers of sessions that have several.
pub(crate) type Several = Vec<SmallVec<[u32; 4]>>;

/// Above all Subscription Identifiers.
const SEVERAL: u32 = 1 << 31;

impl WantedSessions {
    pub(crate) fn begin(&mut self) {
        self.sessions.clear();
        self.identifiers.clear();
        self.reliable = false;
        self.message += 1;
    }

    #[inline]
    pub(crate) fn add(&mut self, session: u32, receiver: Receiver, seen: Option<&mut Seen>) {
        let options = receiver.options();
        let (qos, retain_as_published) = (options.qos(), options.retain_as_published());
        let identifier = receiver.identifier();
        self.reliable |= qos > Qos::AtMostOnce;
        if let Some(seen) = seen {
            if seen.message == self.message {
                let wanted = &mut self.sessions[seen.position as usize];
                wanted.qos = wanted.qos.max(qos);
                wanted.retain_as_published |= retain_as_published;
                wanted.identifier =
                    Self::join(&mut self.identifiers, wanted.identifier, identifier);
                return;
            }
            *seen = Seen { message: self.message, position: self.sessions.len() as u32 };
        }
        self.sessions.push(Wanted { session, qos, retain_as_published, identifier });
    }

    /// What stands for the identifiers of a session together with one more.
    fn join(identifiers: &mut Vec<SmallVec<[u32; 4]>>, known: u32, more: u32) -> u32 {
        match known {
            _ if more == 0 => known,
            0 => more,
            _ if known & SEVERAL != 0 => {
                identifiers[(known & !SEVERAL) as usize].push(more);
                known
            }
            _ => {
                identifiers.push([known, more].into_iter().collect());
                SEVERAL | (identifiers.len() - 1) as u32
            }
        }
    }
}

impl Wanted {
    /// The Subscription Identifiers with which the session gets the message.
    #[inline]
    pub(crate) fn identifiers<'a>(&'a self, several: &'a Several) -> &'a [u32] {
        match self.identifier {
            0 => &[],
            it if it & SEVERAL != 0 => &several[(it & !SEVERAL) as usize],
            _ => std::slice::from_ref(&self.identifier),
        }
    }
}
