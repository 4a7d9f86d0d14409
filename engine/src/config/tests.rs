//! Files in, configurations or exact messages out.

use super::authenticator::RawAuthenticator;
use super::keys::{
    ACCESS, ADMIN, AUTHENTICATOR, AllLimits, ENGINE, Key, Kind, LIMITS, LISTENER, RawListener,
    STORAGE, SYS, value_text,
};
use super::log::LOG;
use super::*;

/// What is printed for a file `p.toml` with this text.
fn messages(text: &str) -> String {
    match Config::parse(text, Path::new("/etc/petrel")) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => ConfigError::Invalid { file: "p.toml".to_owned(), problems }.to_string(),
    }
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    assert_eq!(messages(text), expected.join("\n"), "for the file\n{text}");
}

#[track_caller]
fn accepted(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/petrel")).unwrap_or_else(|problems| {
        let file = "p.toml".to_owned();
        panic!("{}", ConfigError::Invalid { file, problems })
    })
}

#[test]
fn an_empty_file_is_the_built_in_default() {
    let config = accepted("# nothing\n");
    assert_eq!(config, Config::default());
    let addresses: Vec<_> =
        config.listeners.iter().map(|l| format!("{} {}", l.address, l.path)).collect();
    assert_eq!(addresses, ["127.0.0.1:1883 ", "127.0.0.1:8083 /mqtt"]);
    assert!(config.listeners.iter().all(|l| l.allow_anonymous && l.tls.is_none()));
}

#[test]
fn every_section_is_read() {
    let config = accepted(
        r#"
        [engine]
        shards = 2
        runtime = "epoll"
        [[listener]]
        protocol = "mqtt"
        address = "0.0.0.0:1883"
        allow_anonymous = true
        [[listener]]
        protocol = "ws"
        address = "[::1]:0"
        path = "/a/b"
        [limits]
        receive_maximum = 10
        maximum_packet_size_bytes = 0x1_0000
        session_queue_full = "drop_oldest"
        retain_available = false
        write_timeout_s = 5
        "#,
    );
    assert_eq!((config.shard_count(), config.engine.runtime), (2, RuntimeChoice::Epoll));
    assert_eq!(config.listeners[0].address.to_string(), "0.0.0.0:1883");
    assert_eq!(config.listeners[1].address.to_string(), "[::1]:0");
    assert_eq!(config.listeners[1].path, "/a/b");
    assert!(config.listeners[1].allow_anonymous);
    assert_eq!(config.limits.receive_maximum, 10);
    assert_eq!(config.limits.maximum_packet_size_bytes, 65_536);
    assert_eq!(config.limits.session_queue_full, petrel_shard::config::QueueFull::DropOldest);
    assert!(!config.limits.retain_available);
    assert_eq!(config.network.write_timeout_s, 5);
    assert_eq!(config.network.packet_timeout_s, 30);
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    refused(
        "[limits]\nrecieve_maximum = 5\nkeepalive = 3\n",
        &[
            "p.toml:2:1: unknown key `recieve_maximum` in [limits]; did you mean `receive_maximum`?",
            "p.toml:3:1: unknown key `keepalive` in [limits]; docs/CONFIGURATION.md lists its keys",
        ],
    );
    refused(
        "[engine]\n  workers = 4\n",
        &[
            "p.toml:2:3: unknown key `workers` in [engine]; its keys are shards, runtime, fd_tables, ticket_secret, control, certificate_warn_days",
        ],
    );
}

/// Before the broker starts, and without making it.
#[test]
fn a_secret_of_tickets_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = |value: &str| {
        let text = format!("[engine]\nticket_secret = \"{value}\"\n");
        Config::parse(&text, folder.path())
    };
    for (value, why) in [("", "is no ordinary file"), ("no/where", "No such file")] {
        let problems = said(value).expect_err("it cannot be");
        assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 2, 17));
        assert!(problems[0].text.contains(why), "{}", problems[0].text);
    }
    assert!(said("secret").is_ok());
    assert!(!folder.path().join("secret").exists());
}

