//! Measures, compares, says what it found.

use crate::compare::{Verdict, basis, compare};
use crate::figure::{Built, Figures};
use crate::options::Gate;
use crate::{callgrind, cases, counters};

/// Runs the groups that are asked for. False on a regression.
///
/// # Errors
/// Something cannot be measured, or a file not read or written.
pub fn run(gate: &Gate) -> Result<bool, String> {
    plant(gate.plant.as_deref())?;
    let wanted = |group: &str| gate.only.as_deref().is_none_or(|only| only == group);
    let mut green = true;
    if wanted("counters") {
        let figures = counters::count()?;
        green &= settle(gate, "counters", &figures)?;
    }
    if wanted("instructions") {
        match callgrind::version() {
            Some(version) => {
                println!("instructions: by {version}");
                green &= settle(gate, "instructions", &cases::count()?)?;
            }
            None => println!("instructions: not counted and not gated, valgrind is not installed"),
        }
    }
    Ok(green)
}

/// Compares what something else has measured here. False on a regression.
///
/// # Errors
/// A file cannot be read or written.
pub fn compare_only(group: &str, gate: &Gate) -> Result<bool, String> {
    let mut figures = Figures::read(&gate.results.join(format!("{group}.json")))?;
    figures.built = Built::here();
    settle(gate, group, &figures)
}

/// Keeps the figures of a group and compares them with their baseline, or makes them the baseline.
fn settle(gate: &Gate, group: &str, figures: &Figures) -> Result<bool, String> {
    let file = format!("{group}.json");
    figures.write(&gate.results.join(&file))?;
    let baseline = gate.baselines.join(&file);
    if gate.write {
        figures.write(&baseline)?;
        println!("{group}: {} figures are the baseline now", figures.by_name.len());
        return Ok(true);
    }
    let baseline = Figures::read(&baseline)
        .map_err(|error| format!("{error}\n`make bench-baseline` writes the baselines"))?;
    // Cryptography has code for each kind of CPU.
    let by_name = |name: &str| basis(&baseline.built, &figures.built, name.starts_with("tls"));
    let found = compare(&baseline, figures, by_name);
    println!("{}", found.table());
    let red = found.lines.iter().filter(|line| line.verdict.is_red()).count();
    let better = found.count(Verdict::Better);
    println!("{group}: {} figures, {red} red, {better} better", found.lines.len());
    if baseline.built != figures.built {
        println!("{group}: baseline of {:?}, this is {:?}", baseline.built, figures.built);
    }
    if better > 0 {
        println!("{group}: `make bench-baseline` makes what is better the new bound");
    }
    println!();
    Ok(!found.is_red())
}

/// Builds a regression into the shards of this thread.
#[cfg(feature = "planted")]
fn plant(name: Option<&str>) -> Result<(), String> {
    use petrel_shard::sabotage::{Sabotage, set};
    set(match name {
        None => None,
        Some("allocation") => Some(Sabotage::AllocationPerMessage),
        Some("bytes") => Some(Sabotage::BytesPerConnection),
        Some(other) => return Err(format!("there is no regression {other:?}")),
    });
    Ok(())
}

/// Builds nothing in: this program cannot.
#[cfg(not(feature = "planted"))]
fn plant(name: Option<&str>) -> Result<(), String> {
    match name {
        None => Ok(()),
        Some(_) => Err("built without the feature `planted`".into()),
    }
}
