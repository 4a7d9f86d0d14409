//! The keys of `[[authenticator]]`.

use petrel_access::OnFailure;

use super::{Key, Kind, narrow};
use crate::config::authenticator::RawAuthenticator;

/// A text of [`RawAuthenticator`] that is named like its field.
macro_rules! text {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            unit: "",
            kind: Kind::Text { set: |raw, text| raw.$field = Some(text.into()) },
        }
    };
}

/// A number of it.
macro_rules! number {
    ($($field:ident).+ as $name:literal, $min:expr, $max:expr, $unit:expr) => {
        Key {
            name: $name,
            unit: $unit,
            kind: Kind::Integer {
                min: $min,
                max: $max,
                get: |raw| Some(u64::from(raw.$($field).+)),
                set: |raw, value| raw.$($field).+ = narrow(value),
            },
        }
    };
}

/// A yes or no of it.
macro_rules! flag {
    ($field:ident) => {
        Key {
            name: stringify!($field),
            unit: "",
            kind: Kind::Bool { get: |raw| Some(raw.$field), set: |raw, value| raw.$field = value },
        }
    };
}

pub(in crate::config) const AUTHENTICATOR: &[Key<RawAuthenticator>] = &[
    text!(name),
    Key {
        name: "kind",
        unit: "",
        kind: Kind::Choice {
            names: RawAuthenticator::KINDS,
            get: |_| None,
            set: |raw, name| raw.kind = Some(name.to_owned()),
        },
    },
    text!(file),
    Key {
        name: "issuer",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.claims.issuer = Some(text.to_owned()) },
    },
    Key {
        name: "audience",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.claims.audience = Some(text.to_owned()) },
    },
    Key {
        name: "user_claim",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.claims.user = text.to_owned() },
    },
    Key {
        name: "groups_claim",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.claims.groups = text.to_owned() },
    },
    Key {
        name: "rights_claim",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.claims.rights = Some(text.to_owned()) },
    },
    text!(jwks),
    number!(refresh_s as "refresh_s", 1, 86_400, "seconds"),
    text!(url),
    Key {
        name: "headers",
        unit: "",
        kind: Kind::Texts { set: |raw, texts| raw.headers.0 = texts },
    },
    Key {
        name: "header_files",
        unit: "",
        kind: Kind::Texts { set: |raw, texts| raw.header_files = texts },
    },
    text!(ca),
    flag!(plaintext),
    text!(bind_dn),
    text!(search_base),
    text!(search_filter),
    text!(search_dn),
    text!(groups_attribute),
    flag!(starttls),
    text!(query),
    text!(password_file),
    flag!(tls),
    number!(terms.in_flight_max as "in_flight_maximum", 1, 4096, "clients"),
    number!(terms.timeout_ms as "timeout_ms", 1, 60_000, "milliseconds"),
    number!(connect_timeout_ms as "connect_timeout_ms", 1, 60_000, "milliseconds"),
    Key {
        name: "on_failure",
        unit: "",
        kind: Kind::Choice {
            names: OnFailure::NAMES,
            get: |raw| Some(raw.terms.on_failure.name().to_owned()),
            set: |raw, name| {
                raw.terms.on_failure = OnFailure::from_name(name).unwrap_or_default();
            },
        },
    },
    number!(terms.breaker.failures as "breaker_failures", 1, 1000, "failures"),
    number!(terms.breaker.pause_ms as "breaker_pause_ms", 1, 600_000, "milliseconds"),
];
