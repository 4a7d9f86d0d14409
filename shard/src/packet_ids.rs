//! Packet identifiers that the broker gives to what it sends.

use petrel_proto::PacketId;

use crate::sabotage::{self, Sabotage};

/// Identifiers that are looked at beyond the next free one.
const LOOK_AHEAD_MAX: usize = 1024;

/// Hands out identifiers in turn and never one that is in flight ([MQTT5-2.2.1-4]).
///
/// Identifiers only come into use behind `next`, so those that were found free
/// ahead can be handed out without looking again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PacketIds {
    last: u16,
    /// Identifiers after `last` that are known to be free.
    free_ahead: u16,
}

impl PacketIds {
    /// The next free identifier; `None` if all 65,535 are in flight.
    ///
    /// Cost: O(1), and a walk over `in_flight` once in [`LOOK_AHEAD_MAX`] identifiers or whenever
    /// one that is in use is met.
    pub(crate) fn allocate(
        &mut self,
        mut in_flight: impl Iterator<Item = PacketId> + Clone,
    ) -> Option<PacketId> {
        if self.free_ahead == 0 {
            self.look_ahead(in_flight.clone())?;
        }
        if sabotage::on(Sabotage::PacketIdReused)
            && let Some(reused) = in_flight.next()
        {
            return Some(reused);
        }
        self.free_ahead -= 1;
        self.last = following(self.last);
        PacketId::new(self.last)
    }

    /// Finds the next run of free identifiers; `None` if there is none.
    fn look_ahead(&mut self, mut in_flight: impl Iterator<Item = PacketId>) -> Option<()> {
        let Some(first) = in_flight.next() else {
            self.free_ahead = u16::MAX;
            return Some(());
        };
        let mut used = [0u64; 1024];
        for id in in_flight.chain([first]) {
            used[usize::from(id.get() / 64)] |= 1 << (id.get() % 64);
        }
        let is_used = |id: u16| used[usize::from(id / 64)] >> (id % 64) & 1 == 1;
        let free = |last: &u16| !is_used(following(*last));
        let mut cycle = std::iter::successors(Some(self.last), |&last| Some(following(last)));
        self.last = cycle.by_ref().take(usize::from(u16::MAX)).find(free)?;
        let more = cycle.take(LOOK_AHEAD_MAX - 1).take_while(free).count();
        // At most LOOK_AHEAD_MAX.
        self.free_ahead = more as u16 + 1;
        Some(())
    }
}

/// The identifier after this one; 0 is skipped ([MQTT5-2.2.1-3]).
const fn following(id: u16) -> u16 {
    if id == u16::MAX { 1 } else { id + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// [MQTT5-2.2.1-3] [MQTT5-2.2.1-4]
    #[test]
    fn an_identifier_in_flight_is_never_given_again() {
        let mut ids = PacketIds::default();
        let mut in_flight: BTreeSet<PacketId> = BTreeSet::new();
        let mut state = 7u64;
        for _ in 0..300_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = (state >> 33) as usize;
            if in_flight.len() > 40 {
                let victim = *in_flight.iter().nth(pick % in_flight.len()).unwrap();
                in_flight.remove(&victim);
            }
            let id = ids.allocate(in_flight.iter().copied()).unwrap();
            assert!(in_flight.insert(id), "{id:?} was in flight");
        }
    }

    #[test]
    fn identifiers_that_linger_are_skipped() {
        let mut ids = PacketIds::default();
        let stay: Vec<PacketId> = [1, 2, 5].into_iter().filter_map(PacketId::new).collect();
        let got: Vec<u16> =
            (0..4).map(|_| ids.allocate(stay.iter().copied()).unwrap().get()).collect();
        assert_eq!(got, [3, 4, 6, 7]);
    }

    #[test]
    fn all_in_use_is_said() {
        let mut ids = PacketIds::default();
        let all: Vec<PacketId> = (1..=u16::MAX).filter_map(PacketId::new).collect();
        for free in [0, 65_534, 40_000, 39_999] {
            assert_eq!(ids.allocate(all.iter().copied()), None);
            let others = all.iter().copied().filter(|id| *id != all[free]);
            assert_eq!(ids.allocate(others), Some(all[free]));
        }
    }

    /// [MQTT5-2.2.1-4]
    #[test]
    fn every_identifier_is_given_once_before_one_is_given_again() {
        let mut ids = PacketIds::default();
        let mut in_flight: Vec<PacketId> = vec![PacketId::new(500).unwrap()];
        let mut seen = BTreeSet::from([500]);
        while let Some(id) = ids.allocate(in_flight.iter().copied()) {
            assert!(seen.insert(id.get()));
            // Every third one lingers.
            if id.get() % 3 == 0 {
                in_flight.push(id);
            }
            if seen.len() == usize::from(u16::MAX) {
                return;
            }
        }
        panic!("{} of 65,535 were given", seen.len());
    }
}
