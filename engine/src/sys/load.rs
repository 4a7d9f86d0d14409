//! Averages of what passes in a minute, over one, five and fifteen minutes, weighted as Mosquitto's and the load of
//! Unix are: what is older counts less and less.

use std::time::Instant;

/// What is counted, by its part of the topic.
pub(super) type Flows = [(&'static str, u64); 9];

/// Over how many minutes.
const MINUTES: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// Averages of all that is counted.
#[derive(Debug)]
pub(super) struct Load {
    at: Instant,
    counted: Flows,
    averages: [[f64; MINUTES.len()]; 9],
}

impl Load {
    /// Nothing has passed since this was counted.
    pub(super) fn since(counted: Flows) -> Self {
        Self { at: Instant::now(), counted, averages: Default::default() }
    }

    /// So much has been counted by now.
    pub(super) fn pass(&mut self, now: Instant, counted: Flows) {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        let all = counted.iter().zip(&self.counted).zip(&mut self.averages);
        for (((_, after), (_, before)), averages) in all {
            let per_minute = after.saturating_sub(*before) as f64 / minutes;
            for (average, (over, _)) in averages.iter_mut().zip(MINUTES) {
                let old = (-minutes / over).exp();
                *average = old * *average + (1.0 - old) * per_minute;
            }
        }
        (self.at, self.counted) = (now, counted);
    }

    /// Topics and values.
    pub(super) fn values(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.counted.iter().zip(&self.averages);
        all.flat_map(|((what, _), averages)| {
            let one = move |((_, over), average): ((f64, &str), &f64)| {
                (format!("load/{what}/{over}"), format!("{average:.2}"))
            };
            MINUTES.into_iter().zip(averages).map(one)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

    #[test]
    fn averages_come_close_to_what_passes_in_a_minute() {
        let mut load = Load::since(NAMES.map(|name| (name, 100)));
        let mut now = load.at;
        // 20 in ten seconds are 120 in a minute.
        for step in 1..=6 {
            now += Duration::from_secs(10);
            load.pass(
                now,
                NAMES.map(|name| (name, if name == "b" { 100 + 20 * step } else { 100 })),
            );
        }
        let values: BTreeMap<String, String> = load.values().collect();
        assert_eq!(values.len(), 27);
        // 120 (1 - 1/e), 120 (1 - e^-0.2), 120 (1 - e^-(1/15)).
        assert_eq!(values["load/b/1min"], "75.85");
        assert_eq!(values["load/b/5min"], "21.75");
        assert_eq!(values["load/b/15min"], "7.74");
        assert_eq!(values["load/a/1min"], "0.00");
        // The same moment again changes nothing, and divides by nothing.
        load.pass(now, NAMES.map(|name| (name, 100)));
        assert_eq!(load.values().collect::<BTreeMap<_, _>>(), values);
    }
}
