//! Topic filters and names against a second, obvious implementation.

use bytes::Bytes;
use petrel_proto::{Text, TopicFilter, TopicName};

/// The bytes up to the first zero are a filter, those after it a name.
pub fn topic_filter(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let filter_text = parts.next().and_then(text);
    let name_text = parts.next().and_then(text);
    let filter = filter_text.and_then(|text| {
        let valid = is_filter(text.as_str());
        let filter = TopicFilter::new(text.clone());
        assert_eq!(filter.is_ok(), valid, "{text:?}");
        filter.ok()
    });
    let name = name_text.and_then(|text| {
        let valid = !text.is_empty() && !text.as_str().contains(['+', '#']);
        let name = TopicName::new(text.clone());
        assert_eq!(name.is_ok(), valid, "{text:?}");
        name.ok()
    });
    if let Some(filter) = &filter {
        check_parts(filter);
    }
    if let (Some(filter), Some(name)) = (&filter, &name) {
        check_match(filter, name);
    }
}

fn text(bytes: &[u8]) -> Option<Text> {
    let text = Text::new(Bytes::copy_from_slice(bytes));
    let valid = bytes.len() <= 65_535 && std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0);
    assert_eq!(text.is_ok(), valid);
    text.ok()
}

fn is_filter(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix("$share/") {
        return rest.split_once('/').is_some_and(|(share, filter)| {
            !share.is_empty()
                && !share.contains(['+', '#'])
                && !filter.starts_with("$share/")
                && is_plain_filter(filter)
        });
    }
    is_plain_filter(text)
}

fn is_plain_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    !text.is_empty()
        && levels.iter().enumerate().all(|(at, level)| match *level {
            "#" => at + 1 == levels.len(),
            "+" => true,
            other => !other.contains(['+', '#']),
        })
}

fn check_parts(filter: &TopicFilter) {
    assert_eq!(filter.levels().collect::<Vec<_>>().join(&b'/'), filter.as_bytes());
    assert_eq!(filter.has_wildcard(), filter.as_bytes().iter().any(|b| matches!(b, b'+' | b'#')));
    let shared = filter.shared();
    assert_eq!(shared.is_some(), filter.is_shared());
    if let Some(shared) = shared {
        let (share, inner) = (shared.share.text().as_str(), shared.filter.text().as_str());
        assert_eq!(format!("$share/{share}/{inner}"), filter.text().as_str());
        assert_eq!(TopicFilter::new(shared.filter.text().clone()), Ok(shared.filter.clone()));
        assert!(!shared.filter.is_shared());
    }
}

fn check_match(filter: &TopicFilter, name: &TopicName) {
    let expected = {
        let levels: Vec<&str> = filter.text().as_str().split('/').collect();
        let names: Vec<&str> = name.text().as_str().split('/').collect();
        let hidden = names[0].starts_with('$') && matches!(levels[0], "+" | "#");
        !hidden && matches(&levels, &names)
    };
    assert_eq!(filter.matches(name), expected, "{filter:?} {name:?}");
    if !filter.has_wildcard() {
        assert_eq!(expected, filter.as_bytes() == name.as_bytes());
    }
}

fn matches(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, name @ ..]) => matches(filter, name),
        ([level, filter @ ..], [same, name @ ..]) if level == same => matches(filter, name),
        _ => false,
    }
}
