//! The ways to find out who a client is, and what comes of them.

use std::fmt;
use std::sync::Arc;

use petrel_proto::{ReasonCode, Text};
use petrel_shard::{Credentials, Identity, Verdict};

use crate::back_end::BackEnd;
#[cfg(feature = "http")]
use crate::jwks::Fetched;
use crate::passwords::{Checked, Passwords};
use crate::tokens::{Read, Tokens};

/// One way to find out who a client is.
#[derive(Debug, Clone)]
pub enum Check {
    /// A file of users.
    Passwords(Arc<Passwords>),
    /// Tokens that somebody has signed.
    Tokens(Arc<Tokens>),
    /// The client's certificate, which its transport has verified.
    Certificate,
    /// Users who prove that they know their password by an exchange of their own ([`crate::scram`]); of those
    /// who send one it knows nothing.
    Scram(Arc<crate::scram::Users>),
    /// The same with keys that are fetched.
    #[cfg(feature = "http")]
    Fetched(Arc<Fetched>),
    /// Another program, which is asked.
    Asks(Arc<BackEnd>),
}

/// The ways of one listener, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// The listener's name.
    pub listener: String,
    /// The ways.
    pub checks: Vec<Check>,
}

/// The chains of all listeners, by their position.
#[derive(Debug, Clone, Default)]
pub struct Checks(pub Vec<Chain>);

/// Whom a check is about.
pub(crate) struct Asker {
    pub client_id: Text,
    pub credentials: Box<Credentials>,
}

impl Asker {
    pub(crate) fn user(&self) -> Option<&str> {
        self.credentials.user_name.as_ref().map(Text::as_str)
    }

    pub(crate) fn password(&self) -> Option<&[u8]> {
        self.credentials.password.as_deref()
    }
}

/// What a chain looks at beside listener, user name and password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Looks {
    pub client_id: bool,
    pub address: bool,
}

/// What was found out about a client, for those who want to know why.
#[derive(Debug)]
pub struct Finding {
    /// What the shard is told.
    pub verdict: Verdict,
    /// Who has said it: a position in the chain of its listener; `None` if nobody has.
    pub by: Option<u16>,
    /// Why.
    pub why: Why,
    /// It had been found out before.
    pub is_known: bool,
    /// How long the client has waited for it, in milliseconds.
    pub waited_ms: u64,
}

/// Why somebody is let in or not. More than a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has proved who it is.
    Proved,
    /// Whoever would know fails, and has `on_failure = "allow"`.
    Allowed,
    /// What it says of itself is wrong.
    Wrong,
    /// Nobody in the chain knows it.
    Unknown,
    /// Whoever would know fails.
    Failed,
    /// Too many wait.
    Busy,
}

impl Why {
    /// For the log.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Proved => "it has proved who it is",
            Self::Allowed => "its authenticator fails, and lets everybody in meanwhile",
            Self::Wrong => "what it says of itself is wrong",
            Self::Unknown => "no authenticator of its listener knows it",
            Self::Failed => "its authenticator fails",
            Self::Busy => "too many wait to be authenticated",
        }
    }
}

/// What came of a chain, and of whom in it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub outcome: Outcome,
    pub by: Option<u16>,
    pub why: Why,
}

impl Found {
    /// What a chain has said at this position.
    pub(crate) fn of(outcome: Outcome, at: usize) -> Self {
        let by = u16::try_from(at).ok();
        let (by, why) = match outcome {
            Outcome::Is(_) => (by, Why::Proved),
            Outcome::IsNot => (by, Why::Wrong),
            Outcome::Failed => (by, Why::Failed),
            Outcome::Unknown => (None, Why::Unknown),
        };
        Self { outcome, by, why }
    }

    pub(crate) fn finding(&self, credentials: &Credentials) -> Finding {
        Finding {
            verdict: verdict(&self.outcome, credentials),
            by: self.by,
            why: self.why,
            is_known: false,
            waited_ms: 0,
        }
    }
}

