//! Drops what nobody can want any more while fjall merges tables: pages and messages that have
//! expired, and what belongs to sessions that are over.

use std::fmt;
use std::panic::RefUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};

use fjall::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use hashbrown::HashSet;
use petrel_shard::Incarnation;

use crate::store::Space;
use crate::{codec, page, shared};

/// The sessions that are not over. Until it has been filled, it says nothing of any.
#[derive(Debug, Clone, Default)]
pub struct Alive(Arc<RwLock<Lives>>);

#[derive(Debug, Default)]
struct Lives {
    sessions: Option<HashSet<u64>>,
    /// Readers of an older state, in which a session may be alive that is over now.
    readers: usize,
    /// What has ended since there are readers.
    ended: HashSet<u64>,
}

/// As long as this is held, sessions that are over count as alive.
#[derive(Debug)]
pub struct Held(Alive);

impl Alive {
    fn change(&self, change: impl FnOnce(&mut Lives)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says which sessions there are; from now on others are over.
    pub fn fill(&self, sessions: impl IntoIterator<Item = Incarnation>) {
        let sessions = sessions.into_iter().map(Incarnation::to_u64).collect();
        self.change(|lives| lives.sessions = Some(sessions));
    }

    /// A session begins; to be said before anything of it is written.
    pub fn begin(&self, incarnation: Incarnation) {
        self.change(|lives| {
            if let Some(sessions) = &mut lives.sessions {
                sessions.insert(incarnation.to_u64());
            }
        });
    }

    /// A session is over; to be said once that survives the machine.
    pub fn end(&self, incarnation: Incarnation) {
        let incarnation = incarnation.to_u64();
        self.change(|lives| match &mut lives.sessions {
            Some(_) if lives.readers > 0 => {
                lives.ended.insert(incarnation);
            }
            Some(sessions) => {
                sessions.remove(&incarnation);
            }
            None => {}
        });
    }

    /// Lets nothing be dropped of sessions that are alive now, until what this gives is dropped.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.change(|lives| lives.readers += 1);
        Held(self.clone())
    }

    /// True if the session to which a key belongs is over.
    fn is_over(&self, key: &[u8]) -> bool {
        let Some(incarnation) = key.first_chunk::<8>() else { return false };
        let incarnation = u64::from_be_bytes(*incarnation);
        let lives = self.0.read().unwrap_or_else(PoisonError::into_inner);
        lives.sessions.as_ref().is_some_and(|sessions| !sessions.contains(&incarnation))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.change(|lives| {
            lives.readers -= 1;
            if lives.readers == 0 {
                let ended = std::mem::take(&mut lives.ended);
                if let Some(sessions) = &mut lives.sessions {
                    sessions.retain(|incarnation| !ended.contains(incarnation));
                }
            }
        });
    }
}

/// Milliseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync + RefUnwindSafe>;

/// What is dropped while tables are merged.
#[derive(Clone)]
pub struct Sweep {
    /// Whose keys stay.
    pub alive: Alive,
    /// When what expires has expired.
    pub wall_clock: WallClock,
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").finish_non_exhaustive()
    }
}

impl Sweep {
    /// The filter of a space, if anything of it can be dropped.
    pub(super) fn of(&self, space: &str) -> Option<Arc<dyn Factory>> {
        let space = Space::ALL.into_iter().find(|known| known.name() == space)?;
        let drops = matches!(
            space,
            Space::Subscription | Space::Queue | Space::Receipt | Space::Retained | Space::Shared
        );
        drops.then(|| Arc::new(Sweeper { sweep: self.clone(), space }) as Arc<dyn Factory>)
    }
}

/// Makes the filters of one space.
struct Sweeper {
    sweep: Sweep,
    space: Space,
}

impl Factory for Sweeper {
    fn name(&self) -> &str {
        self.space.name()
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let now_ms = (self.sweep.wall_clock)();
        Box::new(Pass { alive: self.sweep.alive.clone(), space: self.space, now_ms })
    }
}

/// One merging of tables.
struct Pass {
    alive: Alive,
    space: Space,
    now_ms: u64,
}

impl CompactionFilter for Pass {
    fn filter_item(
        &mut self,
        item: ItemAccessor<'_>,
        _: &Context,
    ) -> Result<Verdict, fjall::LsmError> {
        let of_session = !matches!(self.space, Space::Retained | Space::Shared);
        let goes = of_session && self.alive.is_over(item.key())
            || match self.space {
                Space::Queue => page::expires_at_ms(&item.value()?) <= self.now_ms,
                Space::Retained => {
                    let expires_at_ms = codec::message_expires_at_wall_ms(&item.value()?);
                    expires_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms)
                }
                Space::Shared => {
                    let goes_at_ms = shared::goes_at_wall_ms(item.key(), &item.value()?);
                    goes_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms)
                }
                _ => false,
            };
        // An older value of the key may lie below, and must not come back.
        Ok(if goes { Verdict::Remove } else { Verdict::Keep })
    }
}

#[cfg(test)]
mod tests;
