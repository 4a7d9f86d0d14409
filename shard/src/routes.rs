//! Where topics went lately.
//!
//! Most publishers repeat their topics. A topic that has come before is looked up by one hash of its text and
//! compared; which shards want it and which filters match it is then known, for as long as no distinct filter
//! has come or gone in the whole process ([`crate::Interest::epoch`]).

use smallvec::SmallVec;

use crate::interest::ShardMask;
use crate::matcher::FilterId;

/// Topics with their filters, each at the one place that its hash names.
///
/// *Bounds*: [`PLACES`] topics of at most [`TOPIC_BYTES_MAX`]; those with more than [`FILTERS_MAX`] filters are
/// not kept. *Cost*: a topic that comes once is only noted; no allocation for one that follows another of no
/// less length.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    places: Vec<Place>,
    /// Something was looked for since the last [`Routes::rest`].
    used: bool,
}

#[derive(Debug, Default)]
struct Place {
    /// Of the topic that was looked for last.
    hash: u64,
    route: Route,
    topic: Vec<u8>,
}

/// What is known of a topic.
#[derive(Debug, Default)]
pub(crate) struct Route {
    epoch: u64,
    /// The shards that may want it; `None` if nobody has asked for them.
    pub(crate) shards: Option<ShardMask>,
    /// The filters of this shard that match it, if this shard wants it.
    pub(crate) filters: SmallVec<[FilterId; FILTERS_MAX]>,
}

const PLACES: usize = 1024;
const TOPIC_BYTES_MAX: usize = 256;
const FILTERS_MAX: usize = 4;

impl Routes {
    /// What is known of a topic at an epoch.
    #[inline]
    pub(crate) fn get(&mut self, hash: u64, epoch: u64, topic: &[u8]) -> Option<&Route> {
        self.used = true;
        let place = self.places.get(hash as usize % PLACES)?;
        let is_it = place.hash == hash && place.route.epoch == epoch && place.topic == topic;
        is_it.then_some(&place.route)
    }

    /// Time has passed: the memory is given back if nothing was looked for meanwhile.
    pub(crate) fn rest(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.places = Vec::new();
        }
    }

    /// Keeps what was found out, if the topic was looked for before and nothing else since.
    pub(crate) fn put(
        &mut self,
        (hash, epoch): (u64, u64),
        topic: &[u8],
        shards: Option<ShardMask>,
        filters: &[FilterId],
    ) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, Place::default);
        }
        let Some(place) = self.places.get_mut(hash as usize % PLACES) else { return };
        if place.hash != hash {
            place.hash = hash;
            // What stands there is another topic's, and must not be taken for this one's.
            place.topic.clear();
            return;
        }
        place.topic.clear();
        if filters.len() <= FILTERS_MAX && topic.len() <= TOPIC_BYTES_MAX {
            place.topic.extend_from_slice(topic);
            place.route.epoch = epoch;
            place.route.shards = shards;
            place.route.filters.clear();
            place.route.filters.extend_from_slice(filters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(routes: &mut Routes, hash: u64, epoch: u64, topic: &[u8]) -> Option<Vec<u32>> {
        let route = routes.get(hash, epoch, topic)?;
        Some(route.filters.iter().map(|filter| filter.0).collect())
    }

    #[test]
    fn a_topic_is_known_from_its_second_time_on() {
        let mut routes = Routes::default();
        for _ in 0..2 {
            assert_eq!(known(&mut routes, 7, 1, b"a/b"), None);
            routes.put((7, 1), b"a/b", Some(ShardMask(5)), &[FilterId(3), FilterId(4)]);
        }
        assert_eq!(known(&mut routes, 7, 1, b"a/b"), Some(vec![3, 4]));
        assert_eq!(routes.get(7, 1, b"a/b").and_then(|route| route.shards), Some(ShardMask(5)));
        // Another epoch, another hash, another topic with the same hash.
        assert_eq!(known(&mut routes, 7, 2, b"a/b"), None);
        assert_eq!(known(&mut routes, 7 + PLACES as u64, 1, b"a/b"), None);
        assert_eq!(known(&mut routes, 7, 1, b"a/c"), None);
        routes.put((7, 2), b"a/b", None, &[]);
        assert_eq!(known(&mut routes, 7, 2, b"a/b"), Some(vec![]));
    }

    #[test]
    fn a_topic_that_takes_the_place_of_another_is_not_taken_for_it() {
        let mut routes = Routes::default();
        let (one, other) = (7, 7 + PLACES as u64);
        routes.put((one, 1), b"one", None, &[FilterId(1)]);
        routes.put((one, 1), b"one", None, &[FilterId(1)]);
        routes.put((other, 1), b"other", None, &[FilterId(2)]);
        assert_eq!(known(&mut routes, one, 1, b"one"), None);
        assert_eq!(known(&mut routes, other, 1, b"one"), None);
        routes.put((other, 1), b"other", None, &[FilterId(2)]);
        assert_eq!(known(&mut routes, other, 1, b"other"), Some(vec![2]));
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let mut routes = Routes::default();
        let (many, long) = ([FilterId(1); FILTERS_MAX + 1], [b'x'; TOPIC_BYTES_MAX + 1]);
        for _ in 0..3 {
            routes.put((1, 1), b"a", None, &many);
            routes.put((2, 1), &long, None, &[]);
        }
        assert_eq!((known(&mut routes, 1, 1, b"a"), known(&mut routes, 2, 1, &long)), (None, None));
    }
}
