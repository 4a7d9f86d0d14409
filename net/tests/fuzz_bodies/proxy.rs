//! First bytes of connections behind a proxy, against what every header has to keep.

use petrel_net::proxy::{HEADER_BYTES_MAX, parse};

/// Any bytes. What they mean must not depend on what follows a header, nor on how the bytes come.
pub fn proxy(input: &[u8]) {
    let whole = parse(input);
    if let Ok(Some((header, length))) = &whole {
        assert!(*length <= input.len() && *length <= HEADER_BYTES_MAX);
        assert_eq!(parse(&input[..*length]), whole, "it ends where it says");
        for name in [&header.user, &header.authority].into_iter().flatten() {
            assert!(!name.is_empty() && !name.as_str().chars().any(char::is_control));
        }
    }
    let ends_at = whole.as_ref().map_or(None, |parsed| parsed.as_ref().map(|it| it.1));
    for cut in 0..input.len().min(HEADER_BYTES_MAX + 1) {
        let part = parse(&input[..cut]);
        match ends_at {
            Some(length) if cut < length => assert_eq!(part, Ok(None)),
            Some(_) => assert_eq!(part, whole),
            // A fault is seen sooner or later, and then for good.
            None => assert!(part == Ok(None) || part.is_err()),
        }
    }
    assert!(whole != Ok(None) || input.len() < HEADER_BYTES_MAX, "nobody waits for more");
}
