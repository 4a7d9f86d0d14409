//! `petrel-sim storm`: what the command line asks for.

use std::thread;

use super::policy::Policy;
use super::setting::{SECOND, Setting, US};
use super::{report, simulate};

/// What `petrel-sim storm` understands.
pub const USAGE: &str = "\
usage: petrel-sim storm [--clients N] [--patience S] [--cores C] [--policy P] ...
  --clients N,..      clients that are cut at once (1000000)
  --patience S,..     seconds until a client that has no CONNACK begins anew (5)
  --cores C           cores, a shard each (16)
  --policy P,..       broker, deep-queue, foresight, newest-first, no-cap, no-gone-check,
                      fixed-rate, fifo, accept-first (all)
  --sample K          simulate only the first K shards (all)
  --backlog B         places in the kernel's queue of each shard (65535)
  --handshakes H      handshakes in flight, at most, per shard (2000)
  --rtt MS            round trip in milliseconds (50)
  --spread MS         time in which the clients notice the cut (1000)
  --messages M        messages per second of connected clients, per shard (10000)
  --connect-rate R    connections per second and core of policy fixed-rate (3000)
  --cost NAME=US      unit cost in microseconds: refuse accept hello finish connect gone message turn
  --horizon S         stop after so many seconds (five times the ideal, and some patience)
  --seed S            (1)
  --jobs J            threads (all cores)
  --json              an object per line instead of the table";

/// The clock counts microseconds in 32 bits, 4,294 s.
const HORIZON_S_MAX: u64 = 4_000;
/// More of a core than this is not left to messages.
const MESSAGES_PERCENT_MAX: u64 = 90;

#[derive(Debug)]
struct Asked {
    clients: Vec<u64>,
    patience_s: Vec<u64>,
    policies: Vec<Policy>,
    setting: Setting,
    sample: Option<u32>,
    horizon_s: Option<u64>,
    jobs: usize,
    json: bool,
}

/// Does what the words ask for and prints the answer.
///
/// # Errors
/// The words make no sense.
pub fn run(words: impl Iterator<Item = String>) -> Result<(), String> {
    let asked = parse(words)?;
    if !asked.json {
        println!("{}", report::HEAD);
    }
    for &clients in &asked.clients {
        for &patience_s in &asked.patience_s {
            for &policy in &asked.policies {
                let setting = asked.storm(clients, patience_s, policy);
                check(&setting)?;
                let report = simulate(&setting, asked.jobs);
                println!("{}", if asked.json { report.json() } else { report.line() });
            }
        }
    }
    Ok(())
}

