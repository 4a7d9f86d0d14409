//! Who is shut out, and how many may come: what one shard alone cannot know.
//!
//! All shards ask the same [`Guard`], once for each CONNECT and not at all for a packet after it. It counts those
//! who are in by listener, source and user, as far as there are bounds; it knows who is banned; and it bans, for a
//! time, sources that send what is no MQTT and client identifiers that connect all the time. Knows no clock.
//!
//! A source is an IPv4 address, or 64 bits of an IPv6 address.

mod bans;
mod offences;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use petrel_proto::{ReasonCode, Text};
use petrel_shard::access::AddressRange;

pub use bans::{Ban, Bans, Target};
use offences::Offences;

/// Bounds of the whole process; 0 for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardLimits {
    /// Clients of each listener, by its position.
    pub listeners: Vec<u32>,
    /// Clients of one source.
    pub source_clients_maximum: u32,
    /// Clients of one user.
    pub user_clients_maximum: u32,
    /// Malformed packets of one source within [`GuardLimits::ban_within_s`] after which it is banned.
    pub ban_after_malformed: u32,
    /// CONNECTs with one client identifier within that after which it is banned.
    pub ban_after_connects: u32,
    /// The time within which they count, in seconds.
    pub ban_within_s: u32,
    /// How long such a ban lasts, in seconds.
    pub ban_s: u32,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            source_clients_maximum: 0,
            user_clients_maximum: 0,
            ban_after_malformed: 0,
            ban_after_connects: 0,
            ban_within_s: 60,
            ban_s: 300,
        }
    }
}

impl GuardLimits {
    fn needs_seats(&self) -> bool {
        self.listeners.iter().any(|most| *most > 0)
            || self.source_clients_maximum > 0
            || self.user_clients_maximum > 0
            || self.ban_after_malformed > 0
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Banned.
    Banned,
    /// Its listener has as many clients as it may have.
    ListenerFull,
    /// Its source has.
    SourceFull,
    /// Its user has.
    UserFull,
    /// There is too much to do.
    Busy,
}

impl Denied {
    /// What the client is told.
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Banned => ReasonCode::Banned,
            Self::ListenerFull | Self::SourceFull | Self::UserFull => ReasonCode::QuotaExceeded,
            Self::Busy => ReasonCode::ServerBusy,
        }
    }

    /// What the log says.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::ListenerFull => "its listener has connections_maximum clients",
            Self::SourceFull => "its source has source_clients_maximum clients",
            Self::UserFull => "its user has user_clients_maximum clients",
            Self::Busy => "there is too much to do for new sessions",
        }
    }
}

/// How many were denied, by [`Denied`], and how many bans the guard has made itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardFigures {
    /// Since they were banned.
    pub banned: u64,
    /// For want of room at their listener, source and user.
    pub full: [u64; 3],
    /// Since there was too much to do.
    pub busy: u64,
    /// Bans of sources and client identifiers.
    pub bans: u64,
}

impl std::fmt::Display for GuardFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { banned, full: [listener, source, user], busy, bans } = self;
        write!(f, "refused: banned={banned} listener_full={listener} source_full={source} ")?;
        write!(f, "user_full={user} busy={busy} bans={bans}")
    }
}

/// What all shards ask.
#[derive(Debug)]
pub struct Guard {
    limits: RwLock<GuardLimits>,
    listeners: Box<[AtomicU32]>,
    sources: Counts<IpAddr>,
    users: Counts<Text>,
    malformed: Offences<IpAddr>,
    connects: Offences<Text>,
    bans: Bans,
    denied: [AtomicU64; 5],
    own_bans: AtomicU64,
}

/// The place of a client that is in. Given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    guard: Arc<Guard>,
    listener: u16,
    address: Option<IpAddr>,
    /// Among those of its source.
    is_counted: bool,
    user: Option<Text>,
    /// The user whose connection it takes over.
    takes_over: Option<Text>,
}

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub struct Comer<'a> {
    /// Position of its listener.
    pub listener: u16,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its client identifier; may be empty.
    pub client_id: &'a Text,
    /// Who it says it is.
    pub user: Option<&'a Text>,
    /// The place of somebody who is in with this client identifier, whose connection would end.
    pub takes_over: Option<&'a Seat>,
}

