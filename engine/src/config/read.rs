//! TOML to values: finds unknown keys, wrong types and values out of range, all in one pass.

use std::collections::BTreeMap;
use std::path::Path;

use petrel_net::tls::TicketSecret;
use petrel_storage::LIMIT_BYTES_MIN;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::access::{self, AccessConfig};
use super::admin::AdminConfig;
use super::authenticator::{self, PlacedAuthenticator, RawAuthenticator};
use super::check::{self, PlacedListener};
use super::keys::{
    ACCESS, ADMIN, AUTHENTICATOR, AllLimits, CERTIFICATE, ENGINE, Key, Kind, LIMITS, LISTENER,
    RawAdmin, RawListener, STORAGE, SYS,
};
use super::log::LOG;
use super::problem::{Problem, Problems, nearest};
use super::security::{PlacedCertificate, RawCertificate};
use super::{Config, EngineConfig, LogConfig, StorageConfig, SysConfig, default_listeners, log};

/// The sections of the file.
const SECTIONS: &[&str] =
    &["engine", "listener", "limits", "storage", "access", "authenticator", "admin", "log", "sys"];

/// More listeners than anybody needs, fewer than descriptors run out for.
const LISTENERS_MAX: usize = 64;

/// Where the value of each key that a section has stands in the text.
pub(super) type Places = BTreeMap<&'static str, usize>;

