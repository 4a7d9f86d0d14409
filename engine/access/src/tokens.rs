//! JSON Web Tokens: who a client is, as somebody else has signed it.
//!
//! The token stands in the password. It is held to the algorithms of the key that it is checked with, whatever
//! its header says, and must have an end.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, decode, decode_header,
};
use petrel_proto::{Qos, Text};
use petrel_shard::Identity;
use petrel_shard::access::{Effect, Rule, Rules, Subjects};
use serde_json::{Map, Value};

/// What clocks may differ, in seconds.
const LEEWAY_S: u64 = 10;
/// Bytes of a secret that is shared: fewer can be guessed.
const SECRET_BYTES_MIN: usize = 32;
/// Keys that a token is tried with, at most.
const KEYS_MAX: usize = 16;

/// Whose tokens count, and what in them is what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be this, or have it.
    pub audience: Option<String>,
    /// The claim with the user name.
    pub user: String,
    /// The claim with the groups: a list, or words.
    pub groups: String,
    /// The claim with rights: `publish` and `subscribe`, each a list of topic filters.
    pub rights: Option<String>,
}

impl Default for Claims {
    fn default() -> Self {
        let (user, groups) = ("sub".to_owned(), "groups".to_owned());
        Self { issuer: None, audience: None, user, groups, rights: None }
    }
}

/// Keys that sign tokens, and what tokens have to say.
pub struct Tokens {
    keys: Vec<Key>,
    claims: Claims,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

/// What a token says.
#[derive(Debug)]
pub enum Read {
    /// Who the client is.
    Right(Arc<Identity>),
    /// It is signed by somebody else, has come to its end, or says what it must not.
    Wrong,
    /// It is no token.
    NoToken,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads the text of a file of keys: a JWK Set, public keys in PEM, or a secret that is shared with whoever signs.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn parse(text: &str, claims: Claims) -> Result<Self, String> {
        let found = match text.trim_start() {
            json if json.starts_with('{') => of_jwk_set(json)?,
            pem if pem.starts_with("-----BEGIN") => of_pem(pem)?,
            _ => {
                let secret = text.trim_end_matches(['\n', '\r']);
                if secret.len() < SECRET_BYTES_MIN {
                    return Err(format!(
                        "it is no JWK Set and no PEM, and for a secret it is too short: at least \
                         {SECRET_BYTES_MIN} bytes"
                    ));
                }
                vec![(None, DecodingKey::from_secret(secret.as_bytes()))]
            }
        };
        Self::of(found, claims)
    }

    /// Reads a JWK Set that was fetched. Keys for other uses and of other kinds stand in those too and are left
    /// out, and so are secrets: what is published is none.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn of_published(json: &[u8], claims: Claims) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(json).map_err(|_| "it is no JSON")?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("it is no JWK Set")?;
        let for_signatures = |key: &&Value| {
            key.get("use").is_none_or(|purpose| purpose == "sig")
                && key.get("kty").is_none_or(|kind| kind != "oct")
        };
        let usable = |key: &Value| {
            let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
            Some((jwk.common.key_id.clone(), DecodingKey::from_jwk(&jwk).ok()?))
        };
        Self::of(keys.iter().filter(for_signatures).filter_map(usable).collect(), claims)
    }

    fn of(found: Found, claims: Claims) -> Result<Self, String> {
        if found.is_empty() || found.len() > KEYS_MAX {
            return Err(format!(
                "it has {} keys that can sign; at least 1, at most {KEYS_MAX}",
                found.len()
            ));
        }
        let keys = found.into_iter().map(|(id, key)| {
            let validation = validation(key.family(), &claims);
            Key { id, key, validation }
        });
        Ok(Self { keys: keys.collect(), claims })
    }

    /// What a client's password says, if it is a token. A user name beside it must be the token's.
    ///
    /// *Cost*: a signature for each key that may have signed it; 50 to 100 µs for most.
    #[must_use]
    pub fn read(&self, user_name: Option<&str>, password: &[u8], now_ms: u64) -> Read {
        let Some(header) = header(password) else { return Read::NoToken };
        // RFC 7515, section 4.1.11: extensions that have to be understood, and we understand none.
        if header.crit.is_some() {
            return Read::Wrong;
        }
        // One that names a key is for that key, and for those that have no name.
        let named = |key: &&Key| match (&header.kid, &key.id) {
            (Some(named), Some(id)) => named == id,
            _ => true,
        };
        for key in self.keys.iter().filter(named) {
            match decode::<Map<String, Value>>(password, &key.key, &key.validation) {
                Ok(data) => {
                    return self
                        .identity(user_name, &data.claims, now_ms)
                        .map_or(Read::Wrong, |who| Read::Right(Arc::new(who)));
                }
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => {}
                    _ => return Read::Wrong,
                },
            }
        }
        Read::Wrong
    }

    /// True if a password is a token that names a key which is none of these.
    #[cfg(feature = "http")]
    pub(crate) fn lacks_key_of(&self, password: &[u8]) -> bool {
        let named = header(password).and_then(|header| header.kid);
        named.is_some_and(|named| self.keys.iter().all(|key| key.id.as_ref() != Some(&named)))
    }

    fn identity(
        &self,
        user_name: Option<&str>,
        claims: &Map<String, Value>,
        now_ms: u64,
    ) -> Option<Identity> {
        let user = claims.get(&self.claims.user)?.as_str().filter(|user| !user.is_empty())?;
        if user_name.is_some_and(|said| !said.is_empty() && said != user) {
            return None;
        }
        let groups = match claims.get(&self.claims.groups) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(words)) => {
                words.split_whitespace().map(text).collect::<Option<_>>()?
            }
            Some(Value::Array(names)) => {
                names.iter().map(|name| text(name.as_str()?)).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        let own = match self.claims.rights.as_ref().and_then(|claim| claims.get(claim)) {
            None => None,
            Some(rights) => Some(rules(rights.as_object()?)?),
        };
        let ends_at_ms = ends_at(claims.get("exp")?, now_ms)?;
        Some(Identity { user: text(user)?, groups, own, ends_at_ms })
    }
}

