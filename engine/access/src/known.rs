//! What was found out lately about clients.
//!
//! Owns nothing that a secret could be made of: entries stand under an HMAC of what a client says of itself, and
//! the key lives as long as the process.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use petrel_proto::Text;

use crate::check::{Asker, Found, Looks};

/// What was found out lately, under names that tell nobody what they are made of.
pub(crate) struct Known {
    key: hmac::Key,
    parts: Box<[Mutex<Part>]>,
    /// Entries of a part.
    maximum: usize,
}

pub(crate) type Name = [u8; 32];
type Part = HashMap<Name, (u64, Found)>;

/// So that shards seldom meet.
const PARTS: usize = 64;

impl Known {
    pub(crate) fn new(maximum: u32) -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            maximum: (maximum as usize).div_ceil(PARTS),
        })
    }

    /// The name of what a client says of itself, as far as those look at it who are asked. The password
    /// cannot be found from it without the key.
    pub(crate) fn name(&self, epoch: u64, looks: Looks, asker: &Asker) -> Name {
        let mut context = hmac::Context::with_key(&self.key);
        let credentials = &asker.credentials;
        context.update(&epoch.to_le_bytes());
        context.update(&credentials.origin.listener.to_le_bytes());
        let user = credentials.user_name.as_ref().map(Text::as_bytes);
        let client = looks.client_id.then_some(asker.client_id.as_bytes());
        let certificate = credentials.origin.certificate.as_ref().map(Text::as_bytes);
        for part in [user, credentials.password.as_deref(), certificate, client] {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(part.unwrap_or_default());
        }
        if looks.address {
            match credentials.origin.address.ip() {
                std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
                std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
            }
        }
        let mut name = [0; 32];
        name.copy_from_slice(context.sign().as_ref());
        name
    }

    fn part(&self, name: &Name) -> MutexGuard<'_, Part> {
        let part = &self.parts[usize::from(name[0]) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, name: &Name, now_ms: u64) -> Option<Found> {
        let part = self.part(name);
        let (until_ms, found) = part.get(name)?;
        (*until_ms > now_ms).then(|| found.clone())
    }

    pub(crate) fn put(&self, name: Name, found: Found, now_ms: u64, for_ms: u64) {
        if for_ms == 0 || self.maximum == 0 {
            return;
        }
        let mut part = self.part(&name);
        if part.len() >= self.maximum {
            part.retain(|_, (until_ms, _)| *until_ms > now_ms);
        }
        if part.len() >= self.maximum {
            // What is forgotten is found out again.
            part.clear();
        }
        part.insert(name, (now_ms.saturating_add(for_ms), found));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use petrel_shard::Identity;

    use super::*;
    use crate::check::Outcome;

    #[test]
    fn what_is_known_is_bounded() {
        let known = Known::new(128).unwrap();
        let outcome = |user: &str| {
            let user = Text::try_from(user).unwrap();
            Found::of(Outcome::Is(Arc::new(Identity { user, ..Identity::default() })), 0)
        };
        for number in 0..100_000_u32 {
            let mut name = [0; 32];
            name[..4].copy_from_slice(&number.to_le_bytes());
            known.put(name, outcome("x"), 0, 1000);
            assert!(known.get(&name, 999).is_some() && known.get(&name, 1000).is_none());
        }
        let all: usize = known.parts.iter().map(|part| part.lock().unwrap().len()).sum();
        assert!(all <= 128 + PARTS, "{all}");
    }
}
