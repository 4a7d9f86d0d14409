//! Who may publish and subscribe to what: rules, compiled once and shared by all shards.
//!
//! A client may do what some rule allows and no rule denies; the order of rules is of no meaning. A
//! subscription is allowed if everything that its filter matches is: one rule must allow all of it, and no
//! rule deny any of it. Where `%u` and `%c` stand in a filter, they are the user name and the client
//! identifier of whoever asks; values that would be more than a part of one level match nothing.

mod filters;
mod tree;

use std::net::IpAddr;

use petrel_proto::{Qos, Text};

use filters::Level;
use tree::{Principal, Tree};

/// What rules know of a client.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// What it has proved to be called; `None` if it has proved nothing.
    pub user: Option<&'a str>,
    /// The groups that it has proved to be in.
    pub groups: &'a [Text],
    /// Client identifier.
    pub client_id: &'a str,
    /// Position of its listener in the configuration.
    pub listener: u16,
    /// Where it comes from.
    pub address: IpAddr,
}

/// Whom a rule is about: each list that is not empty must name the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// User names.
    pub users: Vec<Text>,
    /// Groups, of which it is in one at least.
    pub groups: Vec<Text>,
    /// Client identifiers; what ends in `*` names all that begin so.
    pub client_ids: Vec<Text>,
    /// Positions of listeners.
    pub listeners: Vec<u16>,
    /// Where it comes from.
    pub addresses: Vec<AddressRange>,
    /// Whether it has proved who it is.
    pub authenticated: Option<bool>,
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    base: IpAddr,
    bits: u8,
}

/// What a rule says of the topics that its filters match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It may, up to this QoS; and publish with RETAIN or not.
    Allow {
        /// The highest QoS.
        max_qos: Qos,
        /// Whether messages may be retained.
        retain: bool,
    },
    /// It may not, whatever else is allowed.
    Deny,
}

/// One rule as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub subjects: Subjects,
    /// What it says.
    pub effect: Effect,
    /// It is about PUBLISH, and wills.
    pub publish: bool,
    /// It is about SUBSCRIBE.
    pub subscribe: bool,
    /// Topic filters, with `%u` and `%c`.
    pub filters: Vec<Text>,
}

/// All rules of a broker, or those that come with a client.
///
/// *Bounds*: some 100 bytes for each filter of a rule and level that others do not share.
#[derive(Debug, PartialEq)]
pub struct Rules {
    rules: Vec<Compiled>,
    allow: Tree,
    deny: Tree,
}

/// What a client may publish to one topic: each QoS, with RETAIN and without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publishable(u8);

/// Which rules of a file decide about a topic or filter: the first of each kind, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// One that allows something of it.
    pub allowing: Option<u32>,
    /// One that denies it.
    pub denying: Option<u32>,
}

/// A rule without what the trees know.
#[derive(Debug, PartialEq)]
struct Compiled {
    subjects: Subjects,
    effect: Effect,
    publish: bool,
    subscribe: bool,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Publish,
    /// To have published, from wherever.
    Published,
    Subscribe,
}

impl Publishable {
    /// Nothing.
    pub const NOTHING: Self = Self(0);
    /// Everything.
    pub const EVERYTHING: Self = Self(0b11_1111);

    /// Whether a message may be published so.
    #[inline]
    #[must_use]
    pub const fn allows(self, qos: Qos, retain: bool) -> bool {
        self.0 >> (qos as u8 * 2 + retain as u8) & 1 == 1
    }

    /// The same as a number below 64.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What either of both allows.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn upto(max_qos: Qos, retain: bool) -> Self {
        let each = if retain { 0b11 } else { 0b01 };
        let all = each | each << 2 | each << 4;
        Self(all & ((1 << (max_qos as u8 * 2 + 2)) - 1))
    }
}

impl AddressRange {
    /// All addresses that share so many bits with this one; `None` if it has not so many.
    #[must_use]
    pub fn new(base: IpAddr, bits: u8) -> Option<Self> {
        let (base, bits) = match base {
            IpAddr::V4(_) if bits > 32 => return None,
            IpAddr::V6(_) if bits > 128 => return None,
            // An IPv4 address looks the same, whichever socket it comes in by.
            IpAddr::V6(six) => match six.to_ipv4_mapped() {
                Some(four) if bits >= 96 => (IpAddr::V4(four), bits - 96),
                _ => (base, bits),
            },
            IpAddr::V4(_) => (base, bits),
        };
        Some(Self { base, bits })
    }

