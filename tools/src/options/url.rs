//! `-L`: everything about a connection in one URL.

use super::broker::Link;

/// The parts of `scheme://[user[:password]@]host[:port][/path]`, percent-decoded where that is
/// usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub tls: bool,
    pub link: Link,
    pub username: Option<String>,
    pub password: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    /// The topic, for the schemes without WebSocket.
    pub topic: Option<String>,
}

/// Reads a URL.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(url: &str) -> Result<Url, String> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or("a URL starts with mqtt://, mqtts://, ws:// or wss://".to_owned())?;
    let (websocket, tls) = match scheme {
        "mqtt" => (false, false),
        "mqtts" => (false, true),
        "ws" => (true, false),
        "wss" => (true, true),
        other => {
            return Err(format!("{other}:// is not one of mqtt://, mqtts://, ws:// and wss://"));
        }
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        Some((name, "")) => (Some(percent_decoded(name)?), None),
        Some((name, password)) => (Some(percent_decoded(name)?), Some(percent_decoded(password)?)),
        None => (None, None),
    };
    let (host, port) = host_and_port(place)?;
    let topic = path.strip_prefix('/').filter(|topic| !websocket && !topic.is_empty());
    Ok(Url {
        tls,
        link: match (websocket, path) {
            (false, _) => Link::Tcp,
            (true, "" | "/") => Link::WebSocket { path: Link::DEFAULT_PATH.to_owned() },
            (true, path) => Link::WebSocket { path: path.to_owned() },
        },
        username,
        password,
        host,
        port,
        topic: topic.map(str::to_owned),
    })
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or("an IPv6 address ends with a bracket".to_owned())?;
            (host, after.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("the URL names no host".to_owned());
    }
    let port = match port {
        Some(port) => Some(port.parse().map_err(|_| format!("{port:?} is not a port"))?),
        None => None,
    };
    Ok((host.to_owned(), port))
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(value.ok_or(format!("{text:?} has a % without two hexadecimal digits"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8 once decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_found() {
        let url = parse("mqtts://me:p%40ss%2f@[::1]:9/a/b/%23").expect("a good URL");
        assert_eq!((url.tls, &url.link), (true, &Link::Tcp));
        assert_eq!((url.username.as_deref(), url.password.as_deref()), (Some("me"), Some("p@ss/")));
        assert_eq!((url.host.as_str(), url.port), ("::1", Some(9)));
        assert_eq!(url.topic.as_deref(), Some("a/b/%23"));
    }

    #[test]
    fn the_path_of_a_websocket_url_is_its_path() {
        let path = |url| match parse(url).expect(url).link {
            Link::WebSocket { path } => path,
            Link::Tcp => panic!("{url} is WebSocket"),
        };
        assert_eq!(path("ws://host"), "/mqtt");
        assert_eq!(path("wss://host:1/other"), "/other");
        assert_eq!(parse("ws://host/mqtt").expect("good").topic, None);
    }

    #[test]
    fn bad_urls_are_refused_in_words() {
        for url in
            ["host", "http://host", "mqtt://", "mqtt://host:x", "mqtt://[::1", "mqtt://%zz@h"]
        {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
