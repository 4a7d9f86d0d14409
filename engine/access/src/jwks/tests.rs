//! Keys at a server that changes them as the test wants it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use petrel_shard::Question;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use serde_json::{Value, json};

use super::*;
use crate::back_end::{BackEnd, Kind};
use crate::http::Http;
use crate::testing::{
    BAD, Reply, Server, UNAVAILABLE, ask, chains, ok, outside, passwords, question, start_with,
    until, written,
};
use crate::{Check, Outside, Settings};

/// Somebody who signs.
struct Signer {
    id: &'static str,
    pair: KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { id, pair: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.der_bytes());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": x})
    }

    fn token(&self, user: &str) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let claims = json!({"sub": user, "exp": 4_102_444_800_u64});
        encode(&header, &claims, &EncodingKey::from_ed_der(&self.pair.serialize_der())).unwrap()
    }
}

fn set(signers: &[&Signer]) -> String {
    let mut keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    // Others that such sets have, and a secret that is none.
    keys.push(json!({"kty": "RSA", "use": "enc", "kid": "e", "n": "AQAB", "e": "AQAB"}));
    keys.push(json!({"kty": "oct", "kid": "o", "k": URL_SAFE_NO_PAD.encode(SECRET)}));
    keys.push(json!({"kty": "of the future", "kid": "f"}));
    json!({ "keys": keys }).to_string()
}

const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

/// What a server says, to be changed.
#[derive(Clone, Default)]
struct Says(Arc<Mutex<Option<String>>>);

impl Says {
    fn set(&self, text: Option<String>) {
        *lock(&self.0) = text;
    }

    /// A server that says it, or that it cannot.
    fn server(&self) -> Server {
        let says = self.clone();
        Server::start(move |_| match &*lock(&says.0) {
            Some(text) => ok(text),
            None => Reply::Status(503, String::new()),
        })
    }
}

fn address(server: &Server) -> Address {
    Address {
        url: server.url(),
        headers: Vec::new(),
        ca: None,
        connect_timeout_ms: 60_000,
        plaintext: false,
    }
}

fn check(server: &Server, refresh_ms: u64, on_failure: OnFailure) -> Check {
    let address = address(server);
    let terms = Terms { timeout_ms: 60_000, on_failure, ..Terms::default() };
    let source = Source { address, refresh_ms, claims: Claims::default() };
    Check::Fetched(Arc::new(Fetched::new("keys".to_owned(), terms, source).unwrap()))
}

/// So long that it is not fetched again by itself.
const NEVER_MS: u64 = 86_400_000;

fn with(token: &str) -> Question {
    question(1, 0, None, Some(token))
}

fn is(user: &str) -> Result<String, petrel_proto::ReasonCode> {
    Ok(user.to_owned())
}

#[test]
fn tokens_are_checked_with_keys_that_are_fetched() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let says = Says::default();
    says.set(Some(set(&[&one])));
    let server = says.server();
    let (outside, lines) = outside();
    let chain = vec![check(&server, NEVER_MS, OnFailure::Refuse), passwords(&[("bob", "b")])];
    let settings = Settings { refused_ms: 0, ..Settings::default() };
    let (office, mut desk) = start_with(settings, vec![chain], outside.clone());
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))), (false, is("alice")));
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))), (true, is("alice")));
    assert_eq!(ask(&mut desk, 0, question(1, 0, Some("bob"), Some("b"))).1, is("bob"));
    let forged = Signer::new("one");
    assert_eq!(ask(&mut desk, 0, with(&forged.token("alice"))).1, BAD);
    // What is published is no secret.
    let header = Header { kid: Some("o".to_owned()), ..Header::new(Algorithm::HS256) };
    let claims = json!({"sub": "alice", "exp": 4_102_444_800_u64});
    let by_secret = encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(ask(&mut desk, 0, with(&by_secret)).1, BAD);
    assert_eq!(server.seen().len(), 1);

    // A key that is not there has them fetched again, but not too often.
    says.set(Some(set(&[&one, &two])));
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, BAD);
    assert_eq!(server.seen().len(), 1);
    outside.clock.put_forward(AGAIN_MS);
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, is("carol"));
    assert_eq!(server.seen().len(), 2);
    for id in ["x", "y", "z"] {
        assert_eq!(ask(&mut desk, 0, with(&Signer::new(id).token("mallory"))).1, BAD);
    }
    assert_eq!(server.seen().len(), 2);

    // A key that is taken away counts no longer.
    says.set(Some(set(&[&two])));
    outside.clock.put_forward(AGAIN_MS);
    assert_eq!(ask(&mut desk, 0, with(&Signer::new("x").token("mallory"))).1, BAD);
    assert_eq!(ask(&mut desk, 0, with(&one.token("dave"))).1, BAD);
    assert_eq!(written(&lines), "");
    drop(desk);
    office.stop();
}