    /// How many bits they share.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether they are of IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.base.is_ipv6()
    }

    /// The same addresses, named by the first of them.
    #[must_use]
    pub fn base(self) -> Self {
        let base = match self.base {
            IpAddr::V4(four) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V4((u32::from(four) & mask).into())
            }
            IpAddr::V6(six) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V6((u128::from(six) & mask).into())
            }
        };
        Self { base, ..self }
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |left: u128, right: u128, width: u32| {
            let other_bits = width - u32::from(self.bits);
            (left ^ right).checked_shr(other_bits).unwrap_or(0) == 0
        };
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                shared(u32::from(base).into(), u32::from(address).into(), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => shared(base.into(), address.into(), 128),
            _ => false,
        }
    }
}

/// As it is read.
impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = if self.base.is_ipv4() { 32 } else { 128 };
        match self.bits == all {
            true => self.base.fmt(f),
            false => write!(f, "{}/{}", self.base, self.bits),
        }
    }
}

impl std::str::FromStr for AddressRange {
    type Err = &'static str;

    /// `10.0.0.0/8`, or an address alone.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "is no address, nor one with a number of bits as in 10.0.0.0/8";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| WRONG)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, bits.unwrap_or(all)).ok_or(WRONG)
    }
}

impl Default for Rules {
    /// No rules: nobody may do anything.
    fn default() -> Self {
        Self { rules: Vec::new(), allow: Tree::default(), deny: Tree::strict() }
    }
}

