//! Tokens with keys made for the occasion.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode};
use petrel_shard::access::{Publishable, Who};
use serde_json::json;

use super::*;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn by_secret(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

fn tokens(text: &str) -> Tokens {
    let claims = Claims {
        issuer: Some("us".to_owned()),
        audience: Some("mqtt".to_owned()),
        rights: Some("rights".to_owned()),
        ..Claims::default()
    };
    Tokens::parse(text, claims).unwrap()
}

fn claims() -> Value {
    json!({ "iss": "us", "aud": ["mqtt", "web"], "exp": in_an_hour(), "sub": "alice" })
}

fn user(read: Read) -> Option<String> {
    match read {
        Read::Right(identity) => Some(identity.user.as_str().to_owned()),
        Read::Wrong => None,
        Read::NoToken => panic!("it is a token"),
    }
}

/// A key's file, and what signs with it.
fn pairs() -> Vec<(Algorithm, String, EncodingKey)> {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ec_private = ec.to_pkcs8v1().unwrap();
    let ec_public: PublicKeyX509Der<'_> = ec.public_key().as_der().unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_private = ed.to_pkcs8v1().unwrap();
    let ed_public: PublicKeyX509Der<'_> = ed.public_key().as_der().unwrap();
    let rsa = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let rsa_private: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let rsa_public: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let of_pkcs8 = |der: &[u8], label: &str| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    };
    let rsa_pem = of_pkcs8(rsa_private.as_ref(), "PRIVATE KEY");
    vec![
        (Algorithm::HS256, SECRET.to_owned(), EncodingKey::from_secret(SECRET.as_bytes())),
        (Algorithm::ES256, pem(ec_public.as_ref()), EncodingKey::from_ec_der(ec_private.as_ref())),
        (Algorithm::EdDSA, pem(ed_public.as_ref()), EncodingKey::from_ed_der(ed_private.as_ref())),
        (
            Algorithm::RS256,
            pem(rsa_public.as_ref()),
            EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap(),
        ),
    ]
}

#[test]
fn a_token_counts_if_the_key_has_signed_it() {
    let pairs = pairs();
    for (algorithm, file, key) in &pairs {
        let tokens = tokens(file);
        let token = signed(*algorithm, key, &claims());
        let read = |token: &str| user(tokens.read(None, token.as_bytes(), 0));
        assert_eq!(read(&token).as_deref(), Some("alice"), "{algorithm:?}");
        for (other, _, key) in pairs.iter().filter(|(other, _, _)| other != algorithm) {
            assert_eq!(read(&signed(*other, key, &claims())), None, "{other:?} for {algorithm:?}");
        }
        // Changed somewhere.
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let body = json!({ "iss": "us", "aud": "mqtt", "exp": in_an_hour(), "sub": "mallory" });
        let body = URL_SAFE_NO_PAD.encode(body.to_string());
        assert_eq!(read(&format!("{header}.{body}.{signature}")), None);
        assert_eq!(read(&format!("{head}.")), None);
    }
}

/// The classic ways around signatures: none at all, and a public key that is taken for a secret.
#[test]
fn the_header_does_not_choose_how_a_token_is_checked() {
    let (_, public, _) = pairs().remove(3);
    let tokens = tokens(&public);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(&claims());
    for algorithm in ["none", "None", "NONE", ""] {
        let token = format!("{}.{body}.", part(&json!({ "alg": algorithm, "typ": "JWT" })));
        assert!(!matches!(tokens.read(None, token.as_bytes(), 0), Read::Right(_)), "{algorithm}");
    }
    let token = signed(Algorithm::HS256, &EncodingKey::from_secret(public.as_bytes()), &claims());
    assert_eq!(user(tokens.read(None, token.as_bytes(), 0)), None);
}

/// What has to be understood and is not makes a token worth nothing (RFC 7515, section 4.1.11).
#[test]
fn extensions_that_nobody_understands() {
    let (algorithm, file, key) = pairs().remove(0);
    for (crit, expected) in [(None, Some("alice")), (Some(vec!["x".to_owned()]), None)] {
        let header = Header { crit, ..Header::new(algorithm) };
        let token = encode(&header, &claims(), &key).unwrap();
        assert_eq!(user(tokens(&file).read(None, token.as_bytes(), 0)).as_deref(), expected);
    }
}