#[test]
fn a_key_in_the_wrong_place_is_sent_home() {
    refused(
        "receive_maximum = 5\n[engine]\nwrite_timeout_s = 5\n[limits]\nshards = 2\n",
        &[
            "p.toml:1:1: the key `receive_maximum` stands before any section; it belongs under [limits]",
            "p.toml:3:1: unknown key `write_timeout_s` in [engine]; it belongs under [limits]",
            "p.toml:5:1: unknown key `shards` in [limits]; it belongs under [engine]",
        ],
    );
}

#[test]
fn an_unknown_section_gets_a_suggestion() {
    refused(
        "[limit]\nx = 1\n[[listeners]]\n[cluster]\n",
        &[
            "p.toml:1:2: unknown section `limit`; did you mean [limits]?",
            "p.toml:3:3: unknown section `listeners`; did you mean [[listener]]?",
            "p.toml:4:2: unknown section `cluster`; the file has the sections [engine], [[listener]], [limits], \
             [storage], [access], [[authenticator]], [admin], [log] and [sys]",
        ],
    );
}

#[test]
fn one_bracket_too_few_is_explained() {
    refused(
        "[listener]\nprotocol = \"mqtt\"\n",
        &[
            "p.toml:1:2: a listener is written with two brackets, [[listener]], as there may be several",
        ],
    );
    refused("limits = 3\n", &["p.toml:1:1: `limits` is a section, written [limits], not a value"]);
}

#[test]
fn a_wrong_type_says_which_type_is_wanted() {
    refused(
        "[engine]\nshards = \"2\"\nruntime = 1\n[limits]\nretain_available = \"yes\"\nreceive_maximum = 1.5\n",
        &[
            "p.toml:2:10: `shards` must be a whole number from 1 to 256, not \"2\" (leave out the quotes)",
            "p.toml:3:11: `runtime` must be \"auto\", \"glommio\" or \"epoll\", not 1 (put it in quotes)",
            "p.toml:5:20: `retain_available` must be true or false, not \"yes\" (leave out the quotes)",
            "p.toml:6:19: `receive_maximum` must be a whole number of messages from 1 to 65535, not 1.5",
        ],
    );
}

#[test]
fn a_number_out_of_range_says_the_range() {
    refused(
        "[limits]\nreceive_maximum = 0\nserver_keep_alive_s = 65536\nmaximum_qos = 3\nsession_queue_messages = -1\nsession_queue_bytes = 99999999999999999999\n",
        &[
            "p.toml:2:19: `receive_maximum` must be a whole number of messages from 1 to 65535, not 0",
            "p.toml:3:23: `server_keep_alive_s` must be a whole number of seconds from 0 to 65535, not 65536",
            "p.toml:4:15: `maximum_qos` must be a whole number from 0 to 2, not 3",
            "p.toml:5:26: `session_queue_messages` must be a whole number of messages from 0 to 4294967295, not -1",
            "p.toml:6:23: `session_queue_bytes` must be a whole number of bytes from 0 to 1099511627776, not 99999999999999999999",
        ],
    );
}

#[test]
fn a_misspelt_choice_gets_a_suggestion() {
    refused(
        "[engine]\nruntime = \"iouring\"\n[[listener]]\nprotocol = \"mqqt\"\naddress = \"127.0.0.1:1\"\n",
        &[
            "p.toml:2:11: `runtime` must be \"auto\", \"glommio\" or \"epoll\", not \"iouring\"",
            "p.toml:4:12: `protocol` must be \"mqtt\", \"mqtts\", \"ws\" or \"wss\", not \"mqqt\"; did you mean \"mqtt\"?",
        ],
    );
}

#[test]
fn text_that_is_not_toml_says_where() {
    refused(
        "[engine]\nshards = \nruntime = auto\n",
        &[
            "p.toml:2:10: not TOML: string values must be quoted, expected literal string",
            "p.toml:3:11: not TOML: string values must be quoted, expected literal string",
        ],
    );
    refused("[engine]\nshards = 1\nshards = 2\n", &["p.toml:3:1: not TOML: duplicate key"]);
}