/// Reads the whole text. See [`Config::parse`].
pub(super) fn read(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::new(text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in syntax_errors {
        problems.add(error.span().map_or(0, |span| span.start), syntax_sentence(error.message()));
    }
    // What the parser made of a broken text would only earn problems that are not there.
    if !problems.is_empty() {
        return Err(problems.into_sorted());
    }

    let mut engine = EngineConfig::default();
    let mut limits = AllLimits::default();
    let mut storage = StorageConfig::default();
    let mut storage_at = 0;
    let mut without_path = None;
    let mut listeners = None;
    let mut secret_at = 0;
    let mut access = AccessConfig::default();
    let mut rules_at = 0;
    let mut authenticators = Vec::new();
    let mut admin = None;
    let mut log = LogConfig::default();
    let mut sys = SysConfig::default();
    for (name, value) in document.get_ref() {
        match (name.get_ref().as_ref(), value.get_ref()) {
            ("engine", DeValue::Table(table)) => {
                let places = section(table, "[engine]", ENGINE, &mut engine, &mut problems);
                secret_at = places.get("ticket_secret").copied().unwrap_or(0);
            }
            ("limits", DeValue::Table(table)) => {
                let places = section(table, "[limits]", LIMITS, &mut limits, &mut problems);
                check_keep_alive(&limits, &places, &mut problems);
            }
            ("storage", DeValue::Table(table)) => {
                let places = section(table, "[storage]", STORAGE, &mut storage, &mut problems);
                storage_at = places.get("path").copied().unwrap_or(0);
                let others = places.iter().find(|(name, _)| **name != "path");
                without_path = others.map(|(name, at)| (*name, *at));
                check_limit(&storage, &places, &mut problems);
            }
            ("listener", DeValue::Array(array)) => {
                listeners = Some(read_listeners(array, value.span().start, &mut problems));
            }
            ("access", DeValue::Table(table)) => {
                let places = section(table, "[access]", ACCESS, &mut access, &mut problems);
                rules_at = places.get("rules").copied().unwrap_or(0);
            }
            ("admin", DeValue::Table(table)) => {
                let mut raw = RawAdmin::default();
                let places = section(table, "[admin]", ADMIN, &mut raw, &mut problems);
                admin = AdminConfig::new(raw, folder, &places, &mut problems);
            }
            ("log", DeValue::Table(table)) => {
                let places = section(table, "[log]", LOG, &mut log, &mut problems);
                log::check(&mut log, &places, folder, &mut problems);
            }
            ("sys", DeValue::Table(table)) => {
                section(table, "[sys]", SYS, &mut sys, &mut problems);
            }
            ("authenticator", DeValue::Array(array)) => {
                authenticators = read_authenticators(array, &mut problems);
            }
            ("authenticator", _) => problems.add(
                name.span().start,
                "an authenticator is written with two brackets, [[authenticator]], as there may be several",
            ),
            ("listener", _) => problems.add(
                name.span().start,
                "a listener is written with two brackets, [[listener]], as there may be several",
            ),
            (known @ ("engine" | "limits" | "storage" | "access" | "admin" | "log" | "sys"), _) => problems.add(
                name.span().start,
                format!("`{known}` is a section, written [{known}], not a value"),
            ),
            (unknown, value) => {
                let value_is_section = value.is_table() || value.is_array();
                problems.add(name.span().start, unknown_at_top(unknown, value_is_section));
            }
        }
    }
    if let Some(path) = &mut engine.control {
        *path = folder.join(&path);
    }
    if let Some(path) = &mut engine.ticket_secret {
        *path = folder.join(&path);
        if let Err(error) = TicketSecret::check_file(path) {
            problems.add(secret_at, error.to_string());
        }
    }
    match &mut storage.path {
        Some(path) if path.as_os_str().is_empty() => {
            problems.add(storage_at, "`path` is empty; name a folder, as in path = \"data\"");
        }
        Some(path) => *path = folder.join(&path),
        None => {
            if let Some((name, at)) = without_path {
                let text =
                    format!("`{name}` has no use without `path`, the folder to keep data in");
                problems.add(at, text);
            }
        }
    }
    let authenticators = authenticator::authenticators(authenticators, folder, &mut problems);
    let listeners = match listeners {
        Some(raw) => check::listeners(raw, &authenticators, folder, &mut problems),
        None => default_listeners(),
    };
    if let Some(path) = &mut access.rules {
        *path = folder.join(&path);
        if let Err(wrong) = access::rules(path, &listeners) {
            wrong.into_iter().for_each(|text| problems.add(rules_at, text));
        }
    }
    if problems.is_empty() {
        let AllLimits { protocol: limits, network, guard, rate, memory_bytes } = limits;
        Ok(Config {
            engine,
            listeners,
            limits,
            network,
            guard,
            rate,
            memory_bytes,
            storage,
            access,
            authenticators,
            admin,
            log,
            sys,
        })
    } else {
        Err(problems.into_sorted())
    }
}

/// Refuses bounds of which one would never hold.
fn check_keep_alive(limits: &AllLimits, places: &Places, problems: &mut Problems) {
    let (least, most) = (limits.protocol.keep_alive_min_s, limits.protocol.keep_alive_max_s);
    if most == 0 || least <= most {
        return;
    }
    let at = places.get("keep_alive_min_s").or(places.get("keep_alive_max_s"));
    let text = format!(
        "`keep_alive_min_s` is {least} and `keep_alive_max_s` is {most}; the shortest keep alive must not be \
         longer than the longest"
    );
    problems.add(at.copied().unwrap_or(0), text);
}

/// Refuses a limit that could be reached for ever though nothing is kept.
fn check_limit(storage: &StorageConfig, places: &Places, problems: &mut Problems) {
    let least = LIMIT_BYTES_MIN * u64::from(storage.lanes);
    let Some(at) = places.get("disk_limit_bytes") else { return };
    if (1..least).contains(&storage.disk_limit_bytes) {
        let text = format!(
            "`disk_limit_bytes` must be at least {least}, which is {LIMIT_BYTES_MIN} for each of \
             `lanes`, or 0, not {}: a lane takes about that though nothing is kept",
            storage.disk_limit_bytes
        );
        problems.add(*at, text);
    }
}

/// The elements of `[[listener]]` that are tables.
fn read_listeners(array: &DeArray<'_>, at: usize, problems: &mut Problems) -> Vec<PlacedListener> {
    if array.is_empty() {
        problems.add(at, "the list of listeners is empty, so nobody could connect");
    }
    if array.len() > LISTENERS_MAX {
        problems.add(at, format!("there are {} listeners, at most {LISTENERS_MAX}", array.len()));
    }
    let mut listeners = Vec::new();
    for element in array.iter() {
        let at = element.span().start;
        let DeValue::Table(table) = element.get_ref() else {
            problems.add(at, "a listener is a section, written [[listener]]");
            continue;
        };
        let mut raw = RawListener::default();
        let places = section(table, "[[listener]]", LISTENER, &mut raw, problems);
        let certificates = read_certificates(table.get("certificate"), problems);
        listeners.push(PlacedListener { raw, at, places, certificates });
    }
    listeners
}

/// The elements of `[[listener.certificate]]` that are tables.
fn read_certificates(
    value: Option<&Spanned<DeValue<'_>>>,
    problems: &mut Problems,
) -> Vec<PlacedCertificate> {
    let mut certificates = Vec::new();
    let elements = value.and_then(|it| it.get_ref().as_array());
    for element in elements.into_iter().flat_map(|array| array.iter()) {
        // Whatever else it is has been told.
        let DeValue::Table(table) = element.get_ref() else { continue };
        let mut raw = RawCertificate::default();
        let places = section(table, "[[listener.certificate]]", CERTIFICATE, &mut raw, problems);
        certificates.push(PlacedCertificate { raw, at: element.span().start, places });
    }
    certificates
}

/// The elements of `[[authenticator]]` that are tables.
fn read_authenticators(array: &DeArray<'_>, problems: &mut Problems) -> Vec<PlacedAuthenticator> {
    let mut authenticators = Vec::new();
    for element in array.iter() {
        let at = element.span().start;
        let DeValue::Table(table) = element.get_ref() else {
            problems.add(at, "an authenticator is a section, written [[authenticator]]");
            continue;
        };
        let mut raw = RawAuthenticator::default();
        let places = section(table, "[[authenticator]]", AUTHENTICATOR, &mut raw, problems);
        authenticators.push(PlacedAuthenticator { raw, at, places });
    }
    authenticators
}

/// Reads the keys of one section into `into`; says where the value of each stands. A key whose
/// value is wrong has a place too, so that it does not count as missing.
fn section<T>(
    table: &DeTable<'_>,
    title: &str,
    keys: &'static [Key<T>],
    into: &mut T,
    problems: &mut Problems,
) -> Places {
    let mut places = Places::new();
    for (name, value) in table {
        let name_at = name.span().start;
        let name = name.get_ref().as_ref();
        match keys.iter().find(|key| key.name == name) {
            Some(key) => {
                places.insert(key.name, value.span().start);
                if let Err(sentence) = set(key, value, into) {
                    problems.add(value.span().start, sentence);
                }
            }
            None => {
                let known: Vec<_> = keys.iter().map(|key| key.name).collect();
                problems.add(name_at, unknown_key(name, title, &known));
            }
        }
    }
    places
}

/// Puts one value where it belongs, or says what it should have been.
fn set<T>(key: &Key<T>, value: &Spanned<DeValue<'_>>, into: &mut T) -> Result<(), String> {
    let wrong = |wanted: &str| {
        let hint = match (&key.kind, value.get_ref()) {
            (Kind::Integer { .. } | Kind::Bool { .. }, DeValue::String(_)) => {
                " (leave out the quotes)"
            }
            (
                Kind::Choice { .. } | Kind::Text { .. } | Kind::Texts { .. },
                DeValue::Integer(_) | DeValue::Boolean(_),
            ) => " (put it in quotes)",
            _ => "",
        };
        Err(format!("`{}` must be {wanted}, not {}{hint}", key.name, shown(value.get_ref())))
    };
    match (&key.kind, value.get_ref()) {
        (&Kind::Integer { min, max, set, .. }, given) => {
            let of = if key.unit.is_empty() { "" } else { " of " };
            let wanted = format!("a whole number{of}{} from {min} to {max}", key.unit);
            let number = given
                .as_integer()
                .and_then(|integer| i128::from_str_radix(integer.as_str(), integer.radix()).ok())
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| (min..=max).contains(number));
            match number {
                Some(number) => set(into, number),
                None => return wrong(&wanted),
            }
        }
        (Kind::Bool { set, .. }, DeValue::Boolean(value)) => set(into, *value),
        (Kind::Bool { .. }, _) => return wrong("true or false"),
        (Kind::Choice { names, set, .. }, DeValue::String(text)) => {
            if !names.contains(&text.as_ref()) {
                let hint = nearest(text, names.iter().copied())
                    .map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
                return wrong(&choices(names)).map_err(|sentence: String| sentence + &hint);
            }
            set(into, text);
        }
        (Kind::Choice { names, .. }, _) => return wrong(&choices(names)),
        (Kind::Text { set }, DeValue::String(text)) => set(into, text),
        (Kind::Text { .. }, _) => return wrong("a string"),
        (Kind::Texts { set }, DeValue::Array(array)) => {
            let texts = array.iter().map(|it| it.get_ref().as_str().map(str::to_owned));
            match texts.collect::<Option<Vec<_>>>() {
                Some(texts) => set(into, texts),
                None => return wrong("a list of strings"),
            }
        }
        (Kind::Texts { .. }, _) => return wrong("a list of strings"),
        (Kind::Sections, DeValue::Array(array))
            if array.iter().all(|it| it.get_ref().is_table()) => {}
        (Kind::Sections, _) => return wrong("sections, each with its keys below a header"),
    }
    Ok(())
}