#[test]
fn claims_have_to_be_what_is_asked_for() {
    let tokens = tokens(SECRET);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.to_owned(), value),
        };
        user(tokens.read(None, by_secret(&claims).as_bytes(), 0))
    };
    assert_eq!(with("sub", json!("bob")).as_deref(), Some("bob"));
    assert_eq!(with("aud", json!("mqtt")).as_deref(), Some("alice"));
    let now = in_an_hour() - 3600;
    for (name, value) in [
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("a\0b")),
        ("iss", Value::Null),
        ("iss", json!("them")),
        ("aud", Value::Null),
        ("aud", json!("web")),
        ("exp", Value::Null),
        ("exp", json!(now - 60)),
        ("exp", json!("soon")),
        ("nbf", json!(now + 600)),
        ("groups", json!(7)),
        ("groups", json!(["a", 7])),
        ("rights", json!("all")),
        ("rights", json!({ "publish": "a" })),
        ("rights", json!({ "publish": ["a/#/b"] })),
        ("rights", json!({ "admin": [] })),
    ] {
        assert_eq!(with(name, value.clone()), None, "{name} {value}");
    }
    let token = by_secret(&claims());
    let said = |user_name| user(tokens.read(user_name, token.as_bytes(), 0)).is_some();
    assert!(said(None) && said(Some("")) && said(Some("alice")) && !said(Some("bob")));
    for no_token in [&b"secret"[..], b"", b"a.b.c", b"..", b"a.b", b"\xff.\xff.\xff"] {
        assert!(matches!(tokens.read(Some("alice"), no_token, 0), Read::NoToken), "{no_token:?}");
    }
}

#[test]
fn a_token_says_groups_rights_and_its_end() {
    let tokens = tokens(SECRET);
    let mut claims = claims();
    claims["groups"] = json!(["staff", "night"]);
    claims["rights"] = json!({ "publish": ["up/%u/#"], "subscribe": ["down"] });
    let Read::Right(identity) = tokens.read(None, by_secret(&claims).as_bytes(), 5_000) else {
        panic!("it is right")
    };
    let groups: Vec<_> = identity.groups.iter().map(Text::as_str).collect();
    assert_eq!(groups, ["staff", "night"]);
    let left_s = (identity.ends_at_ms - 5_000) / 1000;
    assert!((3600..=3600 + LEEWAY_S).contains(&left_s), "{left_s}");
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let who = Who { user: Some("alice"), groups: &[], client_id: "c", listener: 0, address };
    let own = identity.own.as_ref().unwrap();
    assert_eq!(own.publishable(&who, None, "up/alice/x"), Publishable::EVERYTHING);
    assert_eq!(own.publishable(&who, None, "up/bob/x"), Publishable::NOTHING);
    assert!(own.subscribable(&who, None, "down").is_some());
    assert!(own.subscribable(&who, None, "up/alice/x").is_none());
    claims["groups"] = json!("a b");
    let Read::Right(identity) = tokens.read(None, by_secret(&claims).as_bytes(), 0) else {
        panic!("it is right")
    };
    assert_eq!(identity.groups.len(), 2);
}

#[test]
fn keys_are_found_by_their_name() {
    let secret = |byte: u8| vec![byte; 32];
    let jwk = |id: &str, byte: u8| json!({ "kty": "oct", "kid": id, "k": URL_SAFE_NO_PAD.encode(secret(byte)) });
    let set = json!({ "keys": [jwk("one", 1), jwk("two", 2)] }).to_string();
    let tokens = tokens(&set);
    let token = |kid: Option<&str>, byte: u8| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(&secret(byte))).unwrap()
    };
    let counts = |kid, byte| user(tokens.read(None, token(kid, byte).as_bytes(), 0)).is_some();
    assert!(counts(Some("one"), 1) && counts(Some("two"), 2));
    assert!(counts(None, 1) && counts(None, 2));
    assert!(!counts(Some("one"), 2) && !counts(Some("three"), 1) && !counts(None, 3));
}

#[test]
fn files_of_keys_that_are_none_say_why() {
    let many: Vec<_> = (0..17).map(|_| json!({ "kty": "oct", "k": "AAAA" })).collect();
    for (text, why) in [
        ("short", "too short"),
        ("", "too short"),
        ("{}", "no JWK Set (line 1"),
        ("{\"keys\": \"hunter2\"}", "no JWK Set (line 1"),
        ("{\"keys\": []}", "it has 0 keys"),
        (&json!({ "keys": many }).to_string(), "it has 17 keys"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "holds a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no public key"),
    ] {
        let error = Tokens::parse(text, Claims::default()).unwrap_err();
        assert!(error.contains(why) && !error.contains("hunter"), "{text}: {error}");
    }
}
