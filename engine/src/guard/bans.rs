//! Who is banned, until when.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use petrel_proto::Text;
use petrel_shard::Banned;
use petrel_shard::access::AddressRange;

/// Whom a ban is about.
pub type Target = Banned;

/// One ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Whom it is about.
    pub target: Target,
    /// Until when, on the clock of the process; `u64::MAX` for ever.
    pub until_ms: u64,
    /// What it is for.
    pub why: String,
    /// Made by the guard, not by an operator.
    pub is_own: bool,
}

/// Bans that the guard makes, at once; there is none beyond.
const OWN_MAX: usize = 100_000;
/// Bans of an operator.
const MAX: usize = 100_000;

/// All bans.
#[derive(Debug, Default)]
pub struct Bans {
    all: RwLock<All>,
    /// How many there are, for those who only want to know whether there are any.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct All {
    by_target: HashMap<Target, Ban>,
    /// How many of addresses there are of each number of bits, IPv4 first.
    widths: [HashMap<u8, usize>; 2],
    own: usize,
}

impl Bans {
    /// True if nobody is banned.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Adds a ban, or replaces one of the same; false if there is one that lasts as long, or no room.
    pub fn add(&self, ban: Ban, now_ms: u64) -> bool {
        let mut all = self.change();
        match all.by_target.get(&ban.target) {
            Some(old) if old.until_ms >= ban.until_ms && old.until_ms > now_ms && ban.is_own => {
                return false;
            }
            // An operator's ban stays one.
            Some(old) if ban.is_own && !old.is_own && old.until_ms > now_ms => return false,
            _ => {}
        }
        if all.is_full(ban.is_own) {
            all.forget(now_ms);
            if all.is_full(ban.is_own) {
                return false;
            }
        }
        all.remove(&ban.target);
        all.put(ban);
        self.count.store(all.by_target.len(), Ordering::Release);
        true
    }

    /// Takes a ban back; false if there was none.
    pub fn remove(&self, target: &Target) -> bool {
        let mut all = self.change();
        let was_there = all.remove(target).is_some();
        self.count.store(all.by_target.len(), Ordering::Release);
        was_there
    }

    /// All bans that hold.
    #[must_use]
    pub fn list(&self, now_ms: u64) -> Vec<Ban> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.by_target.values().filter(|ban| ban.until_ms > now_ms).cloned().collect()
    }

    /// Forgets those whose time is over.
    pub fn forget(&self, now_ms: u64) {
        if !self.is_empty() {
            let mut all = self.change();
            all.forget(now_ms);
            self.count.store(all.by_target.len(), Ordering::Release);
        }
    }

    pub(super) fn has_client_id(&self, client_id: &Text, now_ms: u64) -> bool {
        self.has(&Target::ClientId(client_id.clone()), now_ms)
    }

    pub(super) fn has_user(&self, user: &Text, now_ms: u64) -> bool {
        self.has(&Target::User(user.clone()), now_ms)
    }

    pub(super) fn has_address(&self, address: IpAddr, now_ms: u64) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_canonical();
        all.widths[usize::from(address.is_ipv6())].keys().any(|&bits| {
            AddressRange::new(address, bits).is_some_and(|range| {
                let ban = all.by_target.get(&Target::Addresses(range.base()));
                ban.is_some_and(|ban| ban.until_ms > now_ms)
            })
        })
    }

    /// Whether a ban holds.
    pub fn holds(&self, target: &Target, now_ms: u64) -> bool {
        match target {
            Target::Addresses(range) => self.has(&Target::Addresses(range.base()), now_ms),
            other => self.has(other, now_ms),
        }
    }

    fn has(&self, target: &Target, now_ms: u64) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.by_target.get(target).is_some_and(|ban| ban.until_ms > now_ms)
    }

    fn change(&self) -> RwLockWriteGuard<'_, All> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn is_full(&self, own: bool) -> bool {
        if own { self.own >= OWN_MAX } else { self.by_target.len() - self.own >= MAX }
    }

    fn put(&mut self, mut ban: Ban) {
        if let Target::Addresses(range) = &mut ban.target {
            *range = range.base();
            *self.widths[usize::from(range.is_ipv6())].entry(range.bits()).or_default() += 1;
        }
        self.own += usize::from(ban.is_own);
        self.by_target.insert(ban.target.clone(), ban);
    }

    fn remove(&mut self, target: &Target) -> Option<Ban> {
        let target = match target {
            Target::Addresses(range) => &Target::Addresses(range.base()),
            other => other,
        };
        let ban = self.by_target.remove(target)?;
        self.own -= usize::from(ban.is_own);
        if let Target::Addresses(range) = target {
            let widths = &mut self.widths[usize::from(range.is_ipv6())];
            if let Some(count) = widths.get_mut(&range.bits()) {
                *count -= 1;
                if *count == 0 {
                    widths.remove(&range.bits());
                }
            }
        }
        Some(ban)
    }

    fn forget(&mut self, now_ms: u64) {
        let over = self.by_target.values().filter(|ban| ban.until_ms <= now_ms);
        let over: Vec<_> = over.map(|ban| ban.target.clone()).collect();
        over.iter().for_each(|target| drop(self.remove(target)));
    }
}

/// As `petrelctl` lists it.
impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::ClientId(id) => write!(f, "client-id {:?}", id.as_str())?,
            Target::User(user) => write!(f, "user {:?}", user.as_str())?,
            Target::Addresses(range) => write!(f, "address {range}")?,
        }
        if !self.why.is_empty() {
            write!(f, ": {}", crate::log::Escaped(self.why.as_bytes()))?;
        }
        Ok(())
    }
}