impl Finding {
    /// That there is nobody to ask.
    pub(crate) const fn nobody(reason: ReasonCode, why: Why) -> Self {
        let verdict = Verdict::Refuse { reason };
        Self { verdict, by: None, why, is_known: false, waited_ms: 0 }
    }
}

/// What a client turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Is(Arc<Identity>),
    IsNot,
    /// Nobody knows the client, or has an opinion.
    Unknown,
    /// Whoever would know cannot be asked. Never kept.
    Failed,
}

/// What is done with a client when a back end fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It is told that the broker cannot serve it now.
    #[default]
    Refuse,
    /// The next in the chain is asked.
    Next,
    /// It is let in as the user that it says it is.
    Allow,
}

impl OnFailure {
    /// The names in the configuration.
    pub const NAMES: &'static [&'static str] = &["refuse", "next", "allow"];

    /// The choice for its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "refuse" => Some(Self::Refuse),
            "next" => Some(Self::Next),
            "allow" => Some(Self::Allow),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Next => "next",
            Self::Allow => "allow",
        }
    }
}

impl Check {
    /// True if its answer comes from elsewhere.
    pub(crate) const fn waits(&self) -> bool {
        match self {
            Self::Passwords(_) | Self::Tokens(_) | Self::Certificate | Self::Scram(_) => false,
            #[cfg(feature = "http")]
            Self::Fetched(_) => true,
            Self::Asks(_) => true,
        }
    }

    /// True if it begins elsewhere, and needs nothing to be computed before.
    const fn begins_elsewhere(&self) -> bool {
        matches!(self, Self::Asks(_))
    }

    /// Clients that may wait for it at once.
    fn in_flight_max(&self) -> usize {
        match self {
            Self::Passwords(_) | Self::Tokens(_) | Self::Certificate | Self::Scram(_) => 0,
            #[cfg(feature = "http")]
            Self::Fetched(fetched) => fetched.in_flight_max(),
            Self::Asks(back_end) => back_end.terms().in_flight_max as usize,
        }
    }

    /// What is done with a client when it fails.
    pub(crate) fn on_failure(&self) -> OnFailure {
        match self {
            Self::Passwords(_) | Self::Tokens(_) | Self::Certificate | Self::Scram(_) => {
                OnFailure::Refuse
            }
            #[cfg(feature = "http")]
            Self::Fetched(fetched) => fetched.on_failure(),
            Self::Asks(back_end) => back_end.terms().on_failure,
        }
    }

    /// True if [`Check::take_time`] takes any.
    pub(crate) fn takes_time(&self) -> bool {
        match self {
            Self::Passwords(_) => true,
            Self::Tokens(_) | Self::Certificate | Self::Scram(_) => false,
            #[cfg(feature = "http")]
            Self::Fetched(_) => false,
            Self::Asks(back_end) => back_end.hashes(),
        }
    }

    /// Takes as long as it takes to compute that it does not know a client.
    pub(crate) fn take_time(&self, asker: &Asker) {
        let Some(password) = asker.password() else { return };
        match self {
            Self::Passwords(passwords) => passwords.take_time(password),
            Self::Tokens(_) | Self::Certificate | Self::Scram(_) => {}
            #[cfg(feature = "http")]
            Self::Fetched(_) => {}
            Self::Asks(back_end) => back_end.take_time(password),
        }
    }
}

/// Who a client is by a file of users; `None` if that is for others to say.
pub(crate) fn of_passwords(passwords: &Passwords, asker: &Asker) -> Option<Outcome> {
    let (user, password) = (asker.credentials.user_name.as_ref()?, asker.password()?);
    match passwords.check(user.as_str(), password) {
        Checked::Right(groups) => Some(is(user.clone(), groups.to_vec())),
        Checked::Wrong => Some(Outcome::IsNot),
        Checked::Unknown => None,
    }
}

/// Who a client is by a token; `None` if that is for others to say.
pub(crate) fn of_tokens(tokens: &Tokens, asker: &Asker, now_ms: u64) -> Option<Outcome> {
    match tokens.read(asker.user(), asker.password()?, now_ms) {
        Read::Right(identity) => Some(Outcome::Is(identity)),
        Read::Wrong => Some(Outcome::IsNot),
        Read::NoToken => None,
    }
}

