//! The subscriptions of one session: none or one for most, many for few.

use crate::matcher::FilterId;

/// One subscription that is not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) filter: FilterId,
    /// Position in the filter's list of receivers.
    pub(crate) position: u32,
}

/// Subscriptions sorted by filter.
///
/// *Bounds*: 16 bytes up to one subscription, 8 more and a block of the heap for each beyond.
#[derive(Debug, Default)]
pub(crate) enum Subscriptions {
    #[default]
    None,
    One(Subscription),
    Many(Box<Many>),
}

/// More than one subscription.
#[derive(Debug)]
pub(crate) struct Many {
    list: Vec<Subscription>,
    seen: Seen,
}

/// For which message a session was last found, and where it stands among those that want it. Only a
/// session with several subscriptions can be found twice for one message.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) message: u64,
    pub(crate) position: u32,
}

impl Subscriptions {
    pub(crate) fn as_slice(&self) -> &[Subscription] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => &many.list,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Subscription] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => &mut many.list,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn find(&self, filter: FilterId) -> Option<Subscription> {
        let list = self.as_slice();
        let at = list.binary_search_by_key(&filter, |one| one.filter).ok()?;
        list.get(at).copied()
    }

    pub(crate) fn find_mut(&mut self, filter: FilterId) -> Option<&mut Subscription> {
        let list = self.as_mut_slice();
        let at = list.binary_search_by_key(&filter, |one| one.filter).ok()?;
        list.get_mut(at)
    }

    /// Adds a subscription to a filter that is not there.
    pub(crate) fn insert(&mut self, new: Subscription) {
        match self {
            Self::None => *self = Self::One(new),
            Self::One(one) => {
                let mut list = vec![*one, new];
                list.sort_unstable_by_key(|one| one.filter);
                *self = Self::Many(Box::new(Many { list, seen: Seen::default() }));
            }
            Self::Many(many) => {
                let list = &mut many.list;
                if list.len() == list.capacity() {
                    // Doubling would leave up to half of it unused for as long as the session lives.
                    list.reserve_exact(2.max(list.len() / 4));
                }
                let at = list.partition_point(|one| one.filter < new.filter);
                list.insert(at, new);
            }
        }
    }

    /// Takes a subscription out.
    pub(crate) fn remove(&mut self, filter: FilterId) {
        match self {
            Self::One(one) if one.filter == filter => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(many) => {
                let list = &mut many.list;
                if let Ok(at) = list.binary_search_by_key(&filter, |one| one.filter) {
                    list.remove(at);
                }
                if list.len() * 2 < list.capacity() {
                    list.shrink_to(list.len());
                }
                if let [one] = **list {
                    *self = Self::One(one);
                }
            }
        }
    }

    /// Where to note for which message the session was found; `None` if it can be found only once.
    pub(crate) fn seen(&mut self) -> Option<&mut Seen> {
        match self {
            Self::None | Self::One(_) => None,
            Self::Many(many) => Some(&mut many.seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_found_whatever_their_number() {
        let one = |n: u32| Subscription { filter: FilterId(n), position: n * 2 };
        let mut all = Subscriptions::default();
        let order: Vec<u32> = (0..50).map(|n| n * 37 % 50).collect();
        for (count, &n) in order.iter().enumerate() {
            assert_eq!((all.len(), all.find(FilterId(n))), (count, None));
            all.insert(one(n));
            assert_eq!(all.find(FilterId(n)), Some(one(n)));
        }
        assert!(all.as_slice().is_sorted_by_key(|one| one.filter));
        for (count, &n) in order.iter().rev().enumerate() {
            assert_eq!(all.seen().is_some(), all.len() > 1);
            all.remove(FilterId(n));
            all.remove(FilterId(n));
            assert_eq!((all.len(), all.find(FilterId(n))), (49 - count, None));
        }
        assert!(matches!(all, Subscriptions::None));
    }
}
