//! Figures, and the files that hold them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// One measured figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured; smaller is better.
    pub value: f64,
    /// In which unit, in one word or two.
    pub unit: String,
    /// How far above the baseline it may lie, in percent; `None` if it is reported only.
    pub tolerance_percent: Option<f64>,
}

impl Figure {
    /// A figure that may not grow at all.
    pub fn exact(value: f64, unit: &str) -> Self {
        Self::within(value, unit, 0.0)
    }

    /// A figure that may lie so far above its baseline.
    pub fn within(value: f64, unit: &str, tolerance_percent: f64) -> Self {
        // What a file holds: three digits behind the point.
        let value = (value * 1000.0).round() / 1000.0;
        Self { value, unit: unit.into(), tolerance_percent: Some(tolerance_percent) }
    }
}

/// What decides whether figures of two runs can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Built {
    /// The compiler's own words about its version.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// The CPU features by which cryptography chooses its code.
    pub cpu: String,
}

impl Built {
    /// As this program was built, and where it runs.
    pub fn here() -> Self {
        Self {
            rustc: env!("MICRO_RUSTC").into(),
            target: env!("MICRO_TARGET").into(),
            cpu: cpu_features(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> String {
    let features = [
        ("aes", std::arch::is_x86_feature_detected!("aes")),
        ("pclmulqdq", std::arch::is_x86_feature_detected!("pclmulqdq")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
    ];
    let present = features.iter().filter(|(_, present)| *present);
    present.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> String {
    String::new()
}

/// The figures of one run, or of a baseline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// Where they come from.
    pub built: Built,
    /// By name.
    pub by_name: BTreeMap<String, Figure>,
}

impl Figures {
    /// No figures yet, of this program.
    pub fn here() -> Self {
        Self { built: Built::here(), by_name: BTreeMap::new() }
    }

    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, figure: Figure) {
        self.by_name.insert(name.into(), figure);
    }

    /// Reads a file as [`Figures::write`] leaves it.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::parse(&text).map_err(|error| format!("{shown}: {error}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let whole: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let said = |key: &str| whole["built"][key].as_str().unwrap_or_default().to_owned();
        let built = Built { rustc: said("rustc"), target: said("target"), cpu: said("cpu") };
        let none = Map::new();
        let mut figures = Self { built, by_name: BTreeMap::new() };
        for (name, figure) in whole["figures"].as_object().unwrap_or(&none) {
            let value = figure["value"].as_f64().ok_or_else(|| format!("{name} has no value"))?;
            let unit = figure["unit"].as_str().unwrap_or_default().to_owned();
            let tolerance_percent = figure["tolerance_percent"].as_f64();
            figures.add(name, Figure { value, unit, tolerance_percent });
        }
        Ok(figures)
    }

    /// Writes them as JSON, one figure to a line, so that a change of one is a change of one line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = self.text();
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn text(&self) -> String {
        let Built { rustc, target, cpu } = &self.built;
        let built = json!({ "cpu": cpu, "rustc": rustc, "target": target });
        let lines = self.by_name.iter().map(|(name, figure)| {
            let Figure { value, unit, tolerance_percent } = figure;
            let shown = json!({
                "value": value, "unit": unit, "tolerance_percent": tolerance_percent
            });
            format!("    {}: {shown}", Value::from(name.as_str()))
        });
        let lines = lines.collect::<Vec<_>>().join(",\n");
        format!("{{\n  \"built\": {built},\n  \"figures\": {{\n{lines}\n  }}\n}}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_out_of_a_file_as_they_went_in() {
        let mut figures = Figures::here();
        figures.add("a \"quoted\" one", Figure::exact(3.0, "allocations"));
        figures.add("b", Figure::within(0.123_456, "ratio", 12.5));
        figures.add("c", Figure { value: 7.0, unit: "us".into(), tolerance_percent: None });
        let back = Figures::parse(&figures.text()).expect("our own file");
        assert_eq!(back, figures);
        assert_eq!(back.by_name["b"].value, 0.123);
    }

    #[test]
    fn a_file_without_a_value_is_refused() {
        assert!(Figures::parse(r#"{"figures": {"a": {"unit": "x"}}}"#).is_err());
        assert!(Figures::parse("").is_err());
    }
}