#[test]
fn without_keys_nobody_comes_in_and_old_ones_go_on() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let says = Says::default();
    let server = says.server();
    let (outside, lines) = outside();
    let settings = Settings { known_ms: 0, refused_ms: 0, ..Settings::default() };
    let chains = vec![
        vec![check(&server, NEVER_MS, OnFailure::Allow)],
        vec![check(&server, NEVER_MS, OnFailure::Next), passwords(&[("bob", "b")])],
    ];
    let (office, mut desk) = start_with(settings, chains, outside.clone());
    until("two that fail", || written(&lines).lines().count() == 2);
    assert!(written(&lines).contains("it answers with 503"), "{}", written(&lines));
    assert!(written(&lines).contains("there are none, and clients with tokens are not let in"));
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))).1, UNAVAILABLE);
    let at_other = |token: &str| question(1, 1, None, Some(token));
    assert_eq!(ask(&mut desk, 0, at_other(&one.token("alice"))).1, BAD, "it is the next one's");

    says.set(Some(set(&[&one])));
    outside.clock.put_forward(AGAIN_MS);
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))).1, is("alice"));
    until("it is said", || written(&lines).contains("info: authenticator \"keys\" has fetched"));

    says.set(Some("garbage".to_owned()));
    outside.clock.put_forward(AGAIN_MS);
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, UNAVAILABLE, "whose may it be?");
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))).1, is("alice"), "it goes on");
    assert!(written(&lines).contains("it is no JSON; those that there are go on"));
    drop(desk);
    office.stop();
}

#[test]
fn a_file_a_program_and_fetched_keys_make_a_chain() {
    let one = Signer::new("one");
    let says = Says::default();
    says.set(Some(set(&[&one])));
    let keys = says.server();
    let web = Server::start(|request| {
        let is_known = request.json()["user"] == "web";
        ok(if is_known { r#"{"result": "allow"}"# } else { r#"{"result": "next"}"# })
    });
    let address = address(&web);
    let terms = Terms { timeout_ms: 60_000, ..Terms::default() };
    let program = Kind::Http(Http::new(&address, 1).unwrap());
    let chain = vec![
        passwords(&[("bob", "b")]),
        Check::Asks(Arc::new(BackEnd::new("web".to_owned(), terms, program))),
        check(&keys, NEVER_MS, OnFailure::Refuse),
        passwords(&[("last", "l")]),
    ];
    let (office, mut desk) = start_with(Settings::default(), vec![chain], Outside::default());
    let token = one.token("alice");
    for (user, password, said) in [
        ("bob", "b", is("bob")),
        ("bob", "x", BAD),
        ("web", "x", is("web")),
        ("alice", &*token, is("alice")),
        // It is not hers.
        ("carol", &*token, BAD),
        ("alice", &*Signer::new("one").token("alice"), BAD),
        ("last", "l", is("last")),
        ("nobody", "x", BAD),
    ] {
        let asked = question(1, 0, Some(user), Some(password));
        assert_eq!(ask(&mut desk, 0, asked), (false, said), "{user}");
    }
    assert_eq!((web.seen().len(), keys.seen().len()), (6, 1));
    drop(desk);
    office.stop();
}

#[test]
fn keys_are_fetched_ever_again_and_outlive_other_checks() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let says = Says::default();
    says.set(Some(set(&[&one])));
    let server = says.server();
    let settings = Settings { known_ms: 0, refused_ms: 0, ..Settings::default() };
    let chain = || vec![check(&server, 20, OnFailure::Refuse)];
    let (outside, lines) = outside();
    let (office, mut desk) = start_with(settings, vec![chain()], outside);
    assert_eq!(ask(&mut desk, 0, with(&one.token("alice"))).1, is("alice"));
    says.set(Some(set(&[&two])));
    // Without a token that asks for it.
    until("the other key", || ask(&mut desk, 0, with(&one.token("alice"))).1 == BAD);
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, is("carol"));

    says.set(None);
    until("it fails", || written(&lines).contains("those that there are go on"));
    office.set_checks(chains(vec![chain()])).unwrap();
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, is("carol"), "with those of before");
    office.set_checks(chains(vec![vec![passwords(&[("bob", "b")])]])).unwrap();
    assert_eq!(ask(&mut desk, 0, with(&two.token("carol"))).1, BAD);
    drop(desk);
    office.stop();
}