impl Guard {
    /// For so many listeners.
    #[must_use]
    pub fn new(limits: GuardLimits, listeners: usize) -> Self {
        Self {
            limits: RwLock::new(limits),
            listeners: (0..listeners).map(|_| AtomicU32::new(0)).collect(),
            sources: Counts::default(),
            users: Counts::default(),
            malformed: Offences::default(),
            connects: Offences::default(),
            bans: Bans::default(),
            denied: Default::default(),
            own_bans: AtomicU64::new(0),
        }
    }

    /// Other bounds from now on. Who is in stays.
    pub fn set_limits(&self, limits: GuardLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Who is banned.
    #[must_use]
    pub const fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Whether an address is shut out before it has said anything.
    #[must_use]
    pub fn shuts_out(&self, address: IpAddr, now_ms: u64) -> bool {
        !self.bans.is_empty() && self.bans.has_address(address, now_ms)
    }

    /// Lets somebody in, or not; a place only if somebody is counted, which is to be kept as long as the client
    /// is in.
    ///
    /// # Errors
    /// Why not.
    pub fn enter(
        self: &Arc<Self>,
        comer: &Comer<'_>,
        now_ms: u64,
    ) -> Result<Option<Box<Seat>>, Denied> {
        self.try_enter(comer, now_ms).inspect_err(|&denied| self.count(denied))
    }

    fn try_enter(
        self: &Arc<Self>,
        comer: &Comer<'_>,
        now_ms: u64,
    ) -> Result<Option<Box<Seat>>, Denied> {
        let &Comer { listener, address, client_id, user, takes_over } = comer;
        // Whose connection it takes has a place still: one more is the same number in the end, if it is the same
        // listener's and source's.
        let more = u32::from(takes_over.is_some_and(|of| of.listener == listener));
        let source = address.map(source_of);
        let more_of_source = u32::from(takes_over.is_some_and(|of| of.source() == source));
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        if !self.bans.is_empty()
            && (self.bans.has_client_id(client_id, now_ms)
                || user.is_some_and(|user| self.bans.has_user(user, now_ms))
                || address.is_some_and(|address| self.bans.has_address(address, now_ms)))
        {
            return Err(Denied::Banned);
        }
        let most = limits.listeners.get(usize::from(listener)).copied().unwrap_or(0);
        if !limits.needs_seats() {
            return Ok(None);
        }
        let count = self.listeners.get(usize::from(listener)).ok_or(Denied::ListenerFull)?;
        let room =
            |count: u32| (most == 0 || count < most.saturating_add(more)).then_some(count + 1);
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room)
            .map_err(|_| Denied::ListenerFull)?;
        // From here on it is given back.
        let guard = Arc::clone(self);
        let mut seat = Box::new(Seat {
            guard,
            listener,
            address,
            is_counted: false,
            user: None,
            takes_over: takes_over.and_then(|of| of.user.clone()),
        });
        if limits.source_clients_maximum > 0
            && let Some(source) = source
        {
            let most = limits.source_clients_maximum.saturating_add(more_of_source);
            if !self.sources.take(&source, most) {
                return Err(Denied::SourceFull);
            }
            seat.is_counted = true;
        }
        Ok(Some(seat))
    }

    /// Lets somebody in who has proved to be a user, or not.
    ///
    /// # Errors
    /// Why not.
    pub fn enter_as(
        &self,
        seat: Option<&mut Seat>,
        user: &Text,
        now_ms: u64,
    ) -> Result<(), Denied> {
        let most = {
            let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
            limits.user_clients_maximum
        };
        let entered = if !self.bans.is_empty() && self.bans.has_user(user, now_ms) {
            Err(Denied::Banned)
        } else if let Some(seat) = seat
            && most > 0
            && seat.user.is_none()
        {
            let most = most.saturating_add(u32::from(seat.takes_over.as_ref() == Some(user)));
            match self.users.take(user, most) {
                true => {
                    seat.user = Some(user.clone());
                    Ok(())
                }
                false => Err(Denied::UserFull),
            }
        } else {
            Ok(())
        };
        entered.inspect_err(|&denied| self.count(denied))
    }

