//! What a storm came to, for people and for machines.

use std::fmt::Write as _;

use super::setting::{SECOND, Setting};
use super::tally::Tally;

/// A storm and what became of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The storm.
    pub setting: Setting,
    /// The account of the shards that were simulated.
    pub tally: Tally,
    /// The account of one shard under ten times the load that it can take, for as long as it goes.
    pub overload: Tally,
    /// The account of one shard with nobody away.
    pub quiet: Tally,
}

/// The head of the table.
pub const HEAD: &str = "\
policy         clients  patience  back after                  of     attempts  CPU in vain      idle  goodput    messages, p50 and p99
                               s  50 % s    99 %   100 %    ideal  per client     %  core-s        %  at 10x            quiet          in storm";

impl Report {
    /// The time until all were back, as a multiple of N × cost / cores.
    #[must_use]
    pub fn of_ideal(&self) -> Option<f64> {
        Some(self.tally.back_after_s(1.0)? / self.setting.ideal_s())
    }

    /// Clients connected per second under ten times the load, as a share of the peak: all that the
    /// messages leave of the core, nothing of it in vain.
    #[must_use]
    pub fn goodput(&self) -> f64 {
        let overload = self.setting.overload(10);
        // Once it has settled.
        let (from_s, to_s) = (overload.horizon_s / 3, overload.horizon_s);
        let done = self.overload.back_between(from_s, to_s) * overload.costs.client();
        let messages = overload.messages * overload.costs.message * (to_s - from_s);
        done as f64 / ((to_s - from_s) * SECOND).saturating_sub(messages).max(1) as f64
    }

    fn scale(&self) -> f64 {
        f64::from(self.setting.cores) / f64::from(self.setting.sample)
    }

    /// One line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let (setting, tally) = (&self.setting, &self.tally);
        let time = |share| {
            tally.back_after_s(share).map_or_else(|| "never".into(), |it| format!("{it:.2}"))
        };
        let busy = tally.connecting_ns + tally.other_ns;
        let residency =
            |of: &Tally| [0.5, 0.99].map(|share| duration(of.residency_us(share))).join(", ");
        format!(
            "{:<13}{:>9}{:>10}{:>8}{:>8}{:>8}{:>9}{:>12.2}{:>6.1}{:>8.1}{:>9.1}{:>7.0} %{:>17}{:>18}",
            setting.policy.name(),
            setting.clients,
            setting.patience_ms as f64 / 1e3,
            time(0.5),
            time(0.99),
            time(1.0),
            self.of_ideal().map_or_else(|| "-".into(), |it| format!("{it:.2}")),
            tally.attempts as f64 / tally.clients.max(1) as f64,
            100.0 * tally.wasted(&setting.costs),
            self.scale() * tally.wasted_ns(&setting.costs) as f64 / SECOND as f64,
            100.0 * tally.idle_ns as f64 / (busy + tally.idle_ns).max(1) as f64,
            100.0 * self.goodput(),
            residency(&self.quiet),
            residency(tally),
        )
    }

    /// One JSON object, without a line end.
    #[must_use]
    pub fn json(&self) -> String {
        let (setting, tally) = (&self.setting, &self.tally);
        let mut text = format!(
            "{{\"policy\":\"{}\",\"clients\":{},\"patience_ms\":{},\"cores\":{},\"sample\":{},\
             \"backlog\":{},\"seed\":{}",
            setting.policy,
            setting.clients,
            setting.patience_ms,
            setting.cores,
            setting.sample,
            setting.backlog,
            setting.seed
        );
        let costs = setting.costs;
        for (name, value) in [
            ("rtt_us", setting.rtt_us),
            ("spread_ms", setting.spread_ms),
            ("handshakes", setting.handshakes_max as u64),
            ("messages", setting.messages),
            ("connect_rate", setting.connect_rate),
            ("horizon_s", setting.horizon_s),
            ("refuse_ns", costs.refuse),
            ("accept_ns", costs.accept),
            ("hello_ns", costs.hello),
            ("finish_ns", costs.finish),
            ("connect_ns", costs.connect),
            ("gone_ns", costs.gone),
            ("message_ns", costs.message),
            ("turn_ns", costs.turn),
        ] {
            let _ = write!(text, ",\"{name}\":{value}");
        }
        for (name, share) in [("back_50_s", 0.5), ("back_99_s", 0.99), ("back_100_s", 1.0)] {
            put(&mut text, name, tally.back_after_s(share));
        }
        put(&mut text, "of_ideal", self.of_ideal());
        put(&mut text, "wasted_share", Some(tally.wasted(&setting.costs)));
        put(&mut text, "goodput_at_10x", Some(self.goodput()));
        put(&mut text, "residency_p50_us", Some(tally.residency_us(0.5)));
        put(&mut text, "residency_p99_us", Some(tally.residency_us(0.99)));
        put(&mut text, "quiet_p50_us", Some(self.quiet.residency_us(0.5)));
        put(&mut text, "quiet_p99_us", Some(self.quiet.residency_us(0.99)));
        let counts = [
            ("simulated_clients", tally.clients),
            ("attempts", tally.attempts),
            ("back", tally.back),
            ("refused", tally.refused),
            ("gone_before", tally.gone_before),
            ("gone_within", tally.gone_within),
            ("late", tally.late),
            ("open", tally.open),
            ("syns_refused", tally.syns_refused),
            ("connecting_ns", tally.connecting_ns),
            ("wasted_ns", tally.wasted_ns(&setting.costs)),
            ("idle_ns", tally.idle_ns),
            ("handshakes_max", tally.handshakes_max),
            ("accepted_max", tally.accepted_max),
        ];
        for (name, count) in counts {
            let _ = write!(text, ",\"{name}\":{count}");
        }
        text.push('}');
        text
    }
}

/// At most six characters for anything up to eleven days.
fn duration(us: f64) -> String {
    match us {
        ..10e3 => format!("{us:.0} us"),
        ..10e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.0} s", us / 1e6),
    }
}

fn put(text: &mut String, name: &str, value: Option<f64>) {
    let _ = match value {
        Some(value) => write!(text, ",\"{name}\":{value:.4}"),
        None => write!(text, ",\"{name}\":null"),
    };
}