#[test]
fn an_open_address_without_authentication_is_refused() {
    for address in ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:1883"] {
        for (said, verb) in [("", "write"), ("allow_anonymous = false", "change the line to")] {
            refused(
                &format!("[[listener]]\nprotocol = \"mqtt\"\naddress = \"{address}\"\n{said}\n"),
                &[&format!(
                    "p.toml:3:11: {address} can be reached from other machines and no \
                     authentication is configured for it; name an [[authenticator]] in \
                     `authentication`, listen on a loopback address such as 127.0.0.1:1883, or {verb} `allow_anonymous = true` in this [[listener]] to let \
                     everybody in"
                )],
            );
        }
    }
}

#[test]
fn an_ipv4_address_is_written_as_one() {
    refused(
        "[[listener]]\nprotocol = \"mqtt\"\naddress = \"[::ffff:127.0.0.1]:1883\"\n",
        &[
            "p.toml:3:11: \"[::ffff:127.0.0.1]:1883\" is an IPv4 address in the form of IPv6; write \
           \"127.0.0.1:1883\"",
        ],
    );
}

#[test]
fn loopback_is_open_unless_the_file_says_otherwise() {
    for address in ["127.0.0.1:1883", "127.8.9.10:1883", "[::1]:1883"] {
        let text = format!("[[listener]]\nprotocol = \"mqtt\"\naddress = \"{address}\"\n");
        assert!(accepted(&text).listeners[0].allow_anonymous, "{address}");
        let text = text + "allow_anonymous = false\n";
        assert!(!accepted(&text).listeners[0].allow_anonymous, "{address}");
    }
}

#[test]
fn what_is_not_an_address_gets_a_hint() {
    let hint = |address: &str| {
        let text = format!("[[listener]]\nprotocol = \"mqtts\"\naddress = \"{address}\"\n");
        let message = messages(&text);
        let line = message.lines().find(|line| line.contains("listen on")).expect(&message);
        line.split_once("; ").expect(line).1.to_owned()
    };
    assert_eq!(hint("127.0.0.1"), "add the port, as in \"127.0.0.1:8883\"");
    assert_eq!(hint("::1"), "add the port, as in \"[::1]:8883\"");
    assert_eq!(hint("localhost:1883"), "write \"127.0.0.1:1883\" or \"[::1]:1883\"");
    assert_eq!(hint(":1883"), "for every interface write \"0.0.0.0:1883\"");
    assert_eq!(hint("1883"), "write \"127.0.0.1:1883\"");
    assert_eq!(
        hint("broker.example:1883"),
        "write an IP address and a port, as in \"127.0.0.1:1883\""
    );
}

#[test]
fn an_address_is_used_once() {
    let listener = "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:1883\"\n";
    refused(
        &listener.repeat(2),
        &["p.toml:6:11: another listener has the address 127.0.0.1:1883 already"],
    );
    let free_port = listener.replace("1883", "0").repeat(2);
    assert_eq!(accepted(&free_port).listeners.len(), 2);
}

#[test]
fn a_listener_without_its_required_keys_is_refused() {
    refused(
        "[[listener]]\n\n[[listener]]\nprotocol = \"wss\"\naddress = \"127.0.0.1:1\"\n",
        &[
            "p.toml:1:1: this [[listener]] has no `address`",
            "p.toml:1:1: this [[listener]] has no `protocol`",
            "p.toml:3:1: protocol \"wss\" needs `cert`, and this [[listener]] has none",
            "p.toml:3:1: protocol \"wss\" needs `key`, and this [[listener]] has none",
        ],
    );
    refused(
        "listener = []\n",
        &["p.toml:1:12: the list of listeners is empty, so nobody could connect"],
    );
}