    /// A client is in. True if it is banned now, since it has come too often.
    pub fn connected(&self, client_id: &Text, now_ms: u64) -> bool {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        let bounds = (limits.ban_after_connects, limits.ban_within_s);
        if limits.ban_after_connects == 0 || !self.connects.is_too_often(client_id, bounds, now_ms)
        {
            return false;
        }
        let target = Target::ClientId(client_id.to_owned_text());
        self.ban_for_a_time(target, "connected too often", &limits, now_ms)
    }

    /// An address has sent what is no MQTT. Returns what is banned now, if that was once too often.
    pub fn malformed(&self, address: IpAddr, now_ms: u64) -> Option<AddressRange> {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        let source = source_of(address);
        let bounds = (limits.ban_after_malformed, limits.ban_within_s);
        if limits.ban_after_malformed == 0 || !self.malformed.is_too_often(&source, bounds, now_ms)
        {
            return None;
        }
        let range = AddressRange::new(source, if source.is_ipv4() { 32 } else { 64 })?;
        let why = "sent malformed packets";
        self.ban_for_a_time(Target::Addresses(range), why, &limits, now_ms).then_some(range)
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> GuardFigures {
        let get = |denied: Denied| self.denied[denied as usize].load(Ordering::Relaxed);
        GuardFigures {
            banned: get(Denied::Banned),
            full: [Denied::ListenerFull, Denied::SourceFull, Denied::UserFull].map(get),
            busy: get(Denied::Busy),
            bans: self.own_bans.load(Ordering::Relaxed),
        }
    }

    /// Counts somebody who is denied.
    pub fn count(&self, denied: Denied) {
        self.denied[denied as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn ban_for_a_time(&self, target: Target, why: &str, limits: &GuardLimits, now_ms: u64) -> bool {
        let until_ms = now_ms + u64::from(limits.ban_s) * 1000;
        let ban = Ban { target, until_ms, why: why.to_owned(), is_own: true };
        let is_new = self.bans.add(ban, now_ms);
        self.own_bans.fetch_add(u64::from(is_new), Ordering::Relaxed);
        is_new
    }
}

impl Seat {
    /// Where the client comes from.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The source among whose clients it counts.
    fn source(&self) -> Option<IpAddr> {
        self.address.filter(|_| self.is_counted).map(source_of)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(count) = self.guard.listeners.get(usize::from(self.listener)) {
            count.fetch_sub(1, Ordering::AcqRel);
        }
        if let Some(address) = self.address.filter(|_| self.is_counted) {
            self.guard.sources.give_back(&source_of(address));
        }
        if let Some(user) = &self.user {
            self.guard.users.give_back(user);
        }
    }
}

/// What counts as one source.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(four) => IpAddr::V4(four),
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from(u128::from(six) >> 64 << 64)),
    }
}

/// How many there are of each, in parts so that shards seldom meet.
#[derive(Debug)]
struct Counts<K> {
    parts: Box<[Mutex<HashMap<K, u32>>]>,
    hasher: RandomState,
}

const PARTS: usize = 64;

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, u32>> {
        let part = &self.parts[self.hasher.hash_one(key) as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more, unless there are so many.
    fn take(&self, key: &K, most: u32) -> bool {
        let mut part = self.part(key);
        match part.get_mut(key) {
            Some(count) if *count >= most => return false,
            Some(count) => *count += 1,
            None => drop(part.insert(key.clone(), 1)),
        }
        true
    }

    fn give_back(&self, key: &K) {
        let mut part = self.part(key);
        if let Some(count) = part.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                part.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
