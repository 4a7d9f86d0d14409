//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;

/// What `--help` says.
pub const HELP: &str = "\
petrel-micro gate [--only counters|instructions] [--baselines DIR] [--results DIR] [--write]

  Measures, compares with the baselines and prints a table. Exit code 1 on a regression.
  --only GROUP      one of the groups; both without it
  --baselines DIR   where the baselines are (bench/baselines)
  --results DIR     where the results go (bench/results)
  --write           writes the baselines anew instead of comparing
  --plant NAME      builds a regression in, if the program can: allocation, bytes

petrel-micro compare GROUP [--baselines DIR] [--results DIR] [--write]

  Compares GROUP.json of the results, which something else has left there.

petrel-micro case NAME

  Runs one case of the group `instructions`, which callgrind counts.

petrel-micro profile NAME

  Where the instructions of a case go, by function, for each of its rounds.

petrel-micro retained [--topics N]

  Memory of N retained messages (1,000,000), and what questions to them cost. Instructions are
  counted for up to 1,000,000 of them, which takes some minutes.

petrel-micro retained-case NAME N

  Runs one of these questions, which callgrind counts.

petrel-micro rules [--rules N]

  How long it takes to read a file of N rules (100,000), and to ask what somebody may do.

petrel-micro match [--filters N]

  What filters take in memory and topics cost: with 1,000, 100,000 and 1,000,000 filters, or with N;
  and against hostile sets of filters. Instructions are counted for up to 1,000,000 of them.

petrel-micro match-case SET N PART

  Runs one part of a match, which callgrind counts.
";

/// What is asked for.
pub enum Command {
    /// The deterministic figures.
    Gate(Gate),
    /// The figures of a group that something else has measured.
    Compare(String, Gate),
    /// One case, to be run under callgrind.
    Case(String),
    /// Where the instructions of a case go.
    Profile(String),
    /// A report on so many retained messages.
    Retained(u32),
    /// One question to so many, to be run under callgrind.
    RetainedCase(String, u32),
    /// A report on so many rules.
    Rules(u32),
    /// A report on matching, with each of these numbers of filters.
    Match(Vec<u32>),
    /// One part of a match over one set of so many filters, to be run under callgrind.
    MatchCase(String, u32, String),
    /// The usage.
    Help,
}

/// Options of `gate`.
pub struct Gate {
    /// Only this group.
    pub only: Option<String>,
    /// Where the baselines are.
    pub baselines: PathBuf,
    /// Where the results go.
    pub results: PathBuf,
    /// The baselines are written anew.
    pub write: bool,
    /// A regression to build in.
    pub plant: Option<String>,
}

impl Default for Gate {
    fn default() -> Self {
        let (baselines, results) = ("bench/baselines".into(), "bench/results".into());
        Self { only: None, baselines, results, write: false, plant: None }
    }
}

/// Reads the command line.
///
/// # Errors
/// It asks for something that there is not.
pub fn parse() -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_env();
    let first = parser.next().map_err(|error| error.to_string())?;
    match first {
        Some(Value(word)) if word == "gate" => gate(parser).map(Command::Gate),
        Some(Value(word)) if word == "compare" => {
            let group = self::word(&mut parser)?;
            Ok(Command::Compare(group, gate(parser)?))
        }
        Some(Value(word)) if word == "case" => self::word(&mut parser).map(Command::Case),
        Some(Value(word)) if word == "profile" => self::word(&mut parser).map(Command::Profile),
        Some(Value(word)) if word == "retained" => retained(parser).map(Command::Retained),
        Some(Value(word)) if word == "retained-case" => {
            let name = self::word(&mut parser)?;
            Ok(Command::RetainedCase(name, number(&mut parser)?))
        }
        Some(Value(word)) if word == "rules" => rules(parser).map(Command::Rules),
        Some(Value(word)) if word == "match" => matching(parser).map(Command::Match),
        Some(Value(word)) if word == "match-case" => {
            let set = self::word(&mut parser)?;
            let filters = number(&mut parser)?;
            Ok(Command::MatchCase(set, filters, self::word(&mut parser)?))
        }
        None | Some(Long("help") | Short('h')) => Ok(Command::Help),
        Some(other) => Err(other.unexpected().to_string()),
    }
}

fn gate(mut parser: lexopt::Parser) -> Result<Gate, String> {
    let mut gate = Gate::default();
    let fail = |error: lexopt::Error| error.to_string();
    while let Some(arg) = parser.next().map_err(fail)? {
        match arg {
            Long("only") => gate.only = Some(group(&word(&mut parser)?)?),
            Long("baselines") => gate.baselines = parser.value().map_err(fail)?.into(),
            Long("results") => gate.results = parser.value().map_err(fail)?.into(),
            Long("write") => gate.write = true,
            Long("plant") => gate.plant = Some(word(&mut parser)?),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(gate)
}

fn retained(mut parser: lexopt::Parser) -> Result<u32, String> {
    let mut topics = 1_000_000;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Long("topics") => topics = number(&mut parser)?,
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(topics)
}

fn rules(mut parser: lexopt::Parser) -> Result<u32, String> {
    let mut rules = 100_000;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Long("rules") => rules = number(&mut parser)?,
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(rules)
}

fn matching(mut parser: lexopt::Parser) -> Result<Vec<u32>, String> {
    let mut sizes = vec![1_000, 100_000, 1_000_000];
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Long("filters") => sizes = vec![number(&mut parser)?],
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(sizes)
}

fn number(parser: &mut lexopt::Parser) -> Result<u32, String> {
    let word = word(parser)?;
    match word.parse() {
        Ok(number) if number >= 1000 => Ok(number),
        _ => Err(format!("a number of topics, filters or rules is 1000 or more, not {word:?}")),
    }
}

fn group(name: &str) -> Result<String, String> {
    match name {
        "counters" | "instructions" => Ok(name.to_owned()),
        _ => Err(format!("--only is counters or instructions, not {name}")),
    }
}

fn word(parser: &mut lexopt::Parser) -> Result<String, String> {
    parser.value().and_then(|value| value.string()).map_err(|error| error.to_string())
}