/// The user whom the client's certificate names; `None` if it names nobody. Who says to be somebody else
/// is not who it says.
pub(crate) fn of_certificate(asker: &Asker) -> Option<Outcome> {
    let user = asker.credentials.origin.certificate.clone()?;
    Some(match &asker.credentials.user_name {
        Some(said) if *said != user => Outcome::IsNot,
        _ => is(user, Vec::new()),
    })
}

pub(crate) fn is(user: Text, groups: Vec<Text>) -> Outcome {
    Outcome::Is(Arc::new(Identity { user, groups, ..Identity::default() }))
}

impl Chain {
    pub(crate) fn looks(&self) -> Looks {
        self.checks.iter().fold(Looks::default(), |looks, check| match check {
            Check::Asks(back_end) => {
                let others = back_end.looks();
                Looks {
                    client_id: looks.client_id || others.client_id,
                    address: looks.address || others.address,
                }
            }
            _ => looks,
        })
    }
}

impl Checks {
    /// True if one of them waits for others.
    pub(crate) fn wait(&self) -> bool {
        self.0.iter().flat_map(|chain| &chain.checks).any(Check::waits)
    }

    /// The users of each listener who prove it by SCRAM.
    #[must_use]
    pub fn scram(&self) -> crate::scram::ByListener {
        let users = |check: &Check| match check {
            Check::Scram(users) => Some(Arc::clone(users)),
            _ => None,
        };
        self.0.iter().map(|chain| chain.checks.iter().find_map(users)).collect()
    }

    pub(crate) fn chain(&self, listener: u16) -> Option<&Chain> {
        self.0.get(usize::from(listener))
    }

    /// What desks have to know of them; with so many threads.
    pub(crate) fn plan(&self, threads: u16) -> Plan {
        let of = |chain: &Chain| LinePlan {
            looks: chain.looks(),
            begins_elsewhere: chain.checks.first().is_some_and(Check::begins_elsewhere),
            under_way_max: usize::from(threads) * UNDER_WAY_PER_THREAD
                + chain.checks.iter().map(Check::in_flight_max).sum::<usize>(),
        };
        let none = LinePlan {
            looks: Looks::default(),
            begins_elsewhere: false,
            under_way_max: usize::from(threads) * UNDER_WAY_PER_THREAD,
        };
        Plan { lines: self.0.iter().map(of).collect(), none }
    }
}

/// Clients of one shard that the threads have at once, for each thread: so that none of them ever waits.
const UNDER_WAY_PER_THREAD: usize = 2;

/// What a desk has to know of the chains. Holds nothing that must not end on a shard's thread.
#[derive(Debug)]
pub(crate) struct Plan {
    lines: Vec<LinePlan>,
    none: LinePlan,
}

/// What a desk has to know of one chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinePlan {
    pub looks: Looks,
    /// The first of the chain needs no thread that hashes.
    pub begins_elsewhere: bool,
    /// Clients of one shard that are found out about at once.
    pub under_way_max: usize,
}

impl Plan {
    pub(crate) fn line(&self, listener: usize) -> &LinePlan {
        self.lines.get(listener).unwrap_or(&self.none)
    }
}

/// [MQTT5-3.1.4-2]: what a client is told.
pub(crate) fn verdict(outcome: &Outcome, credentials: &Credentials) -> Verdict {
    let says = credentials.user_name.is_some() || credentials.password.is_some();
    match outcome {
        Outcome::Is(identity) => {
            Verdict::Accept { data: None, identity: Some(Arc::clone(identity)) }
        }
        Outcome::Failed => Verdict::Refuse { reason: ReasonCode::ServerUnavailable },
        Outcome::Unknown if !says => Verdict::Refuse { reason: ReasonCode::NotAuthorized },
        // Whether there is such a user is not told.
        Outcome::IsNot | Outcome::Unknown => {
            Verdict::Refuse { reason: ReasonCode::BadUserNameOrPassword }
        }
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}
