//! Packet identifiers that the broker gives to what it sends.

use petrel_proto::PacketId;

use crate::sabotage::{self, Sabotage};

/// Hands out identifiers in turn and never one that is in flight ([MQTT5-2.2.1-4]).
///
/// Identifiers only come into use behind `next`, so once the distance to the nearest one in use
/// ahead is known, that many can be handed out without looking again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PacketIds {
    last: u16,
    /// Identifiers after `last` that are known to be free.
    free_ahead: u16,
}

impl PacketIds {
    /// The next free identifier; `None` if all 65,535 are in flight.
    ///
    /// Cost: O(1), and a walk over `in_flight` once per wrap or per collision.
    pub(crate) fn allocate(
        &mut self,
        in_flight: impl Iterator<Item = PacketId> + Clone,
    ) -> Option<PacketId> {
        let mut tries = 0u32;
        while self.free_ahead == 0 {
            let from = self.last;
            let ahead = |id: PacketId| distance(from, id.get());
            let nearest = in_flight.clone().map(ahead).min();
            match nearest {
                None => self.free_ahead = u16::MAX,
                Some(1) => self.last = following(self.last),
                Some(nearest) => self.free_ahead = nearest - 1,
            }
            tries += 1;
            if tries > u32::from(u16::MAX) {
                return None;
            }
        }
        if sabotage::on(Sabotage::PacketIdReused) && in_flight.clone().next().is_some() {
            return in_flight.clone().next();
        }
        self.free_ahead -= 1;
        self.last = following(self.last);
        PacketId::new(self.last)
    }
}

/// The identifier after this one; 0 is skipped ([MQTT5-2.2.1-3]).
const fn following(id: u16) -> u16 {
    if id == u16::MAX { 1 } else { id + 1 }
}

/// Steps from one identifier to another in the cycle 1..=65535; 65,535 for itself.
const fn distance(from: u16, to: u16) -> u16 {
    // `from` may be 0 before the first use, which stands just before 1 like 65,535 does.
    let from = if from == 0 { u16::MAX } else { from };
    if to > from { to - from } else { u16::MAX - (from - to) }
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
        // The walk is quadratic when everything is taken, so a small cycle must do: only the
        // first identifier is free.
        assert_eq!(ids.allocate(all[1..].iter().copied()).unwrap().get(), 1);
    }
}
