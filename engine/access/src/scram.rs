//! SCRAM-SHA-256 (RFC 5802, RFC 7677) by the enhanced authentication of MQTT 5: client and broker each prove to the
//! other that they know a password, which is never sent.
//!
//! A file of users has a line `user:verifier` or `user:verifier:group,group` for each. From a verifier the password
//! cannot be told, nor can somebody pose as the user. A step takes a few hashes, so the shard does it itself.
//! Whether there is a user is not told: a stranger gets a salt that is always the same, whichever shard it comes to
//! and, where something outlives the process, after a restart; and is refused at the end.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{ConnId, Identity, Verdict};

/// The name that clients put into Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// What a hash of ours is made with.
pub const ITERATIONS: u32 = 15_000;
/// Fewer are no obstacle to who has stolen a file, and RFC 7677 has no fewer.
const ITERATIONS_MIN: u32 = 4096;
/// More would keep a client busy for minutes.
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// What a client says in one step is no longer.
const STEP_BYTES_MAX: usize = 1024;
const NONCE_BYTES: usize = 18;

/// What is known of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a verifier of {} iterations", self.iterations)
    }
}

/// A file of users.
#[derive(Debug, Clone, Default)]
pub struct Users {
    all: HashMap<Box<str>, User>,
    /// What a stranger's password would be hashed with: as that of most users.
    usual_iterations: Option<u32>,
}

#[derive(Debug, Clone)]
struct User {
    verifier: Arc<Verifier>,
    groups: Vec<Text>,
}

/// The users of each listener, by its position, as far as it has any.
pub type ByListener = Vec<Option<Arc<Users>>>;

/// One shard's side of all exchanges.
pub struct Scram {
    listeners: ByListener,
    /// Exchanges that have begun, by the place of their connection: there is one for each at most.
    begun: HashMap<u32, Exchange>,
    /// Of strangers' salts.
    secret: hmac::Key,
    nonce: fn() -> Option<[u8; NONCE_BYTES]>,
}

struct Exchange {
    generation: u32,
    user: Text,
    groups: Vec<Text>,
    /// A stranger's is one that nobody has a password for.
    verifier: Arc<Verifier>,
    is_known: bool,
    /// As the client has written it.
    gs2_header: Box<str>,
    /// Both first messages, as they are signed.
    signed: String,
    nonce: Box<str>,
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    first(tag.as_ref())
}

fn hash(message: &[u8]) -> [u8; KEY_BYTES] {
    first(digest::digest(&digest::SHA256, message).as_ref())
}

fn first(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    key
}

impl Verifier {
    /// Of a password, with salt and iterations of one's own choice. *Cost*: as many hashes.
    #[must_use]
    pub fn of(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let stored_key = hash(&hmac(&salted, b"Client Key"));
        let server_key = hmac(&salted, b"Server Key");
        Self { iterations: iterations.get(), salt: salt.to_vec(), stored_key, server_key }
    }

    /// Of a password, with a salt that is random; `None` if the system has no random numbers.
    #[must_use]
    pub fn make(password: &[u8]) -> Option<Self> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).ok()?;
        Some(Self::of(password, &salt, NonZeroU32::new(ITERATIONS)?))
    }

    /// Reads what [`fmt::Display`] has written.
    ///
    /// # Errors
    /// A sentence that says nothing of the text itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WRONG: &str = "the verifier is none of SCRAM-SHA-256, as `petrelctl passwd --scram` \
                             writes it";
        let mut parts = text.split('$');
        let mut next = || parts.next().ok_or(WRONG);
        if !(next()?.is_empty() && next()? == "scram-sha-256") {
            return Err(WRONG.into());
        }
        let iterations = next()?.parse::<u32>().map_err(|_| WRONG)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "the verifier has {iterations} iterations, and {ITERATIONS_MIN} to {ITERATIONS_MAX} are \
                 allowed"
            ));
        }
        let mut bytes = || STANDARD.decode(next()?).map_err(|_| WRONG);
        let (salt, stored, server) = (bytes()?, bytes()?, bytes()?);
        let key = |bytes: Vec<u8>| <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| WRONG);
        if salt.is_empty() || salt.len() > 64 || parts.next().is_some() {
            return Err(WRONG.into());
        }
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

