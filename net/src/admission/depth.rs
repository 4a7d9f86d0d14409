//! How many connections may wait in the kernel until they are accepted.
//!
//! The kernel's queue serves in order of arrival and cannot be searched. If it is deeper than its
//! clients are patient, those at its head have gone when their turn comes, each costs an accept
//! for nothing, and all the others wait behind them. Beyond its depth the kernel drops a SYN, which is
//! the cheapest refusal there is, and the client's own kernel sends it again after 1, 3, 7 and more
//! seconds; so a queue that is too shallow runs dry between them. Nobody says how patient clients are.
//! Therefore the queue is as deep as can be until those who had gone are found in it, then it is cut
//! until they are few, and it grows again whenever it has run dry.

/// Most places: what `net.core.somaxconn` can be raised to on every kernel.
pub const PLACES_MAX: usize = 65_535;

/// Fewest places: a fiftieth of a second of handshakes, or a fifth with a tenth of a core.
pub const PLACES_MIN: usize = 128;

/// Connections looked at for one judgement.
const LOOKS: usize = 256;

/// This many of them may have gone. Each costs a tenth of what the others cost, so it is a thirtieth of
/// the work.
const GONE_MAX: usize = LOOKS / 4;

/// The depth of the queue that feeds a shard with handshakes. Pure: it is told what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    places: usize,
    /// No more are to be had.
    most: usize,
    /// Connections still to come that were let in before the last cut, which they say nothing about.
    before_cut: usize,
    looks: usize,
    gone: usize,
}

impl Depth {
    /// As deep as can be. `system` is what the system grants at most: a cut from more than that would
    /// change nothing, and those who come after it would be judged as if it had.
    #[must_use]
    pub const fn new(system: usize) -> Self {
        let most = if system < PLACES_MAX { system } else { PLACES_MAX };
        let most = if most > PLACES_MIN { most } else { PLACES_MIN };
        Self { places: most, most, before_cut: 0, looks: 0, gone: 0 }
    }

    /// Places in the queue, from [`PLACES_MIN`] to what there can be.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.places
    }

    /// An accepted connection was looked at for the first time, and its client had gone or not.
    pub const fn looked(&mut self, gone: bool) {
        if self.before_cut > 0 {
            self.before_cut -= 1;
            return;
        }
        self.looks += 1;
        self.gone += gone as usize;
        if self.looks < LOOKS {
            return;
        }
        if self.gone > GONE_MAX {
            // A gentle cut: to run dry costs more than some who have gone.
            let places = self.places * 7 / 10;
            self.places = if places < PLACES_MIN { PLACES_MIN } else { places };
            self.before_cut = self.places;
        }
        (self.looks, self.gone) = (0, 0);
    }

    /// The queue was found empty.
    pub const fn drained(&mut self) {
        let places = self.places * 2;
        self.places = if places > self.most { self.most } else { places };
        (self.before_cut, self.looks, self.gone) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(depth: &mut Depth, connections: usize, gone_each: usize) {
        for nth in 0..connections {
            depth.looked(gone_each > 0 && nth.is_multiple_of(gone_each));
        }
    }

    #[test]
    fn the_queue_is_as_deep_as_can_be_while_few_have_gone() {
        let mut depth = Depth::new(usize::MAX);
        look(&mut depth, 100_000, 5);
        assert_eq!(depth.places(), PLACES_MAX);
    }

    #[test]
    fn a_cut_is_judged_by_those_who_came_after_it() {
        let mut depth = Depth::new(usize::MAX);
        look(&mut depth, LOOKS, 1);
        let cut = depth.places();
        assert_eq!(cut, 45_874);
        look(&mut depth, cut, 1);
        assert_eq!(depth.places(), cut, "those were in the queue before");
        look(&mut depth, LOOKS, 1);
        assert!(depth.places() < cut);
    }

    #[test]
    fn a_cut_is_one_of_what_the_system_grants() {
        let mut depth = Depth::new(4_096);
        look(&mut depth, LOOKS, 1);
        assert_eq!(depth.places(), 2_867);
        depth.drained();
        assert_eq!(depth.places(), 4_096);
        assert_eq!(Depth::new(5).places(), PLACES_MIN);
    }

    #[test]
    fn the_queue_keeps_some_depth_and_grows_when_it_has_run_dry() {
        let mut depth = Depth::new(usize::MAX);
        look(&mut depth, 1_000_000, 1);
        assert_eq!(depth.places(), PLACES_MIN);
        depth.drained();
        assert_eq!(depth.places(), 2 * PLACES_MIN);
        for _ in 0..70 {
            depth.drained();
        }
        assert_eq!(depth, Depth::new(usize::MAX));
    }
}
