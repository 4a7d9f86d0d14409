//! Files of users, their passwords' hashes and their groups.
//!
//! A line is `user:hash`, or `user:hash:group,group`. Blank lines and those that begin with `#` count for nothing.
//! Hashes are argon2id in the usual form, as [`hash`] makes them; those of Mosquitto's files (`$6$` and `$7$`) are
//! understood as well.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{constant_time, digest, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use petrel_proto::Text;

/// The users of one file.
#[derive(Debug, Default)]
pub struct Passwords {
    users: HashMap<Box<str>, User>,
    /// One whose hash costs most.
    dearest: Option<Box<str>>,
    /// How often time was taken.
    #[cfg(test)]
    pub(crate) taken: std::sync::atomic::AtomicUsize,
}

/// A user of a file.
#[derive(Debug)]
pub struct User {
    hash: Hash,
    groups: Vec<Text>,
}

/// What is kept of a password. Shows nothing of itself.
#[derive(Clone)]
pub(crate) enum Hash {
    /// Argon2 as its text says.
    Argon2(Box<str>),
    /// SHA-512 over password and salt.
    Sha512 { salt: Vec<u8>, hash: Vec<u8> },
    /// PBKDF2 with HMAC and SHA-512.
    Pbkdf2 { rounds: NonZeroU32, salt: Vec<u8>, hash: Vec<u8> },
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// One problem of a file, with its line from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which line.
    pub line: usize,
    /// A sentence without its full stop.
    pub text: String,
}

/// Memory that one check of an argon2 hash may take, in KiB: a file must not bring the broker down.
const ARGON2_KIB_MAX: u32 = 1 << 20;
/// Passes over it.
const ARGON2_PASSES_MAX: u32 = 64;
const ARGON2_LANES_MAX: u32 = 16;
/// PBKDF2 rounds, a second or so.
const PBKDF2_ROUNDS_MAX: u32 = 4_000_000;
/// Random bytes before a password.
const SALT_BYTES: usize = 16;

/// What a hash of our own costs: 19 MiB and two passes, the least that OWASP recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Cost {
    fn default() -> Self {
        Self { memory_kib: Params::DEFAULT_M_COST, passes: Params::DEFAULT_T_COST }
    }
}

/// The line's part for a password, with a salt of its own.
///
/// *Cost*: some 20 ms, and as much memory as is said.
///
/// # Errors
/// The cost is out of bounds, or the system gives no random numbers.
pub fn hash(password: &[u8], cost: Cost) -> Result<String, String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|error| format!("no random numbers: {error}"))?;
    let of_bounds = || {
        format!(
            "{} KiB and {} passes are no cost for argon2; at least 8 KiB and one pass, at most \
             {ARGON2_KIB_MAX} KiB and {ARGON2_PASSES_MAX} passes",
            cost.memory_kib, cost.passes
        )
    };
    if cost.memory_kib > ARGON2_KIB_MAX || cost.passes > ARGON2_PASSES_MAX {
        return Err(of_bounds());
    }
    let params = Params::new(cost.memory_kib, cost.passes, 1, None).map_err(|_| of_bounds())?;
    let hashed = Argon2::from(params).hash_password_with_salt(password, &salt);
    hashed.map(|hash| hash.to_string()).map_err(|error| format!("argon2: {error}"))
}

impl Passwords {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut users: HashMap<Box<str>, User> = HashMap::new();
        let mut problems = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let taken = |name: &str| users.contains_key(name);
            match user_of(line, taken) {
                Ok((name, user)) => {
                    users.insert(name, user);
                }
                Err(text) => problems.push(Problem { line: at + 1, text }),
            }
        }
        let dearest = users.iter().max_by_key(|(_, user)| user.hash.cost());
        let dearest = dearest.map(|(name, _)| name.clone());
        if problems.is_empty() {
            Ok(Self {
                users,
                dearest,
                #[cfg(test)]
                taken: Default::default(),
            })
        } else {
            Err(problems)
        }
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The groups of a user whose password this is.
    ///
    /// *Cost*: that of the hash; of the dearest hash for a user that there is not, so that nobody learns who there
    /// is where all hashes cost the same.
    #[must_use]
    pub fn check(&self, user: &str, password: &[u8]) -> Checked<'_> {
        match self.users.get(user) {
            Some(user) if user.hash.is_of(password) => Checked::Right(&user.groups),
            Some(_) => Checked::Wrong,
            None => {
                self.take_time(password);
                Checked::Unknown
            }
        }
    }

    /// Takes as long as to check a password of the user whose hash costs most.
    pub(crate) fn take_time(&self, password: &[u8]) {
        #[cfg(test)]
        self.taken.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let dearest = self.dearest.as_ref().and_then(|name| self.users.get(name));
        // Whatever it says.
        let _ = dearest.map(|user| std::hint::black_box(user.hash.is_of(password)));
    }
}