#[test]
fn the_record_layer_is_chosen_per_listener_and_only_with_tls() {
    let folder = certificates();
    let tls = format!("{TLS_LISTENER}cert = \"a.pem\"\nkey = \"a.key\"\n");
    let layer = |text: &str| match Config::parse(text, folder.path()) {
        Ok(config) => config.listeners[0].record_layer,
        Err(problems) => panic!("{problems:?}"),
    };
    assert_eq!(layer(&tls), RecordLayer::Rustls);
    assert_eq!(layer(&format!("{tls}record_layer = \"rustls\"\n")), RecordLayer::Rustls);
    let compact = format!("{tls}record_layer = \"compact\"\n");
    assert_eq!(layer(&compact), RecordLayer::Compact);
    let summary = Config::parse(&compact, folder.path()).expect("good").summary().to_string();
    assert!(summary.contains("a.pem, record layer compact, "), "{summary}");
    refused(
        "[[listener]]\nprotocol = \"ws\"\naddress = \"127.0.0.1:1\"\nrecord_layer = \"compact\"\n",
        &[
            "p.toml:4:16: `record_layer` has no use for protocol \"ws\", which is not encrypted; write protocol = \"wss\" for TLS, or take `record_layer` out",
        ],
    );
}

#[test]
fn keys_that_the_protocol_has_no_use_for_are_refused() {
    refused(
        "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:1\"\ncert = \"a\"\nkey = \"b\"\npath = \"/\"\n",
        &[
            "p.toml:4:8: `cert` has no use for protocol \"mqtt\", which is not encrypted; write protocol = \"mqtts\" for TLS, or take `cert` out",
            "p.toml:5:7: `key` has no use for protocol \"mqtt\", which is not encrypted; write protocol = \"mqtts\" for TLS, or take `key` out",
            "p.toml:6:8: `path` has no use for protocol \"mqtt\"; it is for ws and wss",
        ],
    );
    refused(
        "[[listener]]\nprotocol = \"ws\"\naddress = \"127.0.0.1:1\"\npath = \"mqtt?x\"\n",
        &[
            "p.toml:4:8: `path` must be the path of a URL, as in \"/mqtt\": a slash, then at most 255 characters without spaces, ? and #",
        ],
    );
}

const TLS_LISTENER: &str = "[[listener]]\nprotocol = \"mqtts\"\naddress = \"127.0.0.1:1\"\n";

#[test]
fn a_missing_certificate_file_is_named_in_full() {
    refused(
        &format!("{TLS_LISTENER}cert = \"no.pem\"\nkey = \"/nowhere/no.key\"\n"),
        &["p.toml:4:8: the certificate file /etc/petrel/no.pem does not exist"],
    );
}

/// A folder with the certificate `a.pem` and the keys `a.key` and `b.key`.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
        let write = |end: &str, text: String| {
            fs::write(folder.path().join(format!("{name}.{end}")), text).expect("written");
        };
        write("pem", made.cert.pem());
        write("key", made.signing_key.serialize_pem());
    }
    folder
}

#[test]
fn certificates_are_looked_for_beside_the_file() {
    let folder = certificates();
    let file = folder.path().join("p.toml");
    fs::write(&file, format!("{TLS_LISTENER}cert = \"a.pem\"\nkey = \"a.key\"\n"))
        .expect("written");
    let config = Config::load(&file).expect("a good file");
    let tls = config.listeners[0].tls.as_ref().expect("over TLS");
    assert_eq!((&tls.cert, &tls.key), (&folder.path().join("a.pem"), &folder.path().join("a.key")));
}

#[test]
fn a_key_must_belong_to_its_certificate() {
    let folder = certificates();
    let parse = |keys: &str| Config::parse(&format!("{TLS_LISTENER}{keys}"), folder.path());
    let wrong = |keys: &str| parse(keys).expect_err(keys).remove(0);
    let other_key = wrong("cert = \"a.pem\"\nkey = \"b.key\"\n");
    assert!(other_key.text.contains("does not belong to the certificate"), "{other_key:?}");
    assert_eq!((other_key.line, other_key.column), (5, 7));
    let swapped = wrong("cert = \"a.key\"\nkey = \"a.pem\"\n");
    assert!(swapped.text.contains("are the two files swapped?"), "{swapped:?}");
    assert_eq!((swapped.line, swapped.column), (4, 8));
}

