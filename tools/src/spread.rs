//! How numbers are spread.

/// The least, the middle and the most of some numbers, and what 99 of 100 do not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// Half of the numbers are not more.
    pub median: f64,
    /// 99 of 100 are not more.
    pub p99: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one number.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { min: sorted[0], median: rank(50), p99: rank(99), max: sorted[last] })
    }
}

/// A bar of a histogram: numbers from `from` up to the next bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// The least that counts here.
    pub from: f64,
    /// How many there are.
    pub count: usize,
}

/// So many bars of the same width from the least to the most; one if all are the same, none of nothing.
pub fn histogram(numbers: &[f64], bars: usize) -> Vec<Bar> {
    let Some(Spread { min, max, .. }) = Spread::of(numbers) else { return Vec::new() };
    let width = (max - min) / bars as f64;
    if width.is_nan() || width <= 0.0 {
        return vec![Bar { from: min, count: numbers.len() }];
    }
    let mut counts = vec![0; bars];
    for number in numbers {
        let at = ((number - min) / width) as usize;
        counts[at.min(bars - 1)] += 1;
    }
    let bar = |(at, count)| Bar { from: min + width * at as f64, count };
    counts.into_iter().enumerate().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_numbers_that_are_there() {
        let numbers: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let expected = Spread { min: 1.0, median: 100.0, p99: 198.0, max: 200.0 };
        assert_eq!(Spread::of(&numbers), Some(expected));
        let expected = Spread { min: 7.0, median: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(Spread::of(&[7.0]), Some(expected));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn every_number_is_in_one_bar() {
        let bars = histogram(&[0.0, 1.0, 2.0, 9.0, 10.0], 5);
        let counts: Vec<_> = bars.iter().map(|bar| (bar.from, bar.count)).collect();
        assert_eq!(counts, [(0.0, 2), (2.0, 1), (4.0, 0), (6.0, 0), (8.0, 2)]);
        assert_eq!(histogram(&[3.0, 3.0], 5), [Bar { from: 3.0, count: 2 }]);
        assert_eq!(histogram(&[], 5), []);
    }
}