impl Rules {
    /// Adds a rule.
    ///
    /// # Errors
    /// A filter is none, or has more levels than rules may have; nothing has been added then.
    pub fn add(&mut self, rule: Rule) -> Result<(), String> {
        let Rule { mut subjects, effect, publish, subscribe, filters } = rule;
        let filters: Vec<Vec<Level>> =
            filters.iter().map(|text| filters::parse(text.as_str())).collect::<Result<_, _>>()?;
        let number = self.rules.len() as u32;
        let principals = Principal::take_from(&mut subjects);
        let tree = if effect == Effect::Deny { &mut self.deny } else { &mut self.allow };
        for principal in &principals {
            for filter in &filters {
                tree.insert(principal, filter, number);
            }
        }
        self.rules.push(Compiled { subjects, effect, publish, subscribe });
        Ok(())
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if there is none, so that nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What a client may publish to a topic, with the rules that are its own.
    ///
    /// *Cost*: a look for each level, twice as many where rules have `+`, for each of its groups, its names and
    /// everybody.
    #[must_use]
    pub fn publishable(&self, who: &Who<'_>, own: Option<&Self>, topic: &str) -> Publishable {
        let of = |rules: &Self| rules.allows_publishing(who, topic, Action::Publish);
        let allowed = own.map_or(Publishable::NOTHING, of).or(of(self));
        let denies = |rules: &Self| rules.denies(who, topic, Action::Publish);
        if allowed == Publishable::NOTHING || denies(self) || own.is_some_and(denies) {
            return Publishable::NOTHING;
        }
        allowed
    }

    /// The highest QoS at which a client may subscribe to a filter, with the rules that are its own; `None` if
    /// it may not. `filter` is without `$share` and its name.
    ///
    /// *Cost*: as [`Self::publishable`]; and where the filter has wildcards a look at all that rules deny below
    /// them.
    #[must_use]
    pub fn subscribable(&self, who: &Who<'_>, own: Option<&Self>, filter: &str) -> Option<Qos> {
        let of = |rules: &Self| rules.allows_subscribing(who, filter);
        let allowed = own.and_then(of).max(of(self))?;
        let denies = |rules: &Self| rules.denies(who, filter, Action::Subscribe);
        (!denies(self) && !own.is_some_and(denies)).then_some(allowed)
    }

    /// Which rules decide what a client may do with a topic or filter, for people who ask why.
    ///
    /// *Cost*: as [`Self::publishable`].
    #[must_use]
    pub fn verdicts(&self, who: &Who<'_>, filter: &str, publish: bool) -> Verdicts {
        let action = if publish { Action::Publish } else { Action::Subscribe };
        let mut verdicts = Verdicts::default();
        let first = |found: &mut Option<u32>, rule: u32| {
            *found = Some(found.map_or(rule, |before| before.min(rule)));
        };
        self.allow.covering(who, filter, &mut |rule| {
            if self.applies(rule, who, action).is_some() {
                first(&mut verdicts.allowing, rule);
            }
        });
        let denying = std::cell::Cell::new(None);
        // False of each, so that all of them are seen.
        self.deny.meets(who, filter, &|rule| {
            if self.applies(rule, who, action).is_some() {
                let mut found = denying.get();
                first(&mut found, rule);
                denying.set(found);
            }
            false
        });
        verdicts.denying = denying.get();
        verdicts
    }

    /// Whether a client that has published a retained message to a topic might do it by these rules, whatever
    /// its QoS. Where it was counts for nothing: an allowance for some places is taken as given, and what
    /// is denied to some places is not. `by_own` if rights of its own allowed it.
    ///
    /// *Cost*: as [`Self::publishable`].
    pub(crate) fn publishable_still(&self, who: &Who<'_>, by_own: bool, topic: &str) -> bool {
        let action = Action::Published;
        let may = || self.allows_publishing(who, topic, action).allows(Qos::AtMostOnce, true);
        (by_own || may()) && !self.denies(who, topic, action)
    }

    fn allows_publishing(&self, who: &Who<'_>, topic: &str, action: Action) -> Publishable {
        let mut all = Publishable::NOTHING;
        self.allow.covering(who, topic, &mut |rule| {
            if let Some(Effect::Allow { max_qos, retain }) = self.applies(rule, who, action) {
                all = all.or(Publishable::upto(max_qos, retain));
            }
        });
        all
    }

    fn allows_subscribing(&self, who: &Who<'_>, filter: &str) -> Option<Qos> {
        let mut most = None;
        self.allow.covering(who, filter, &mut |rule| {
            if let Some(Effect::Allow { max_qos, .. }) = self.applies(rule, who, Action::Subscribe)
            {
                most = most.max(Some(max_qos));
            }
        });
        most
    }

    fn denies(&self, who: &Who<'_>, filter: &str, action: Action) -> bool {
        self.deny.meets(who, filter, &|rule| self.applies(rule, who, action).is_some())
    }

    /// What a rule says, if it is about this client and about what it wants.
    fn applies(&self, rule: u32, who: &Who<'_>, action: Action) -> Option<Effect> {
        let rule = self.rules.get(rule as usize)?;
        let is_about = match action {
            Action::Publish | Action::Published => rule.publish,
            Action::Subscribe => rule.subscribe,
        };
        let is_there = || match action {
            Action::Published => rule.effect != Effect::Deny || !rule.subjects.name_places(),
            _ => rule.subjects.name_place_of(who),
        };
        (is_about && rule.subjects.name(who) && is_there()).then_some(rule.effect)
    }
}

impl Subjects {
    /// Whether it is about clients in some places only.
    fn name_places(&self) -> bool {
        !self.listeners.is_empty() || !self.addresses.is_empty()
    }

    /// Whether it is about clients where this one is.
    fn name_place_of(&self, who: &Who<'_>) -> bool {
        (self.listeners.is_empty() || self.listeners.contains(&who.listener))
            && (self.addresses.is_empty()
                || self.addresses.iter().any(|range| range.contains(who.address)))
    }

    /// Whether it is about this client, if it is where it must be.
    fn name(&self, who: &Who<'_>) -> bool {
        let any = |list: &[Text], is: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|text| is(text.as_str()))
        };
        any(&self.users, &|user| who.user == Some(user))
            && any(&self.groups, &|group| who.groups.iter().any(|of| of.as_str() == group))
            && any(&self.client_ids, &|id| match id.strip_suffix('*') {
                Some(beginning) => who.client_id.starts_with(beginning),
                None => who.client_id == id,
            })
            && self.authenticated.is_none_or(|proved| proved == who.user.is_some())
    }
}

#[cfg(test)]
mod tests;
