//! What the broker has counted by reason code.

use std::fmt;

use petrel_proto::ReasonCode;

/// Below it no reason code is an error.
const FIRST: u8 = 0x80;

/// How many there were for each reason code that is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByReason([u64; ByReason::NUMBERS]);

impl Default for ByReason {
    fn default() -> Self {
        Self([0; Self::NUMBERS])
    }
}

impl ByReason {
    /// Reason codes that are errors; the last is 0xa2.
    pub const NUMBERS: usize = 0xa3 - FIRST as usize;

    /// Counts one.
    pub fn count(&mut self, reason: ReasonCode) {
        let at = (reason as u8).checked_sub(FIRST).map(usize::from);
        if let Some(count) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
    }

    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: ReasonCode) -> u64 {
        let at = (reason as u8).checked_sub(FIRST).map(usize::from);
        at.and_then(|at| self.0.get(at)).copied().unwrap_or(0)
    }

    /// How many there were for each reason, those of which there were none as well.
    pub fn by_name(&self) -> impl Iterator<Item = (Name<ReasonCode>, u64)> {
        let counts = (FIRST..).zip(self.0);
        counts.filter_map(|(code, count)| Some((Name(ReasonCode::from_u8(code)?), count)))
    }

    /// How many in all.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All numbers, by reason code.
    pub(super) const fn numbers(&self) -> &[u64; Self::NUMBERS] {
        &self.0
    }

    /// Adds others.
    pub(super) fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, more)| *sum += more);
    }

    /// From what [`Self::numbers`] gave.
    pub(super) fn from_numbers(numbers: impl Iterator<Item = u64>) -> Self {
        let mut counts = Self::default();
        counts.0.iter_mut().zip(numbers).for_each(|(into, number)| *into = number);
        counts
    }
}

/// A `name=number` behind a space for each reason, without those of which there were none.
impl fmt::Display for ByReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counted = self.by_name().filter(|(_, count)| *count > 0);
        counted.try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

/// What something is called whose variant is called so, as in `queue_full` of `QueueFull`.
#[derive(Debug, Clone, Copy)]
pub struct Name<T>(pub T);

impl<T: fmt::Debug> fmt::Display for Name<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, letter) in format!("{:?}", self.0).char_indices() {
            if letter.is_uppercase() && at > 0 {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_stands_under_its_name() {
        let mut counts = ByReason::default();
        assert_eq!(counts.to_string(), "");
        for reason in [ReasonCode::PacketTooLarge, ReasonCode::PacketTooLarge, ReasonCode::Success]
        {
            counts.count(reason);
        }
        counts.count(ReasonCode::UnspecifiedError);
        counts.count(ReasonCode::WildcardSubscriptionsNotSupported);
        assert_eq!(
            counts.to_string(),
            " unspecified_error=1 packet_too_large=2 wildcard_subscriptions_not_supported=1"
        );
        assert_eq!(counts.of(ReasonCode::PacketTooLarge), 2);
        assert_eq!(ByReason::from_numbers(counts.numbers().iter().copied()), counts);
    }
}
