//! A run against its baseline: which figures are worse, and a table that says so.

use std::fmt::Write as _;

use crate::figure::{Built, Figure, Figures};

/// What another compiler may change in figures that are exact with the same one, in percent.
const OTHER_COMPILER_PERCENT: f64 = 10.0;

/// What there is to say about one figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within its tolerance.
    Same,
    /// Below its baseline by more than its tolerance: the baseline can be tightened.
    Better,
    /// Above its baseline by more than its tolerance.
    Worse,
    /// Measured, and not in the baseline.
    New,
    /// In the baseline, and not measured.
    Gone,
    /// Not gated, or not here.
    Reported,
}

impl Verdict {
    /// Whether it turns the gate red.
    pub const fn is_red(self) -> bool {
        matches!(self, Self::Worse | Self::New | Self::Gone)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Same => "ok",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::New => "NEW, no baseline",
            Self::Gone => "GONE",
            Self::Reported => "reported only",
        }
    }
}

/// How two runs may be compared, by where they come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Basis {
    /// Built alike: the tolerances hold as they are.
    Alike,
    /// Another compiler: no tolerance is less than this, in percent.
    Wider(f64),
    /// Another target or other CPU features: nothing is gated.
    Apart,
}

/// How a run may be compared with its baseline; `by_cpu` if its figures depend on CPU features.
pub fn basis(baseline: &Built, run: &Built, by_cpu: bool) -> Basis {
    if baseline.target != run.target || (by_cpu && baseline.cpu != run.cpu) {
        Basis::Apart
    } else if baseline.rustc != run.rustc {
        Basis::Wider(OTHER_COMPILER_PERCENT)
    } else {
        Basis::Alike
    }
}

/// One line of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The figure's name.
    pub name: String,
    /// What the baseline says.
    pub before: Option<Figure>,
    /// What was measured.
    pub now: Option<Figure>,
    /// What that means.
    pub verdict: Verdict,
}

/// A whole comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// One per figure of either side, by name.
    pub lines: Vec<Line>,
}

/// Compares a run with its baseline. `basis_of` says for a figure by its name on what basis.
pub fn compare(baseline: &Figures, run: &Figures, basis_of: impl Fn(&str) -> Basis) -> Comparison {
    let mut names: Vec<&String> = baseline.by_name.keys().chain(run.by_name.keys()).collect();
    names.sort();
    names.dedup();
    let lines = names.into_iter().map(|name| {
        let (before, now) = (baseline.by_name.get(name), run.by_name.get(name));
        let verdict = judge(before, now, basis_of(name));
        Line { name: name.clone(), before: before.cloned(), now: now.cloned(), verdict }
    });
    Comparison { lines: lines.collect() }
}

fn judge(before: Option<&Figure>, now: Option<&Figure>, basis: Basis) -> Verdict {
    let Some(now) = now else { return Verdict::Gone };
    let Some(tolerance) = now.tolerance_percent else { return Verdict::Reported };
    let Some(before) = before else { return Verdict::New };
    let tolerance = match basis {
        Basis::Alike => tolerance,
        Basis::Wider(least) => tolerance.max(least),
        Basis::Apart => return Verdict::Reported,
    };
    let slack = before.value.abs() * tolerance / 100.0;
    if now.value > before.value + slack {
        Verdict::Worse
    } else if now.value < before.value - slack {
        Verdict::Better
    } else {
        Verdict::Same
    }
}

impl Comparison {
    /// Whether anything turns the gate red.
    pub fn is_red(&self) -> bool {
        self.lines.iter().any(|line| line.verdict.is_red())
    }

    /// How many figures have a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().filter(|line| line.verdict == verdict).count()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let wide = self.lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(6);
        let mut table = format!(
            "{:wide$} {:>11} {:>11} {:>8} {:>8}  {:18} unit\n",
            "figure", "baseline", "now", "change", "allowed", "verdict"
        );
        for Line { name, before, now, verdict } in &self.lines {
            let shown = |figure: &Option<Figure>| match figure {
                Some(figure) => number(figure.value),
                None => "-".into(),
            };
            let change = match (before, now) {
                (Some(before), Some(now)) if before.value != 0.0 => {
                    format!("{:+.2} %", (now.value / before.value - 1.0) * 100.0)
                }
                _ => "-".into(),
            };
            let allowed = now.as_ref().and_then(|figure| figure.tolerance_percent);
            let allowed = allowed.map_or("-".into(), |percent| format!("{percent} %"));
            let either = now.as_ref().or(before.as_ref());
            let unit = either.map_or("", |figure| figure.unit.as_str());
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "{name:wide$} {:>11} {:>11} {change:>8} {allowed:>8}  {:18} {unit}",
                shown(before),
                shown(now),
                verdict.word()
            );
        }
        table
    }
}