/// As it stands in a file of users.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] = [&self.salt[..], &self.stored_key, &self.server_key]
            .map(|bytes| STANDARD.encode(bytes));
        write!(f, "$scram-sha-256${}${salt}${stored}${server}", self.iterations)
    }
}

impl Users {
    /// Reads a file of users. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// Each line that is wrong, by its number, and why.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let (mut all, mut wrong) = (HashMap::new(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match user_of(line) {
                Ok((name, _)) if all.contains_key(&name) => {
                    wrong.push((at + 1, format!("there is another line for {name:?}")));
                }
                Ok((name, user)) => drop(all.insert(name, user)),
                Err(why) => wrong.push((at + 1, why)),
            }
        }
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for User { verifier, .. } in all.values() {
            *counts.entry(verifier.iterations).or_default() += 1;
        }
        let usual = counts.into_iter().max_by_key(|&(iterations, users)| (users, iterations));
        let usual_iterations = usual.map(|(iterations, _)| iterations);
        if wrong.is_empty() { Ok(Self { all, usual_iterations }) } else { Err(wrong) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

fn user_of(line: &str) -> Result<(Box<str>, User), String> {
    let mut parts = line.splitn(3, ':');
    let name = parts.next().unwrap_or_default();
    let verifier = parts.next().ok_or("the line has no colon; it should be user:verifier")?;
    if name.is_empty() {
        return Err("the user has no name".to_owned());
    }
    Text::try_from(name).map_err(|_| "the name cannot be a user name of MQTT")?;
    let verifier = Arc::new(Verifier::parse(verifier.trim_end())?);
    let groups = parts.next().unwrap_or_default().split(',').map(str::trim);
    let groups = groups.filter(|group| !group.is_empty()).map(Text::try_from);
    let groups = groups.collect::<Result<_, _>>().map_err(|_| "a group is no text of MQTT")?;
    Ok((name.into(), User { verifier, groups }))
}

/// What a client has said is no step of an exchange, or not the one that is due.
struct Wrong;

impl Scram {
    /// For these users. All shards have the same secret, which nobody else must know.
    #[must_use]
    pub fn new(listeners: ByListener, secret: [u64; 2]) -> Self {
        let secret = secret.map(u64::to_le_bytes).concat();
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &hmac(&secret, b"salts of strangers"));
        Self { listeners, begun: HashMap::new(), secret, nonce: random_nonce }
    }

    /// A connection has ended, in the middle of its exchange perhaps.
    pub fn forget(&mut self, conn: ConnId) {
        if self.begun.get(&conn.index).is_some_and(|it| it.generation == conn.generation) {
            self.begun.remove(&conn.index);
        }
        if self.begun.is_empty() && self.begun.capacity() > 0 {
            self.begun = HashMap::new();
        }
    }

    /// Other users from now on. Who is in the middle of an exchange goes on with what there was.
    pub fn set_users(&mut self, listeners: ByListener) {
        self.listeners = listeners;
    }

    /// Answers one step of the client of a connection.
    pub fn step(
        &mut self,
        (conn, listener): (ConnId, u16),
        data: Option<&[u8]>,
        starts: bool,
    ) -> Verdict {
        let Some(Some(users)) = self.listeners.get(usize::from(listener)).cloned() else {
            return Verdict::Refuse { reason: ReasonCode::BadAuthenticationMethod };
        };
        let said = data.filter(|said| said.len() <= STEP_BYTES_MAX);
        let said = said.and_then(|said| std::str::from_utf8(said).ok());
        let answered = match (said, starts) {
            (Some(said), true) => self.begin(conn, &users, said),
            (Some(said), false) => self.finish(conn, said),
            (None, _) => Err(Wrong),
        };
        answered.unwrap_or_else(|Wrong| {
            self.begun.remove(&conn.index);
            Verdict::Refuse { reason: ReasonCode::NotAuthorized }
        })
    }

    /// The client's first message: who it is, and its nonce.
    fn begin(&mut self, conn: ConnId, users: &Users, said: &str) -> Result<Verdict, Wrong> {
        // No channel binding, and perhaps the identity that it wants to act as, which must be its own.
        let mut parts = said.splitn(3, ',');
        let binding = parts.next().filter(|it| ["n", "y"].contains(it)).ok_or(Wrong)?;
        let acts_as = parts.next().ok_or(Wrong)?;
        let bare = parts.next().ok_or(Wrong)?;
        let mut fields = bare.split(',');
        let name = fields.next().and_then(|it| it.strip_prefix("n=")).ok_or(Wrong)?;
        let client_nonce = fields.next().and_then(|it| it.strip_prefix("r=")).ok_or(Wrong)?;
        let is_printable = |text: &str| text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
        // An extension that one has to know would stand before the name.
        if client_nonce.is_empty() || !is_printable(client_nonce) {
            return Err(Wrong);
        }
        let user = name_of(name)?;
        if !acts_as.is_empty() && acts_as.strip_prefix("a=").map(name_of) != Some(Ok(user.clone()))
        {
            return Err(Wrong);
        }
        let user = Text::try_from(user.as_str()).map_err(|_| Wrong)?;
        let known = users.all.get(user.as_str());
        let (verifier, groups) = match known {
            Some(User { verifier, groups }) => (Arc::clone(verifier), groups.clone()),
            None => (Arc::new(self.strange(users, user.as_str())), Vec::new()),
        };
        let own = (self.nonce)().ok_or(Wrong)?;
        let nonce = format!("{client_nonce}{}", STANDARD.encode(own));
        let salt = STANDARD.encode(&verifier.salt);
        let first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let exchange = Exchange {
            generation: conn.generation,
            user,
            groups,
            is_known: known.is_some(),
            verifier,
            gs2_header: format!("{binding},{acts_as},").into(),
            signed: format!("{bare},{first}"),
            nonce: nonce.into(),
        };
        self.begun.insert(conn.index, exchange);
        Ok(Verdict::Continue { data: Some(Bytes::from(first)) })
    }

    /// The client's last message: its proof.
    fn finish(&mut self, conn: ConnId, said: &str) -> Result<Verdict, Wrong> {
        let exchange = self.begun.remove(&conn.index);
        let exchange = exchange.filter(|it| it.generation == conn.generation).ok_or(Wrong)?;
        let (without_proof, proof) = said.rsplit_once(",p=").ok_or(Wrong)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|it| it.strip_prefix("c=")).ok_or(Wrong)?;
        let nonce = fields.next().and_then(|it| it.strip_prefix("r=")).ok_or(Wrong)?;
        if STANDARD.decode(binding).ok().as_deref() != Some(exchange.gs2_header.as_bytes())
            || nonce != &*exchange.nonce
        {
            return Err(Wrong);
        }
        let proof = STANDARD.decode(proof).map_err(|_| Wrong)?;
        if proof.len() != KEY_BYTES {
            return Err(Wrong);
        }
        let signed = format!("{},{without_proof}", exchange.signed);
        let Verifier { stored_key, server_key, .. } = &*exchange.verifier;
        let signature = hmac(stored_key, signed.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let is_right = verify_slices_are_equal(&hash(&client_key), stored_key).is_ok();
        if !is_right || !exchange.is_known {
            return Ok(Verdict::Refuse { reason: ReasonCode::NotAuthorized });
        }
        let own = STANDARD.encode(hmac(server_key, signed.as_bytes()));
        let Exchange { user, groups, .. } = exchange;
        let identity = Some(Arc::new(Identity { user, groups, ..Identity::default() }));
        Ok(Verdict::Accept { data: Some(Bytes::from(format!("v={own}"))), identity })
    }

    /// What stands for a user who is none: the same each time.
    fn strange(&self, users: &Users, user: &str) -> Verifier {
        let key: [u8; KEY_BYTES] = first(hmac::sign(&self.secret, user.as_bytes()).as_ref());
        let salt = key[..SALT_BYTES].to_vec();
        let iterations = users.usual_iterations.unwrap_or(ITERATIONS);
        Verifier { iterations, salt, stored_key: key, server_key: key }
    }
}

fn random_nonce() -> Option<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).ok()?;
    Some(nonce)
}

/// A name with `=2C` and `=3D` for comma and equals sign.
fn name_of(text: &str) -> Result<String, Wrong> {
    let mut name = String::new();
    let mut parts = text.split('=');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (sign, rest) = part.split_at_checked(2).ok_or(Wrong)?;
        name.push(match sign {
            "2C" => ',',
            "3D" => '=',
            _ => return Err(Wrong),
        });
        name.push_str(rest);
    }
    if name.is_empty() { Err(Wrong) } else { Ok(name) }
}

impl PartialEq for Wrong {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram").field("begun", &self.begun.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