/// `"a", "b" or "c"`.
pub(super) fn choices(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A value as people write it, cut if it is long.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", crate::log::Escaped(text.as_bytes())),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}

/// The sentence for a key that its section does not have.
fn unknown_key(name: &str, title: &str, known: &[&str]) -> String {
    let start = format!("unknown key `{}` in {title}", crate::log::Escaped(name.as_bytes()));
    if let Some(home) = home_of(name) {
        return format!("{start}; it belongs under {home}");
    }
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("{start}; did you mean `{near}`?"),
        None if known.len() <= 8 => format!("{start}; its keys are {}", known.join(", ")),
        None => format!("{start}; docs/CONFIGURATION.md lists its keys"),
    }
}

/// The sentence for something at the top level that is not a section of the file.
fn unknown_at_top(name: &str, is_section: bool) -> String {
    let escaped = crate::log::Escaped(name.as_bytes());
    if let Some(home) = home_of(name).filter(|_| !is_section) {
        return format!("the key `{escaped}` stands before any section; it belongs under {home}");
    }
    let start = format!("unknown {} `{escaped}`", if is_section { "section" } else { "key" });
    match nearest(name, SECTIONS.iter().copied()) {
        Some(near @ ("listener" | "authenticator")) => {
            format!("{start}; did you mean [[{near}]]?")
        }
        Some(near) if is_section => format!("{start}; did you mean [{near}]?"),
        _ => format!(
            "{start}; the file has the sections [engine], [[listener]], [limits], [storage], \
             [access], [[authenticator]], [admin], [log] and [sys]"
        ),
    }
}

/// The section that has a key of this name.
fn home_of(name: &str) -> Option<&'static str> {
    if ENGINE.iter().any(|key| key.name == name) {
        Some("[engine]")
    } else if LIMITS.iter().any(|key| key.name == name) {
        Some("[limits]")
    } else if STORAGE.iter().any(|key| key.name == name) {
        Some("[storage]")
    } else if LISTENER.iter().any(|key| key.name == name) {
        Some("[[listener]]")
    } else if ACCESS.iter().any(|key| key.name == name) {
        Some("[access]")
    } else if AUTHENTICATOR.iter().any(|key| key.name == name) {
        Some("[[authenticator]]")
    } else if LOG.iter().any(|key| key.name == name) {
        Some("[log]")
    } else {
        None
    }
}

/// The parser's own words, on one line.
fn syntax_sentence(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("not TOML: {}", lines.join(", "))
}