#[test]
fn what_the_file_says_cannot_steer_a_terminal() {
    let message = messages("[engine]\n\"a\\u001b[2Jb\" = 1\nruntime = \"\\u0007\"\n");
    assert!(message.contains("`a\\u{1b}[2Jb`") && message.contains("\"\\u{7}\""), "{message}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_sentence() {
    let error = Config::load(Path::new("/nowhere/p.toml")).expect_err("there is no such file");
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /nowhere/p.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn the_summary_names_what_differs_from_the_defaults() {
    assert!(Config::default().summary().to_string().ends_with("limits: all at their defaults"));
    let config = accepted("[engine]\nshards = 3\n[limits]\nmaximum_qos = 1\n");
    assert_eq!(
        config.summary().to_string(),
        "shards: 3, runtime: auto\n\
         storage: none, nothing outlives the process\n\
         listener: mqtt on 127.0.0.1:1883, anonymous clients allowed\n\
         listener: ws on 127.0.0.1:8083/mqtt, anonymous clients allowed\n\
         rules: none, whoever comes in may do everything\n\
         limits: maximum_qos = 1, the others at their defaults"
    );
}

/// The first four cells that the document must have for a key.
fn row<T: Default>(key: &Key<T>, defaults: &[(&str, &str)]) -> String {
    let range = match &key.kind {
        Kind::Integer { min, max, .. } => format!("{min} to {max}"),
        Kind::Bool { .. } => "`true` or `false`".to_owned(),
        Kind::Choice { names, .. } => read::choices(names)
            .split('"')
            .collect::<Vec<_>>()
            .chunks(2)
            .fold(String::new(), |cells, pair| match pair {
                [between, name] => format!("{cells}{between}`\"{name}\"`"),
                _ => cells,
            }),
        Kind::Text { .. } => "text".to_owned(),
        Kind::Texts { .. } => "list of text".to_owned(),
        Kind::Sections => "sections".to_owned(),
    };
    let unit = if key.unit.is_empty() { String::new() } else { format!("{} ", key.unit) };
    let special = defaults.iter().find(|(name, _)| *name == key.name);
    let default = special.map(|(_, text)| (*text).to_owned()).or_else(|| {
        let text = value_text(key, &T::default())?;
        Some(if text.starts_with('"') { format!("`{text}`") } else { text })
    });
    let default = default.unwrap_or_else(|| panic!("{} has no default", key.name));
    format!("| `{}` | {unit}| {range} | {default} |", key.name)
}

#[test]
fn the_document_has_every_key_with_its_unit_range_and_default() {
    let document = include_str!("../../../docs/CONFIGURATION.md");
    let listener_defaults = [
        ("name", "the address"),
        ("authentication", "none"),
        ("protocol", "required"),
        ("address", "required"),
        ("allow_anonymous", "see below"),
        ("cert", "none"),
        ("key", "none"),
        ("path", &format!("`\"{DEFAULT_PATH}\"`")),
        ("certificate", "none"),
        ("client_ca", "none"),
        ("client_crl", "none"),
        ("tls_suites", "all"),
        ("tls_groups", "all"),
        ("proxy_trusted", "none"),
    ];
    let mut rows: Vec<_> = ENGINE
        .iter()
        .map(|key| {
            row(key, &[("shards", "one per core"), ("ticket_secret", "none"), ("control", "none")])
        })
        .collect();
    rows.extend(LISTENER.iter().map(|key| row::<RawListener>(key, &listener_defaults)));
    rows.extend(LIMITS.iter().map(|key| row::<AllLimits>(key, &[])));
    rows.extend(STORAGE.iter().map(|key| row::<StorageConfig>(key, &[("path", "none")])));
    rows.extend(ACCESS.iter().map(|key| row::<AccessConfig>(key, &[("rules", "none")])));
    let admin = ["address", "tokens", "cert", "key"].map(|name| (name, "none"));
    rows.extend(ADMIN.iter().map(|key| row(key, &admin)));
    let of_log = [("file", "none"), ("journal_socket", "`\"/run/systemd/journal/socket\"`")];
    rows.extend(LOG.iter().map(|key| row(key, &of_log)));
    rows.extend(SYS.iter().map(|key| row::<SysConfig>(key, &[])));
    let defaults = [
        ("name", "required"),
        ("kind", "required"),
        ("file", "none"),
        ("jwks", "none"),
        ("url", "none"),
        ("headers", "none"),
        ("header_files", "none"),
        ("ca", "none"),
        ("bind_dn", "none"),
        ("search_base", "none"),
        ("search_filter", "none"),
        ("search_dn", "none"),
        ("groups_attribute", "none"),
        ("query", "none"),
        ("password_file", "none"),
        ("issuer", "none"),
        ("audience", "none"),
        ("user_claim", "`\"sub\"`"),
        ("groups_claim", "`\"groups\"`"),
        ("rights_claim", "none"),
    ];
    rows.extend(AUTHENTICATOR.iter().map(|key| row::<RawAuthenticator>(key, &defaults)));
    for row in &rows {
        assert!(document.contains(row), "docs/CONFIGURATION.md lacks\n{row}");
    }
    let documented = document.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(documented, rows.len(), "docs/CONFIGURATION.md has keys that the code has not");
}

#[test]
fn a_log_says_where_it_goes_or_why_that_is_nowhere() {
    let log = |text: &str| accepted(&format!("[log]\n{text}\n")).log;
    assert_eq!(log(""), LogConfig::default());
    let chosen = log("format = \"json\"\nto = \"file\"\nfile = \"a.log\"\nclients = \"info\"");
    assert!(chosen.file.is_some_and(|file| file.ends_with("a.log")));
    assert_eq!(chosen.levels.of(crate::log::Area::Clients), crate::log::Level::Info);
    refused(
        "[log]\nto = \"file\"\nload = \"loud\"\n",
        &[
            "p.toml:2:6: `to` is \"file\", and nothing says which; add `file`, as in file = \"petrel.log\"",
            "p.toml:3:8: `load` must be \"off\", \"error\", \"warn\" or \"info\", not \"loud\"",
        ],
    );
    refused(
        "[log]\nformat = \"json\"\nto = \"journald\"\nfiles_kept = 3\nfile = \"x\"\n",
        &[
            "p.toml:2:10: `format` has no use with to = \"journald\", which has its own; leave it out",
            "p.toml:4:14: `files_kept` has no use while lines go to journald; add to = \"file\", or leave it out",
            "p.toml:5:8: `file` has no use while lines go to journald; add to = \"file\", or leave it out",
        ],
    );
}

#[test]
fn levels_and_rates_of_the_log_are_taken_on_and_where_it_goes_is_not() {
    let before = accepted("[log]\nclients = \"off\"\n");
    let (taken, left) = before.taking_on(&accepted("[log]\nload = \"error\"\nlines_per_s = 3\n"));
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(taken.log.levels.of(crate::log::Area::Clients), crate::log::Level::Warn);
    assert_eq!(taken.log.rate.lines_per_s, 3);
    let (taken, left) = before.taking_on(&accepted("[log]\nto = \"stdout\"\nadmin = \"off\"\n"));
    assert_eq!(left, ["[log]"]);
    assert_eq!(taken.log.levels.of(crate::log::Area::Admin), crate::log::Level::Off);
    assert_eq!(taken.log.to, crate::log::Destination::Stderr);
}

#[test]
fn every_limit_of_the_shard_is_a_key() {
    let debug = format!("{:?}", Limits::default());
    let fields: Vec<_> = debug
        .split(['{', ',', '}'])
        .filter_map(|part| part.split_once(": ").map(|(field, _)| field.trim()))
        .collect();
    assert!(fields.contains(&"receive_maximum"), "{debug}");
    for field in fields {
        assert!(LIMITS.iter().any(|key| key.name == field), "{field} is not in [limits]");
    }
}

#[test]
fn storage_is_a_folder_beside_the_file_and_off_without_one() {
    let config = accepted("[storage]\npath = \"data\"\nsync = \"interval\"\nlanes = 3\n");
    let path = config.storage.path.expect("a path");
    assert!(path.ends_with("data") && path != std::path::Path::new("data"), "{path:?}");
    assert_eq!((config.storage.sync, config.storage.lanes), (SyncLevel::Interval, 3));
    assert_eq!(accepted("[storage]\n").storage, StorageConfig::default());
    refused(
        "[storage]\nlanes = 2\n",
        &["p.toml:2:9: `lanes` has no use without `path`, the folder to keep data in"],
    );
    refused(
        "[storage]\npath = \"\"\n",
        &["p.toml:2:8: `path` is empty; name a folder, as in path = \"data\""],
    );
}

#[test]
fn a_limit_of_the_disk_leaves_room_for_each_lane() {
    let limited = |lanes, bytes: u64| {
        format!("[storage]\npath = \"data\"\ndisk_limit_bytes = {bytes}\nlanes = {lanes}\n")
    };
    for (lanes, bytes) in [(1, 90_000_000), (3, 270_000_000), (16, 0)] {
        let config = accepted(&limited(lanes, bytes));
        assert_eq!(config.storage.disk_limit_bytes, bytes);
    }
    refused(
        &limited(3, 269_999_999),
        &[
            "p.toml:3:20: `disk_limit_bytes` must be at least 270000000, which is 90000000 for each \
           of `lanes`, or 0, not 269999999: a lane takes about that though nothing is kept",
        ],
    );
    refused(
        &limited(1, 1),
        &["p.toml:3:20: `disk_limit_bytes` must be at least 90000000, which is 90000000 for each \
           of `lanes`, or 0, not 1: a lane takes about that though nothing is kept"],
    );
}

#[test]
fn the_example_of_the_document_is_the_default() {
    let document = include_str!("../../../docs/CONFIGURATION.md");
    let example = document.split("```").nth(1).expect("an example");
    let config = accepted(example.strip_prefix("toml").expect("in TOML"));
    assert_eq!(config, Config::default());
}

#[test]
fn a_listener_names_who_is_asked_for_its_clients() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("users", "# nobody\n");
    write("wrong", "alice\n\nbob:hunter2\n");
    write("rules.toml", "[[rule]]\nallow = \"both\"\ntopics = [\"#\"]\nlisteners = [\"out\"]\n");
    let base = "[[authenticator]]\nname = \"file\"\nkind = \"passwords\"\nfile = \"users\"\n\
                [access]\nrules = \"rules.toml\"\n[[listener]]\nprotocol = \"mqtt\"\n\
                address = \"0.0.0.0:1883\"\nname = \"out\"\nauthentication = [\"file\"]\n";
    let config = Config::parse(base, folder.path()).expect("nothing is wrong");
    assert!(!config.listeners[0].allow_anonymous);
    assert_eq!(config.listeners[0].authentication, [0]);
    assert_eq!(config.read_rules().unwrap().map(|rules| rules.len()), Some(1));
    let summary = config.summary().to_string();
    for line in
        ["authenticator: file, passwords in ", "anonymous clients refused, asks file\n", "rules: "]
    {
        assert!(summary.contains(line), "{summary}");
    }
    let said = |from: &str, to: &str| -> String {
        let problems = Config::parse(&base.replace(from, to), folder.path()).expect_err(to);
        problems.into_iter().map(|it| format!("{}:{}: {}\n", it.line, it.column, it.text)).collect()
    };
    for (from, to, why) in [
        (
            "[\"file\"]",
            "[\"other\"]",
            "11:18: there is no [[authenticator]] with the name \"other\"",
        ),
        ("[\"file\"]", "[\"file\", \"file\"]", "names \"file\" twice"),
        ("[\"file\"]", "\"file\"", "`authentication` must be a list of strings"),
        ("users", "wrong", "wrong:1: the line has no colon"),
        ("users", "missing", "cannot read"),
        ("\"out\"", "\"in\"", "rules.toml:4:13: there is no listener \"out\"; there are in"),
        ("passwords", "ldp", "`kind` must be"),
        ("name = \"file\"\n", "", "this [[authenticator]] has no `name`"),
        ("\"passwords\"", "\"jwt\"", "users: it is no JWK Set and no PEM"),
        ("[access]", "issuer = \"us\"\n[access]", "`issuer` has no use for kind = \"passwords\""),
    ] {
        let said = said(from, to);
        assert!(said.contains(why), "{to}\n{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// What listeners have taken on is theirs, wherever they stand in the file.
#[test]
fn listeners_in_another_order_keep_their_own_bounds() {
    let listener = |port: u16, most: u32| {
        format!(
            "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:{port}\"\n\
             connections_maximum = {most}\n"
        )
    };
    let parse = |text: String| Config::parse(&text, Path::new("/etc/petrel")).unwrap();
    let before = parse(listener(1001, 3) + &listener(1002, 1));
    let most = |config: &Config| -> Vec<(u16, u32)> {
        let listeners = config.listeners.iter();
        listeners.map(|it| (it.address.port(), it.connections_maximum)).collect()
    };
    let (taken, left) = before.taking_on(&parse(listener(1002, 5) + &listener(1001, 3)));
    assert_eq!((most(&taken), left.len()), (vec![(1001, 3), (1002, 5)], 0));
    let (taken, left) = before.taking_on(&parse(listener(1001, 4) + &listener(1003, 9)));
    assert_eq!(most(&taken), [(1001, 4), (1002, 1)]);
    assert_eq!(left, ["[[listener]] 127.0.0.1:1002"]);
}

#[test]
fn the_admin_interface_listens_beyond_loopback_with_tokens_only() {
    let parse = |text: &str| Config::parse(text, Path::new("/etc/petrel")).map(|it| it.admin);
    let loopback = parse("[admin]\naddress = \"[::1]:9180\"\n").unwrap().unwrap();
    assert_eq!((loopback.address.port(), loopback.is_open()), (9180, false));
    assert_eq!(parse("").unwrap(), None);
    let text = "[admin]\naddress = \"0.0.0.0:9180\"\ntokens = \"t\"\ncert = \"c\"\nkey = \"/k\"\n";
    let open = parse(text).unwrap().unwrap();
    assert!(open.is_open());
    assert_eq!(open.tokens.as_deref(), Some(Path::new("/etc/petrel/t")));
    assert_eq!(open.tls, Some((Path::new("/etc/petrel/c").into(), Path::new("/k").into())));
    assert_eq!(open.url(open.address), "https://0.0.0.0:9180");
    refused(
        "[admin]\naddress = \"0.0.0.0:9180\"\n",
        &[
            "p.toml:2:11: `address` is 0.0.0.0:9180, which others than this machine may reach: name a file of \
           `tokens`, which petrelctl token writes, or listen on loopback, as in \"127.0.0.1:9180\"",
        ],
    );
    refused(
        "[admin]\naddress = \"localhost\"\n",
        &[
            "p.toml:2:11: \"localhost\" is not an address to listen on; write an IP address and a port, \
           as in \"127.0.0.1:9180\"",
        ],
    );
    refused(
        "[admin]\ncert = \"c\"\n",
        &[
            "p.toml:2:8: `cert` without `address`: say where the admin interface listens, as in address = \
           \"127.0.0.1:9180\"",
            "p.toml:2:8: `cert` without `key`: TLS needs both",
        ],
    );
}

#[test]
fn bounds_of_the_keep_alive_that_exclude_each_other_are_refused() {
    refused(
        "[limits]\nkeep_alive_min_s = 100\nkeep_alive_max_s = 10\n",
        &[
            "p.toml:2:20: `keep_alive_min_s` is 100 and `keep_alive_max_s` is 10; the shortest keep alive must \
           not be longer than the longest",
        ],
    );
    let fine = Config::parse("[limits]\nkeep_alive_min_s = 100\n", Path::new("/etc/petrel"));
    assert_eq!(fine.unwrap().limits.keep_alive_min_s, 100);
}