/// What a file says of a user and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked<'a> {
    /// It is the user's, who is in these groups.
    Right(&'a [Text]),
    /// It is not.
    Wrong,
    /// There is no such user.
    Unknown,
}

/// The user of a line.
fn user_of(line: &str, taken: impl Fn(&str) -> bool) -> Result<(Box<str>, User), String> {
    let mut parts = line.splitn(3, ':');
    let name = parts.next().unwrap_or_default();
    let hash = parts.next().ok_or("the line has no colon; it should be user:hash")?;
    if name.is_empty() {
        return Err("the user has no name".to_owned());
    }
    if taken(name) {
        return Err(format!("there is another line for {name:?}"));
    }
    Text::try_from(name).map_err(|_| "the name cannot be a user name of MQTT")?;
    // Without what stands in front of it, which may be a password that was put in the wrong place.
    let hash = Hash::parse(hash)?;
    let groups = parts.next().unwrap_or_default();
    let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
    let groups = groups
        .map(|group| Text::try_from(group).map_err(|_| format!("{group:?} cannot be a group")))
        .collect::<Result<_, _>>()?;
    Ok((name.into(), User { hash, groups }))
}

impl Hash {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const NONE: &str = "there is no hash; `petrelctl passwd` makes one";
        if text.is_empty() {
            return Err(NONE.to_owned());
        }
        if text.starts_with("$argon2") {
            return Self::parse_argon2(text);
        }
        let wrong = || "the hash is cut off or has been changed".to_owned();
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| wrong());
        let parts: Vec<&str> = text.split('$').collect();
        let (rounds, salt, hash) = match parts[..] {
            ["", "6", salt, hash] => (None, bytes(salt)?, bytes(hash)?),
            ["", "7", rounds, salt, hash] => {
                let rounds = rounds.parse().map_err(|_| wrong())?;
                let rounds: NonZeroU32 = rounds;
                if rounds.get() > PBKDF2_ROUNDS_MAX {
                    return Err(format!("{rounds} rounds are more than {PBKDF2_ROUNDS_MAX}"));
                }
                (Some(rounds), bytes(salt)?, bytes(hash)?)
            }
            _ => {
                return Err(
                    "the hash is none that Petrel knows: it knows $argon2id$, $6$ and $7$; \
                            a password itself must never stand in the file"
                        .to_owned(),
                );
            }
        };
        if hash.len() != digest::SHA512_OUTPUT_LEN || salt.is_empty() {
            return Err(wrong());
        }
        Ok(match rounds {
            None => Self::Sha512 { salt, hash },
            Some(rounds) => Self::Pbkdf2 { rounds, salt, hash },
        })
    }

    fn parse_argon2(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| format!("the hash is no argon2 hash: {why}");
        let parsed = PasswordHash::new(text).map_err(|error| wrong(&error))?;
        let params = Params::try_from(&parsed).map_err(|error| wrong(&error))?;
        if parsed.hash.is_none() || parsed.salt.is_none() {
            return Err(wrong(&"it is cut off"));
        }
        if params.m_cost() > ARGON2_KIB_MAX
            || params.t_cost() > ARGON2_PASSES_MAX
            || params.p_cost() > ARGON2_LANES_MAX
        {
            return Err(format!(
                "the hash costs {} KiB, {} passes and {} lanes to check; at most {ARGON2_KIB_MAX}, \
                 {ARGON2_PASSES_MAX} and {ARGON2_LANES_MAX}",
                params.m_cost(),
                params.t_cost(),
                params.p_cost()
            ));
        }
        Ok(Self::Argon2(text.into()))
    }

    /// In constant time but for its kind and its cost.
    pub(crate) fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(text) => {
                // With the parameters of the text.
                PasswordHash::new(text)
                    .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
            Self::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                let made = context.finish();
                constant_time::verify_slices_are_equal(made.as_ref(), hash).is_ok()
            }
            Self::Pbkdf2 { rounds, salt, hash } => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, *rounds, salt, password, hash).is_ok()
            }
        }
    }

    /// What a check costs, as far as hashes can be told apart by it.
    pub(crate) fn cost(&self) -> (u8, u64) {
        match self {
            Self::Sha512 { .. } => (0, 0),
            Self::Pbkdf2 { rounds, .. } => (1, rounds.get().into()),
            Self::Argon2(text) => {
                let params = PasswordHash::new(text).ok().and_then(|it| Params::try_from(&it).ok());
                let cost = params.map(|it| u64::from(it.m_cost()) * u64::from(it.t_cost()));
                (2, cost.unwrap_or(0))
            }
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Argon2(_) => "argon2",
            Self::Sha512 { .. } => "sha512",
            Self::Pbkdf2 { .. } => "pbkdf2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

    fn one(line: &str) -> Passwords {
        Passwords::parse(line).unwrap()
    }

    fn wrong(line: &str) -> String {
        Passwords::parse(line).unwrap_err().remove(0).text
    }

    #[test]
    fn a_hash_of_ours_is_of_its_password_alone() {
        for password in [&b"secret"[..], b"", b"\xff\x00\xfe", &[b'x'; 70_000]] {
            let line = format!("alice:{}:staff, night", hash(password, CHEAP).unwrap());
            let users = one(&line);
            let groups = [Text::try_from("staff").unwrap(), Text::try_from("night").unwrap()];
            assert_eq!(users.check("alice", password), Checked::Right(&groups));
            assert_eq!(users.check("alice", b"other"), Checked::Wrong);
            assert_eq!(users.check("Alice", password), Checked::Unknown);
            assert!(!format!("{users:?}").contains('$'), "{users:?}");
        }
        assert_ne!(hash(b"a", CHEAP).unwrap(), hash(b"a", CHEAP).unwrap(), "the salts differ");
        assert!(hash(b"a", Cost { memory_kib: 1, passes: 1 }).is_err());
        assert!(hash(b"a", Cost { memory_kib: u32::MAX, passes: 1 }).is_err());
        assert!(hash(b"", Cost::default()).unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    /// Who is not there costs what the dearest hash of those who are costs.
    #[test]
    fn password_timing() {
        let dear = hash(b"secret", Cost { memory_kib: 128, passes: 2 }).unwrap();
        let cheap = hash(b"secret", CHEAP).unwrap();
        let users = Passwords::parse(&format!("alice:{cheap}\nbob:{dear}")).unwrap();
        assert_eq!(users.dearest.as_deref(), Some("bob"));
        for (number, nobody) in ["", "carol", "Alice", "bob\0"].iter().enumerate() {
            assert_eq!(users.check(nobody, b"secret"), Checked::Unknown);
            let taken = users.taken.load(std::sync::atomic::Ordering::Acquire);
            assert_eq!(taken as usize, number + 1, "a hash is computed for {nobody:?}");
        }
    }

    /// The hashes were made by `mosquitto_passwd` 2.0.11: `-b FILE roger lamp`, with `-H sha512` and without.
    #[test]
    fn hashes_of_mosquitto_are_understood() {
        for line in MOSQUITTO {
            let users = one(line);
            assert_eq!(users.check("roger", b"lamp"), Checked::Right(&[]), "{line}");
            assert_eq!(users.check("roger", b"lamP"), Checked::Wrong, "{line}");
        }
    }

    const MOSQUITTO: [&str; 2] = [
        "roger:$6$jwJZuSRkhSBVARsG$myI0/CO8mc6CkrWRArrGyFusvAznEvVNJtUkNXIB4h3iZFMmddJZyVhxeFlivWc6APoX3RebbJo5oqWYW+PY2Q==",
        "roger:$7$101$h+5LcsMPsNX646Td$IRfINSD1zwBcvumTRd6Cv+glWkqEvbYuWNRvCD+cucFNx+YM95Mz9vm52+wTQL4uq40HHS+p6YN71kw/8ySkrA==",
    ];

    #[test]
    fn lines_that_are_wrong_say_why() {
        let good = hash(b"x", CHEAP).unwrap();
        for (line, why) in [
            ("alice", "no colon"),
            (":x", "no name"),
            ("alice:", "no hash"),
            ("alice:secret", "a password itself must never"),
            ("alice:$5$abc$def", "none that Petrel knows"),
            ("alice:$6$abc", "none that Petrel knows"),
            ("alice:$6$YWJj$YWJj", "cut off"),
            ("alice:$7$0$YWJj$YWJj", "cut off"),
            ("alice:$7$4000000000$YWJj$YWJj", "are more than"),
            (
                "alice:$argon2id$v=19$m=4294967295,t=2,p=1$YWJjZGVmZ2g$YWJjZGVmZ2hpamtsbW5vcA",
                "to check",
            ),
            ("alice:$argon2id$v=19$m=64,t=1,p=1$YWJjZGVmZ2g", "cut off"),
            ("alice:$argon2id$what", "no argon2 hash"),
        ] {
            let text = wrong(line);
            assert!(text.contains(why), "{line}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        let twice = format!("# users\n\nalice:{good}\r\nalice:{good}\n");
        let problems = Passwords::parse(&twice).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 4));
        assert!(problems[0].text.contains("another line"));
        assert!(Passwords::parse("# nobody\n").unwrap().is_empty());
    }
}