/// The header of a password that is a token.
pub(crate) fn header(password: &[u8]) -> Option<Header> {
    let is_token = password.iter().filter(|byte| **byte == b'.').count() == 2;
    is_token.then(|| decode_header(password).ok()).flatten()
}

pub(crate) fn text(text: &str) -> Option<Text> {
    Text::try_from(text).ok()
}

/// When a token ends, on the monotonic clock.
fn ends_at(exp: &Value, now_ms: u64) -> Option<u64> {
    let exp_s = exp.as_u64().or_else(|| exp.as_f64().map(|seconds| seconds as u64))?;
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
    let wall_ms = u64::try_from(wall_ms).ok()?;
    let left_ms = exp_s.saturating_add(LEEWAY_S).saturating_mul(1000).saturating_sub(wall_ms);
    Some(now_ms.saturating_add(left_ms))
}

/// The rights that stand in a token, or in an answer.
pub(crate) fn rules(rights: &Map<String, Value>) -> Option<Rules> {
    let mut rules = Rules::default();
    for (action, filters) in rights {
        let (publish, subscribe) = match action.as_str() {
            "publish" => (true, false),
            "subscribe" => (false, true),
            _ => return None,
        };
        let filters = filters.as_array()?.iter().map(|filter| text(filter.as_str()?));
        let filters: Vec<Text> = filters.collect::<Option<_>>()?;
        let effect = Effect::Allow { max_qos: Qos::ExactlyOnce, retain: true };
        rules
            .add(Rule { subjects: Subjects::default(), effect, publish, subscribe, filters })
            .ok()?;
    }
    Some(rules)
}

/// What a token has to fulfil that a key of this kind has signed.
fn validation(family: AlgorithmFamily, claims: &Claims) -> Validation {
    let algorithms: &[Algorithm] = match family {
        AlgorithmFamily::Hmac => &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
        AlgorithmFamily::Rsa => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmFamily::Ec => &[Algorithm::ES256, Algorithm::ES384],
        AlgorithmFamily::Ed => &[Algorithm::EdDSA],
    };
    let mut validation = Validation::new_for_family(family);
    validation.algorithms = algorithms.to_vec();
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp"]);
    if let Some(issuer) = &claims.issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    match &claims.audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        None => validation.validate_aud = false,
    }
    validation
}

type Found = Vec<(Option<String>, DecodingKey)>;

fn of_jwk_set(text: &str) -> Result<Found, String> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| {
        format!("it is no JWK Set (line {}, column {})", error.line(), error.column())
    })?;
    let keys = set.keys.into_iter().map(|jwk| {
        let key = DecodingKey::from_jwk(&jwk);
        let id = jwk.common.key_id;
        let name = id.clone().unwrap_or_default();
        key.map(|key| (id, key))
            .map_err(|error| format!("its key {name:?} cannot be used: {error}"))
    });
    keys.collect()
}

fn of_pem(text: &str) -> Result<Found, String> {
    const BEGIN: &str = "-----BEGIN";
    let mut found = Found::new();
    for part in text.split(BEGIN).skip(1) {
        let pem = format!("{BEGIN}{part}");
        if pem.contains("PRIVATE KEY") {
            return Err("it holds a private key; whoever signs keeps that, and only the public key belongs here".to_owned());
        }
        let bytes = pem.as_bytes();
        let key = DecodingKey::from_rsa_pem(bytes)
            .or_else(|_| DecodingKey::from_ec_pem(bytes))
            .or_else(|_| DecodingKey::from_ed_pem(bytes));
        match key {
            Ok(key) => found.push((None, key)),
            Err(_) => {
                return Err(
                    "it holds PEM that is no public key for RSA, ECDSA or Ed25519".to_owned()
                );
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