/// A number with as many digits behind the point as it needs, three at most.
fn number(value: f64) -> String {
    let shown = format!("{value:.3}");
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(values: &[(&str, f64, f64)]) -> Figures {
        let mut figures = Figures::default();
        for (name, value, tolerance) in values {
            figures.add(*name, Figure::within(*value, "x", *tolerance));
        }
        figures
    }

    fn verdict(before: f64, now: f64, tolerance: f64, basis: Basis) -> Verdict {
        let (before, now) = (figures(&[("a", before, 0.0)]), figures(&[("a", now, tolerance)]));
        compare(&before, &now, |_| basis).lines[0].verdict
    }

    #[test]
    fn an_exact_figure_is_worse_by_the_least_that_is_more() {
        assert_eq!(verdict(3.0, 3.0, 0.0, Basis::Alike), Verdict::Same);
        assert_eq!(verdict(3.0, 3.001, 0.0, Basis::Alike), Verdict::Worse);
        assert_eq!(verdict(3.0, 2.999, 0.0, Basis::Alike), Verdict::Better);
        assert_eq!(verdict(0.0, 0.001, 0.0, Basis::Alike), Verdict::Worse);
    }

    #[test]
    fn a_tolerance_is_percent_of_the_baseline() {
        assert_eq!(verdict(1000.0, 1020.0, 2.0, Basis::Alike), Verdict::Same);
        assert_eq!(verdict(1000.0, 1021.0, 2.0, Basis::Alike), Verdict::Worse);
        assert_eq!(verdict(1000.0, 979.0, 2.0, Basis::Alike), Verdict::Better);
    }

    #[test]
    fn another_compiler_widens_and_another_target_reports() {
        assert_eq!(verdict(100.0, 109.0, 2.0, Basis::Wider(10.0)), Verdict::Same);
        assert_eq!(verdict(100.0, 111.0, 2.0, Basis::Wider(10.0)), Verdict::Worse);
        assert_eq!(verdict(100.0, 119.0, 20.0, Basis::Wider(10.0)), Verdict::Same);
        assert_eq!(verdict(100.0, 900.0, 2.0, Basis::Apart), Verdict::Reported);
    }

    #[test]
    fn the_basis_is_read_from_where_the_runs_come_from() {
        let here = Built::here();
        let compiler = Built { rustc: "another".into(), ..here.clone() };
        let target = Built { target: "another".into(), ..here.clone() };
        let cpu = Built { cpu: "another".into(), ..here.clone() };
        assert_eq!(basis(&here, &here, true), Basis::Alike);
        assert!(matches!(basis(&here, &compiler, false), Basis::Wider(_)));
        assert_eq!(basis(&here, &target, false), Basis::Apart);
        assert_eq!(basis(&here, &cpu, false), Basis::Alike);
        assert_eq!(basis(&here, &cpu, true), Basis::Apart);
    }

    #[test]
    fn a_figure_that_only_one_side_has_is_red() {
        let (before, now) = (figures(&[("a", 1.0, 0.0)]), figures(&[("b", 1.0, 0.0)]));
        let found = compare(&before, &now, |_| Basis::Alike);
        assert_eq!(found.lines[0].verdict, Verdict::Gone);
        assert_eq!(found.lines[1].verdict, Verdict::New);
        assert!(found.is_red());
    }

    #[test]
    fn what_is_only_reported_is_never_red() {
        let mut now = figures(&[]);
        now.add("a", Figure { value: 9.0, unit: "us".into(), tolerance_percent: None });
        let found = compare(&figures(&[("a", 1.0, 0.0)]), &now, |_| Basis::Alike);
        assert!(!found.is_red());
        assert!(found.table().contains("reported only"), "{}", found.table());
    }

    #[test]
    fn the_table_names_what_is_worse() {
        let found =
            compare(&figures(&[("a", 10.0, 0.0)]), &figures(&[("a", 11.0, 2.0)]), |_| Basis::Alike);
        let table = found.table();
        let line = table.lines().nth(1).expect("one figure");
        for part in ["a ", "10", "11", "+10.00 %", "2 %", "WORSE", "x"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
