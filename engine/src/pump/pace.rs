//! How fast clients publish: by their own rate, and by how much the shard has to do.

use std::sync::atomic::Ordering;

use petrel_net::ConnKey;
use petrel_proto::ReasonCode;
use petrel_shard::{Input, Limit};
use rustix::time::{ClockId, clock_gettime};

use super::load::{Cause, Level, Signals};
use super::rate::Pace;
use super::{GIVE_BACK_MS, LEVEL_THAT_SHEDS, Pump, TICK_MS, id_of};
use crate::keeper::StorageEnd;
use crate::memory::{self, Back};

impl Pump {
    /// What a client that has published so many bytes has to do.
    #[inline]
    pub(super) fn pace(&mut self, conn: ConnKey, bytes: usize) -> Pace {
        let has_had_its_share = self.overload.published(conn);
        let pace = match self.rates.is_on() {
            true => self.rates.published(conn, bytes, self.now.mono_ms),
            false => Pace::GoOn,
        };
        match pace {
            Pace::GoOn if has_had_its_share => {
                self.report.held(Limit::HeldByLoad);
                Pace::WaitUntil(self.next_tick_ms)
            }
            Pace::WaitUntil(_) => {
                self.report.held(Limit::HeldByRate);
                pace
            }
            pace => pace,
        }
    }

    fn set_level(&mut self, before: Level, level: Level, cause: Cause) {
        self.parts.counters.level.store(u64::from(level), Ordering::Relaxed);
        self.report.level(level, cause.words());
        let sheds = level >= LEVEL_THAT_SHEDS;
        if sheds != (before >= LEVEL_THAT_SHEDS) {
            self.feed(Input::Shed(sheds));
        }
    }

    /// Sees whether there is less memory than a turn before: a publisher may fill hundreds of megabytes from one tick
    /// to the next. That there is more again is seen at the next tick.
    #[inline]
    pub(super) fn look_at_the_memory(&mut self) {
        let before = self.overload.level();
        if let Some((level, cause)) = self.overload.rise() {
            self.set_level(before, level, cause);
        }
        if !self.full {
            self.see_whether_memory_is_full();
        }
    }

    /// Takes nothing more once the process has all the memory that it may have, and again when there is room.
    fn see_whether_memory_is_full(&mut self) {
        let full = self.overload.is_full();
        if full == std::mem::replace(&mut self.full, full) {
            return;
        }
        self.feed(Input::Full(full));
        if !full {
            // They send again what was not acknowledged.
            for conn in std::mem::take(&mut self.unanswered) {
                let reason = ReasonCode::QuotaExceeded;
                self.feed(Input::Kick { conn: id_of(conn), reason });
            }
        }
    }

    /// Sees how much there is to do, and does something about it.
    pub(super) fn look_at_the_load(&mut self) {
        // Of this thread alone: what others do with its core is no work of its own.
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let cpu_ms = cpu.tv_sec as u64 * 1000 + cpu.tv_nsec as u64 / 1_000_000;
        let signals = Signals {
            turns_ms: cpu_ms.saturating_sub(std::mem::replace(&mut self.cpu_ms, cpu_ms)),
            staged: self.much_staged,
            laden: self.parts.storage.as_ref().is_some_and(StorageEnd::is_clogged),
            ..std::mem::take(&mut self.signals)
        };
        self.next_tick_ms = self.now.mono_ms + TICK_MS;
        let before = self.overload.level();
        if let Some((level, cause)) = self.overload.tick(signals) {
            self.set_level(before, level, cause);
        }
        self.see_whether_memory_is_full();
        if self.overload.wants_memory() && self.now.mono_ms >= self.gave_back_ms + GIVE_BACK_MS {
            // What was freed counts as long as the allocator has it.
            self.gave_back_ms = self.now.mono_ms;
            memory::give_back(Back::All);
        }
    }
}
