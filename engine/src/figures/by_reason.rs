//! Connections that the broker has ended, by reason.

use std::fmt;

use petrel_proto::ReasonCode;

/// Below it no reason code is an error.
const FIRST: u8 = 0x80;

/// How many there were for each reason code that is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended([u64; Ended::NUMBERS]);

impl Default for Ended {
    fn default() -> Self {
        Self([0; Self::NUMBERS])
    }
}

impl Ended {
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
        let mut ended = Self::default();
        ended.0.iter_mut().zip(numbers).for_each(|(into, number)| *into = number);
        ended
    }
}

/// One line of `name=number`, without those of which there were none.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended:")?;
        for (code, count) in (FIRST..).zip(self.0) {
            if let Some(reason) = ReasonCode::from_u8(code).filter(|_| count > 0) {
                write!(f, " {}={count}", Name(reason))?;
            }
        }
        Ok(())
    }
}

/// What something is called whose variant is called so, as in `queue_full` of `QueueFull`.
pub(super) struct Name<T>(pub T);

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
        let mut ended = Ended::default();
        assert_eq!(ended.to_string(), "ended:");
        for reason in [ReasonCode::PacketTooLarge, ReasonCode::PacketTooLarge, ReasonCode::Success]
        {
            ended.count(reason);
        }
        ended.count(ReasonCode::UnspecifiedError);
        ended.count(ReasonCode::WildcardSubscriptionsNotSupported);
        assert_eq!(
            ended.to_string(),
            "ended: unspecified_error=1 packet_too_large=2 wildcard_subscriptions_not_supported=1"
        );
        assert_eq!(ended.of(ReasonCode::PacketTooLarge), 2);
        assert_eq!(Ended::from_numbers(ended.numbers().iter().copied()), ended);
    }
}
