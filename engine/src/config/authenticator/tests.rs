//! Authenticators that are asked elsewhere: what may stand in the file. Nobody is asked.

use super::super::Config;

const END: &str = "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:0\"\n\
                   authentication = [\"it\"]\n";

/// What is said of an authenticator with these lines, in a folder with a secret in it.
fn parse(lines: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("secret", "hunter2\n");
    write("two", "hunter2\nhunter3\n");
    write("no.pem", "hunter2\n");
    let text = format!("[[authenticator]]\nname = \"it\"\n{}\n{END}", lines.replace("; ", "\n"));
    Config::parse(&text, folder.path()).map_err(|problems| {
        let told = problems.into_iter().map(|it| format!("{}: {}\n", it.line, it.text));
        told.collect()
    })
}

const HTTP: &str = "kind = \"http\"; url = \"https://a.example/x?key=hunter2\"";
const JWKS: &str = "kind = \"jwt\"; jwks = \"https://a.example/keys\"";
const LDAP: &str = "kind = \"ldap\"; url = \"ldaps://a.example\"";
const POSTGRESQL: &str = "kind = \"postgresql\"; url = \"postgresql://me@a.example/db\"";

#[test]
#[cfg(all(feature = "http", feature = "ldap", feature = "postgresql"))]
fn each_kind_is_accepted_and_shows_no_secret() {
    for (lines, shown) in [
        (
            format!("{HTTP}; header_files = [\"A: secret\"]; headers = [\"B: hunter2\"]"),
            "it, HTTP https://a.example, on failure refuse",
        ),
        (HTTP.replace("https", "http") + "; plaintext = true", "it, HTTP http://a.example,"),
        (
            "kind = \"http\"; url = \"http://127.0.0.1:80\"".to_owned(),
            "it, HTTP http://127.0.0.1:80,",
        ),
        (
            format!("{JWKS}; on_failure = \"next\"; refresh_s = 5; issuer = \"us\""),
            "it, tokens, keys from https://a.example, on failure next",
        ),
        (
            format!("{LDAP}; bind_dn = \"uid=%u,dc=x\"; on_failure = \"allow\""),
            "it, LDAP ldaps://a.example, on failure allow",
        ),
        (
            format!(
                "{LDAP}; search_base = \"dc=x\"; search_filter = \"(uid=%u)\"; \
                 search_dn = \"cn=p\"; password_file = \"secret\"; groups_attribute = \"memberOf\""
            ),
            "it, LDAP",
        ),
        (
            format!(
                "{POSTGRESQL}; query = \"SELECT h FROM u WHERE n = $1\"; password_file = \"secret\""
            ),
            "it, PostgreSQL postgresql://me@a.example,",
        ),
    ] {
        let config = parse(&lines).unwrap_or_else(|problems| panic!("{lines}\n{problems}"));
        let summary = config.summary().to_string();
        assert!(summary.contains(shown), "{summary}");
        assert!(!summary.contains("hunter2"), "{summary}");
    }
}

#[test]
#[cfg(all(feature = "http", feature = "ldap", feature = "postgresql"))]
fn what_is_wrong_with_one_is_said() {
    const QUERY: &str = "query = \"SELECT h FROM u WHERE n = $1\"";
    for (lines, why) in [
        ("kind = \"http\"".to_owned(), "1: this [[authenticator]] has no `url`"),
        ("kind = \"jwt\"".to_owned(), "1: this [[authenticator]] has no `file` and no `jwks`"),
        (LDAP.to_owned(), "has no `bind_dn`, and no `search_base` with `search_filter`"),
        (format!("{LDAP}; search_base = \"dc=x\""), "has no `search_filter`"),
        (POSTGRESQL.to_owned(), "has no `query`"),
        (format!("{HTTP}; file = \"secret\""), "5: `file` has no use for kind = \"http\""),
        (format!("{HTTP}; query = \"x\""), "`query` has no use for kind = \"http\""),
        (format!("{JWKS}; file = \"secret\""), "`file` has no use for kind = \"jwt\" with `jwks`"),
        (format!("{JWKS}; breaker_failures = 2"), "has no use for kind = \"jwt\" with `jwks`"),
        (format!("{JWKS}; on_failure = \"allow\""), "cannot be \"allow\" for jwt"),
        (HTTP.replace("https", "http"), "4: the connection would not be encrypted"),
        (format!("{HTTP}; headers = [\"B\"]"), "5: an element of `headers` has no colon"),
        (format!("{HTTP}; header_files = [\"A: none\"]"), "5: cannot read"),
        (format!("{HTTP}; header_files = [\"A: two\"]"), "must hold one line, the secret"),
        (format!("{HTTP}; ca = \"none\""), "5: cannot read"),
        (format!("{HTTP}; ca = \"no.pem\""), "it holds no certificate in PEM"),
        (format!("{HTTP}; on_failure = \"ignore\""), "\"refuse\", \"next\" or \"allow\""),
        (format!("{HTTP}; timeout_ms = 0"), "from 1 to 60000"),
        (format!("{HTTP}; in_flight_maximum = 5000"), "from 1 to 4096"),
        (LDAP.replace("ldaps", "ldap") + "; bind_dn = \"uid=%u\"", "not encrypted"),
        (format!("{LDAP}; bind_dn = \"uid=u\""), "`bind_dn` has no %u"),
        (format!("{LDAP}; bind_dn = \"uid=%u\"; starttls = true"), "`starttls` is for ldap://"),
        (
            format!(
                "{LDAP}; bind_dn = \"uid=%u\"; search_base = \"x\"; search_filter = \"(u=%u)\""
            ),
            "are two ways to find an entry",
        ),
        (
            format!("{LDAP}; search_base = \"x\"; search_filter = \"((%u\""),
            "`search_filter` is no filter",
        ),
        (
            format!(
                "{LDAP}; search_base = \"x\"; search_filter = \"(u=%u)\"; search_dn = \"cn=p\""
            ),
            "go together",
        ),
        (format!("{POSTGRESQL}; query = \"SELECT 1\""), "the query has no $1"),
        (format!("{POSTGRESQL}; {QUERY}; tls = false"), "would not be encrypted"),
        (
            format!("{}; {QUERY}", POSTGRESQL.replace("me@", "me:hunter2@")),
            "the URL has a password in it",
        ),
        (format!("{}; {QUERY}", POSTGRESQL.replace("me@", "")), "has no host or no user"),
    ] {
        let problems = parse(&lines).expect_err(&lines);
        assert!(problems.contains(why), "{lines}\n{problems}");
        assert!(!problems.contains("hunter"), "{problems}");
    }
}

#[test]
#[cfg(not(any(feature = "http", feature = "ldap", feature = "postgresql")))]
fn a_kind_that_was_left_out_is_named() {
    for (lines, what) in [
        (HTTP.to_owned(), "kind = \"http\" is not in this build of Petrel"),
        (JWKS.to_owned(), "`jwks` is not in this build of Petrel"),
        (format!("{LDAP}; bind_dn = \"uid=%u\""), "kind = \"ldap\" is not in this build"),
        (format!("{POSTGRESQL}; query = \"$1\""), "the cargo feature `postgresql`"),
    ] {
        let problems = parse(&lines).expect_err(&lines);
        assert!(problems.contains(what), "{lines}\n{problems}");
    }
}
