//! `petrelctl top`: how a broker is doing, again and again.

use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::Value;

use super::broker::shards;
use super::reach::Reach;
use super::{bytes, shown, time};
use crate::client::Signals;
use crate::failure::Failure;

/// Show how a broker is doing, again and again, until interrupted.
#[derive(clap::Args)]
#[command(
    after_help = "In a terminal q quits, p pauses, and s changes by what the shards are sorted. A broker that does not \
                  answer for a while is asked on."
)]
pub struct TopArguments {
    #[command(flatten)]
    reach: Reach,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look so often and end; for ever without it.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Moves the cursor to the beginning and clears what was there.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Below the picture, where there are keys.
const KEYS: &str = "\nq quits, p pauses, s sorts";

/// What a picture is made of.
#[derive(Default)]
struct Seen {
    before: Option<(Instant, Value)>,
    now: Option<(Instant, Value)>,
    /// Why the broker has not answered the last time.
    away: Option<String>,
}

/// By what the shards stand in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Shard,
    Connections,
    Received,
    Delivered,
    Slowest,
}

/// What somebody has typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Pause,
    Sort,
}

impl Order {
    const ALL: [Self; 5] =
        [Self::Shard, Self::Connections, Self::Received, Self::Delivered, Self::Slowest];

    /// The member of the broker's answer, and what people call it. All but the number go from the most.
    const fn of(self) -> (&'static str, &'static str) {
        match self {
            Self::Shard => ("shard", "number"),
            Self::Connections => ("connections", "connections"),
            Self::Received => ("received", "received"),
            Self::Delivered => ("delivered", "delivered"),
            Self::Slowest => ("turn_p99_us", "turn P99"),
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// Puts the shards of an answer in this order.
    fn sort(self, answer: &mut Value) {
        let Some(shards) = answer["shards"].as_array_mut() else { return };
        let of = |shard: &Value| shard[self.of().0].as_f64().unwrap_or(0.0);
        match self {
            Self::Shard => shards.sort_by(|a, b| of(a).total_cmp(&of(b))),
            _ => shards.sort_by(|a, b| of(b).total_cmp(&of(a))),
        }
    }
}

impl Key {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            // Ctrl-D, where it is no end of a line any more.
            b'q' | b'Q' | 4 => Some(Self::Quit),
            b'p' | b'P' | b' ' => Some(Self::Pause),
            b's' | b'S' => Some(Self::Sort),
            _ => None,
        }
    }
}

/// A terminal that gives each key at once and does not show it, until this is dropped.
struct Keys(Termios);

impl Keys {
    /// Takes the terminal on stdin; `None` if that is none, or somebody else is typing in it.
    fn take() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        tcsetattr(&stdin, OptionalActions::Now, &single).ok()?;
        Some(Self(before))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

impl Seen {
    fn look(&mut self, answer: Result<Value, Failure>) {
        match answer {
            Ok(answer) => {
                self.before = self.now.replace((Instant::now(), answer));
                self.away = None;
            }
            Err(failure) => self.away = Some(failure.text),
        }
    }

    fn text(&self, order: Order) -> String {
        let Some((at, answer)) = &self.now else { return self.without() };
        let mut answer = answer.clone();
        order.sort(&mut answer);
        let before = self.before.as_ref();
        let since = before.map(|(then, old)| (at.duration_since(*then), old));
        let mut text = screen(&answer, since);
        if let Some(why) = &self.away {
            text.push_str(&format!("\nas of {} s ago: {why}\n", at.elapsed().as_secs()));
        }
        text
    }

    /// Nobody has answered yet.
    fn without(&self) -> String {
        self.away.as_ref().map_or(String::new(), |why| format!("{why}\n"))
    }
}

impl TopArguments {
    /// Looks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let mut broker = self.reach.broker()?;
        let is_screen = std::io::stdout().is_terminal() && !self.reach.json;
        let signals = Signals::catch()?;
        let keys = is_screen.then(Keys::take).flatten();
        let (mut seen, mut order, mut is_paused) = (Seen::default(), Order::Shard, false);
        let (mut left, mut next) = (self.count.unwrap_or(u64::MAX), Instant::now());
        loop {
            if Instant::now() >= next {
                next = Instant::now() + Duration::from_secs(self.every);
                if !is_paused {
                    // One that was started again has left another token, and may be elsewhere.
                    if seen.away.is_some()
                        && let Ok(found) = self.reach.broker()
                    {
                        broker = found;
                    }
                    let answer = broker.get("/api/v1/overview");
                    // One that has never answered may be none at all.
                    seen.look(if seen.now.is_none() { Ok(answer?) } else { answer });
                    left = left.saturating_sub(1);
                }
            }
            self.print(&seen, is_screen, keys.is_some().then_some((order, is_paused)))?;
            if left == 0 {
                return Ok(());
            }
            match await_key(&signals, keys.is_some(), next)? {
                Some(Key::Quit) => return Ok(()),
                Some(Key::Pause) => is_paused = !is_paused,
                Some(Key::Sort) => order = order.next(),
                None => {}
            }
        }
    }

