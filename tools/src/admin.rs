//! Commands that speak to the admin interface of a broker.
//!
//! What the broker answers is JSON; `--json` prints it as it came, and without it each command prints what people
//! read. What clients sent is printed only escaped.

pub mod broker;
pub mod clients;
pub mod doors;
pub mod messages;
pub mod reach;
pub mod record;
pub mod token;
pub mod top;
pub mod why;

use serde_json::Value;

/// A text from outside, safe for a terminal.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().flat_map(shown_char).collect(),
        other => other.to_string(),
    }
}

/// A text that is escaped already, as JSON or by the broker, without what a terminal could take for more than letters.
pub fn safe(text: &str) -> String {
    let is_plain = |char: char| char.escape_debug().len() == 1;
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\'' | '\\' => safe.push(char),
            char if is_plain(char) => safe.push(char),
            char => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    safe.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    safe
}

fn shown_char(char: char) -> Box<dyn Iterator<Item = char>> {
    match char {
        '\'' | '"' => Box::new(std::iter::once(char)),
        char => Box::new(char.escape_debug()),
    }
}

/// Rows as columns that stand below each other; numbers to the right.
pub fn columns(heads: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &String| text.parse::<f64>().is_ok() || text == "-";
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([heads[at].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let right: Vec<_> = (0..heads.len())
        .map(|at| !rows.is_empty() && rows.iter().filter_map(|row| row.get(at)).all(is_number))
        .collect();
    let heads: Vec<_> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let cells = row.iter().enumerate().map(|(at, cell)| match right[at] {
            true => format!("{cell:>width$}", width = widths[at]),
            false => format!("{cell:<width$}", width = widths[at]),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A part of a path, in which nothing means anything.
fn part(text: &str) -> String {
    let mut part = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                part.push(char::from(byte));
            }
            byte => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
}

/// What stands behind a path: those of the values that there are.
pub fn query(values: &[(&str, Option<String>)]) -> String {
    let there = values.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let parts: Vec<_> = there.map(|(name, value)| format!("{name}={}", part(value))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// Bytes as people read them.
pub fn bytes(count: &Value) -> String {
    let count = count.as_f64().unwrap_or(0.0);
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1.0).log2() / 10.0).floor().min(4.0) as usize;
    match power {
        0 => format!("{count} B"),
        power => format!("{:.1} {}", count / 1024_f64.powi(power as i32), units[power]),
    }
}

/// A time as people read it.
pub fn time(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_f64() else { return "-".to_owned() };
    match seconds as u64 {
        0..=119 => format!("{seconds:.0} s"),
        120..=7_199 => format!("{:.0} min", seconds / 60.0),
        7_200..=172_799 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_identifier_cannot_steer_a_terminal_or_a_path() {
        assert_eq!(shown(&json!("a\u{1b}[2J\n'")), "a\\u{1b}[2J\\n'");
        assert_eq!(part("a/b?c#ü %"), "a%2Fb%3Fc%23%C3%BC%20%25");
        let asked = query(&[("a", Some("x&y".into())), ("b", None), ("c", Some("1".into()))]);
        assert_eq!((asked.as_str(), query(&[]).as_str()), ("?a=x%26y&c=1", ""));
    }

    #[test]
    fn what_is_json_stays_json_and_steers_no_terminal() {
        let answer =
            json!({ "who": "a\u{1b}[2J\u{9b}1m\u{202e}\u{2028}'\"\\\u{e9}\u{1f600}\u{e0001}" });
        let printed = safe(&answer.to_string());
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), answer);
        assert!(printed.chars().all(|char| char == '"'
            || char == '\\'
            || char == '\''
            || char.escape_debug().len() == 1));
        assert!(printed.contains("\u{e9}\u{1f600}\\udb40\\udc01"), "{printed}");
        assert_eq!(safe("\"\\u{1b}\" is\nnot"), "\"\\u{1b}\" is\\u000anot");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = vec![vec!["a".to_owned(), "10".into()], vec!["bcd".into(), "-".into()]];
        assert_eq!(columns(&["NAME", "N"], &rows), "NAME   N\na     10\nbcd    -\n");
    }

    #[test]
    fn sizes_and_times_are_rounded() {
        assert_eq!(bytes(&json!(17)), "17 B");
        assert_eq!(bytes(&json!(3 << 20)), "3.0 MiB");
        assert_eq!((time(&json!(59.6)), time(&json!(7200))), ("60 s".into(), "2.0 h".into()));
    }
}