impl Asked {
    fn storm(&self, clients: u64, patience_s: u64, policy: Policy) -> Setting {
        let mut setting = Setting {
            clients,
            patience_ms: patience_s * 1_000,
            policy,
            sample: self.sample.unwrap_or(self.setting.cores).min(self.setting.cores),
            ..self.setting
        };
        setting.horizon_s = self.horizon_s.unwrap_or(setting.horizon_by_default());
        setting
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked {
        clients: vec![1_000_000],
        patience_s: vec![5],
        policies: Policy::ALL.to_vec(),
        setting: Setting::new(0, 0, 16, Policy::Broker),
        sample: None,
        horizon_s: None,
        jobs: thread::available_parallelism().map_or(1, usize::from),
        json: false,
    };
    while let Some(word) = words.next() {
        if word == "--json" {
            asked.json = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        asked.set(&word, &value)?;
    }
    Ok(asked)
}

impl Asked {
    fn set(&mut self, word: &str, value: &str) -> Result<(), String> {
        let setting = &mut self.setting;
        match word {
            "--clients" => self.clients = list(value, 1, 100_000_000)?,
            "--patience" => self.patience_s = list(value, 1, 600)?,
            "--policy" => {
                self.policies = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--cores" => setting.cores = number(value, 1, 1_024)? as u32,
            "--sample" => self.sample = Some(number(value, 1, 1_024)? as u32),
            "--backlog" => setting.backlog = number(value, 1, 10_000_000)? as usize,
            "--handshakes" => setting.handshakes_max = number(value, 1, 1_000_000)? as usize,
            "--rtt" => setting.rtt_us = number(value, 0, 10_000)? * 1_000,
            "--spread" => setting.spread_ms = number(value, 0, 600_000)?,
            "--messages" => setting.messages = number(value, 0, 1_000_000)?,
            "--connect-rate" => setting.connect_rate = number(value, 1, 1_000_000)?,
            "--cost" => set_cost(setting, value)?,
            "--horizon" => self.horizon_s = Some(number(value, 1, 1_800)?),
            "--seed" => setting.seed = number(value, 0, u64::MAX)?,
            "--jobs" => self.jobs = number(value, 1, 256)? as usize,
            _ => return Err(format!("{word:?} is not an option")),
        }
        Ok(())
    }
}

/// What no single option can be blamed for.
fn check(setting: &Setting) -> Result<(), String> {
    let costs = setting.costs;
    if costs.client() == 0 {
        return Err(
            "--cost: accept, hello, finish and connect are all 0: nothing to simulate".into()
        );
    }
    let busy_percent = setting.messages * costs.message * 100 / SECOND;
    if busy_percent >= MESSAGES_PERCENT_MAX {
        return Err(format!(
            "--messages: those of connected clients alone take {busy_percent} % of each core; \
             at most {MESSAGES_PERCENT_MAX} leave room for a storm"
        ));
    }
    if setting.horizon_s > HORIZON_S_MAX {
        return Err(format!(
            "this storm is simulated for {} s, and the clock ends after {HORIZON_S_MAX}; ask for fewer \
             --clients, more --cores or a shorter --horizon",
            setting.horizon_s
        ));
    }
    Ok(())
}

fn set_cost(setting: &mut Setting, value: &str) -> Result<(), String> {
    let wrong = || format!("{value:?} is not NAME=MICROSECONDS");
    let (name, cost_us) = value.split_once('=').ok_or_else(wrong)?;
    let costs = &mut setting.costs;
    let place = match name {
        "refuse" => &mut costs.refuse,
        "accept" => &mut costs.accept,
        "hello" => &mut costs.hello,
        "finish" => &mut costs.finish,
        "connect" => &mut costs.connect,
        "gone" => &mut costs.gone,
        "message" => &mut costs.message,
        "turn" => &mut costs.turn,
        _ => return Err(wrong()),
    };
    let cost_us: f64 = cost_us.parse().map_err(|_| wrong())?;
    if !(0.0..=1e6).contains(&cost_us) {
        return Err(wrong());
    }
    *place = (cost_us * US as f64) as u64;
    Ok(())
}

fn number(value: &str, low: u64, high: u64) -> Result<u64, String> {
    let number = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
    if (low..=high).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{value} is not between {low} and {high}"))
    }
}

fn list(value: &str, low: u64, high: u64) -> Result<Vec<u64>, String> {
    value.split(',').map(|value| number(value, low, high)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &str) -> Result<Asked, String> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_understood() {
        let it = asked("--clients 10,20 --patience 5,30 --policy fifo --cost hello=85.5 --json");
        let it = it.expect("they are good");
        assert_eq!((it.clients.len(), it.patience_s.len(), it.json), (2, 2, true));
        assert_eq!((it.policies.as_slice(), it.setting.costs.hello), (&[Policy::Fifo][..], 85_500));
    }

    #[test]
    fn what_makes_no_sense_together_is_told() {
        for words in [
            "--cost accept=0 --cost hello=0 --cost finish=0 --cost connect=0",
            "--messages 333000",
            "--clients 2000000 --cores 1 --cost hello=1000000",
        ] {
            let it = asked(words).expect("each is good");
            assert!(check(&it.storm(it.clients[0], 5, Policy::Broker)).is_err(), "{words}");
        }
        let it = asked("--clients 10000000").expect("good");
        assert_eq!(check(&it.storm(it.clients[0], 30, Policy::Fifo)), Ok(()));
    }

    #[test]
    fn nonsense_is_told() {
        for words in ["--clients", "--clients 0", "--policy best", "--cost 3", "--what 1"] {
            assert!(asked(words).is_err(), "{words}");
        }
    }
}