    fn print(
        &self,
        seen: &Seen,
        is_screen: bool,
        keys: Option<(Order, bool)>,
    ) -> Result<(), Failure> {
        let text = match (&seen.now, &seen.away) {
            // A line for each answer; that there is none belongs elsewhere.
            (_, Some(why)) if self.reach.json => {
                return writeln!(std::io::stderr(), "petrelctl: {why}").map_err(Failure::output);
            }
            (Some((_, answer)), None) if self.reach.json => format!("{answer}\n"),
            _ => seen.text(keys.map_or(Order::Shard, |(order, _)| order)),
        };
        let clear = if is_screen { CLEAR } else { "" };
        let below = keys.map_or(String::new(), |(order, is_paused)| {
            let paused = if is_paused { "; paused" } else { "" };
            format!("{KEYS}: by {}{paused}\n", order.of().1)
        });
        crate::print(&format!("{clear}{text}{below}"))?;
        std::io::stdout().flush().map_err(Failure::output)
    }
}

/// Waits for a key, or until it is time to look again; a signal is as good as the key that quits.
fn await_key(signals: &Signals, has_keys: bool, next: Instant) -> Result<Option<Key>, Failure> {
    if !has_keys {
        return Ok(signals.pause(Some(next))?.then_some(Key::Quit));
    }
    let stdin = std::io::stdin();
    while Instant::now() < next {
        let ready = signals.wait(stdin.as_fd(), false, None, Some(next))?;
        if ready.interrupted {
            return Ok(Some(Key::Quit));
        }
        if ready.readable {
            let mut typed = [0];
            match rustix::io::read(&stdin, &mut typed) {
                // The terminal has gone.
                Ok(0) | Err(_) => return Ok(Some(Key::Quit)),
                Ok(_) => {
                    if let Some(key) = Key::of(typed[0]) {
                        return Ok(Some(key));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// One picture; rates are since the one before.
fn screen(it: &Value, since: Option<(Duration, &Value)>) -> String {
    let rate = |path: [&str; 2]| {
        let Some((time, old)) = since else { return "-".to_owned() };
        let of = |it: &Value| it[path[0]][path[1]].as_f64().unwrap_or(0.0);
        // A broker that was started again counts from 0.
        let is_another = it["uptime_s"].as_f64() < old["uptime_s"].as_f64() || of(it) < of(old);
        if is_another || time.is_zero() {
            return "-".to_owned();
        }
        format!("{:.0}/s", (of(it) - of(old)) / time.as_secs_f64())
    };
    let mut text = format!(
        "petrel, up {}{}\n\n\
         connections {}   sessions {}   subscriptions {}   retained {}   memory {}\n\
         received {}   delivered {}   dropped {}   queued {}   in flight {}\n\n",
        time(&it["uptime_s"]),
        if it["ready"] == true { "" } else { "; clients are not let in" },
        it["connections"],
        it["sessions"],
        it["subscriptions"],
        it["retained"],
        bytes(&it["resident_bytes"]),
        rate(["messages", "received"]),
        rate(["messages", "delivered"]),
        rate(["messages", "dropped"]),
        it["queued"],
        it["in_flight"],
    );
    text.push_str(&shards(it));
    let dropped = it["dropped"].as_array().into_iter().flatten();
    let dropped: Vec<_> = dropped
        .filter(|it| it["number"].as_u64().is_some_and(|number| number > 0))
        .map(|it| format!("{} {}", it["number"], shown(&it["name"])))
        .collect();
    if !dropped.is_empty() {
        text.push_str(&format!("\ndropped: {}\n", dropped.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_what_has_come_since_the_picture_before() {
        let at = |received: u64| json!({"uptime_s": 1, "ready": true, "messages": {"received": received}, "shards": []});
        let text = screen(&at(300), Some((Duration::from_secs(2), &at(100))));
        assert!(text.contains("received 100/s"), "{text}");
        assert!(screen(&at(300), None).contains("received -"));
        let since = (Duration::from_secs(2), &at(400));
        assert!(
            screen(&at(300), Some(since)).contains("received -   delivered"),
            "another process"
        );
    }

    #[test]
    fn the_last_picture_stays_while_the_broker_is_away() {
        let mut seen = Seen::default();
        seen.look(Ok(json!({"uptime_s": 7, "ready": true, "connections": 42, "shards": []})));
        assert!(!seen.text(Order::Shard).contains("as of"));
        seen.look(Err(Failure::new("nobody listens")));
        let text = seen.text(Order::Shard);
        assert!(
            text.contains("connections 42") && text.contains("s ago: nobody listens"),
            "{text}"
        );
        seen.look(Ok(json!({"uptime_s": 1, "ready": true, "connections": 3, "shards": []})));
        let text = seen.text(Order::Shard);
        assert!(text.contains("connections 3") && !text.contains("nobody"), "{text}");
    }

    #[test]
    fn each_key_does_what_it_says() {
        let mut answer = json!({"shards": [{"shard": 0, "connections": 1, "turn_p99_us": 9.5},
            {"shard": 1, "connections": 5, "turn_p99_us": 2.5}]});
        let mut order = Order::Shard;
        let mut firsts = Vec::new();
        for _ in Order::ALL {
            order.sort(&mut answer);
            firsts.push((order.of().1, answer["shards"][0]["shard"].as_u64()));
            order = order.next();
        }
        assert_eq!(order, Order::Shard, "after the last comes the first");
        assert_eq!((firsts[0], firsts[1]), (("number", Some(0)), ("connections", Some(1))));
        assert_eq!(firsts[4], ("turn P99", Some(0)));
        let keys = *b"qQp sx\n";
        let meant = [Key::Quit, Key::Quit, Key::Pause, Key::Pause, Key::Sort].map(Some);
        assert_eq!(keys.map(Key::of), [&meant[..], &[None, None]].concat()[..]);
    }
}
