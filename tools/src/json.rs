//! The little JSON that the output needs: strings, objects, and payloads that are JSON already.

use std::fmt::Write as _;

use serde_json::value::RawValue;

/// A string with its quotes; control characters, quotes and backslashes escaped.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// An object of ready-made values, on one line or, from this depth on, indented.
pub fn object(members: &[(&str, String)], indent: Option<usize>) -> String {
    let (open, between, close) = match indent {
        Some(depth) => {
            let inner = "\n".to_owned() + &"  ".repeat(depth + 1);
            (inner.clone(), ",".to_owned() + &inner, "\n".to_owned() + &"  ".repeat(depth))
        }
        None => (String::new(), ",".to_owned(), String::new()),
    };
    if members.is_empty() {
        return "{}".to_owned();
    }
    let colon = if indent.is_some() { ": " } else { ":" };
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("{}{colon}{value}", string(name))).collect();
    format!("{{{open}{}{close}}}", members.join(&between))
}

/// JSON text without the white space between its tokens, so that it stays on one line; `None` if
/// it is not JSON. Numbers keep all their digits.
pub fn compacted(text: &[u8]) -> Option<String> {
    let value: &RawValue = serde_json::from_slice(text).ok()?;
    let mut out = String::with_capacity(value.get().len());
    let (mut in_string, mut escaped) = (false, false);
    for char in value.get().chars() {
        if !in_string && char.is_ascii_whitespace() {
            continue;
        }
        if char == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && char == '\\' && !escaped;
        out.push(char);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(string("a\"\\\n\u{1}\u{85}é"), r#""a\"\\\n\u0001\u0085é""#);
    }

    #[test]
    fn json_loses_its_white_space_and_nothing_else() {
        let text = b" {\n\"a b\" : [1, 2.50, 12345678901234567890.1], \"q\\\" \\\\\" : \" x \"} ";
        let expected = r#"{"a b":[1,2.50,12345678901234567890.1],"q\" \\":" x "}"#;
        assert_eq!(compacted(text).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_not_json_is_not_compacted() {
        for text in [&b"abc"[..], b"", b"{", b"1 2", b"\"\xff\""] {
            assert_eq!(compacted(text), None, "{text:?}");
        }
    }
}
