//! Files of tokens that let people and machines use the admin interface.
//!
//! A line is `name:role:hash`, the hash being SHA-256 of the token in hexadecimal digits. A token is 32 random
//! bytes, so a plain hash of it says nothing about it. Blank lines and those that begin with `#` count for nothing.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::passwords::Problem;

/// What a token is good for; each is good for what those before it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Numbers only.
    Metrics,
    /// Everything that changes nothing.
    Read,
    /// Everything.
    Operate,
}

impl Role {
    /// All of them, from the least.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Read, Self::Operate];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Somebody who may use the admin interface.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// What it is called in the log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    hash: [u8; 32],
}

/// Shows no hash.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}

/// A line of a file.
impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.name, self.role)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Bearer {
    /// Somebody with a new token, which is shown once and kept nowhere.
    ///
    /// # Errors
    /// The name cannot stand in a file, or the system gives no random numbers.
    pub fn make(name: &str, role: Role) -> Result<(Self, String), &'static str> {
        check_name(name)?;
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system gives no random numbers")?;
        let token = format!("petrel_{}", URL_SAFE_NO_PAD.encode(bytes));
        Ok((Self { name: name.to_owned(), role, hash: hash(&token) }, token))
    }

    /// Whether a token is this one.
    #[must_use]
    pub fn has(&self, token: &str) -> bool {
        verify_slices_are_equal(&self.hash, &hash(token)).is_ok()
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |char: char| char.is_ascii_alphanumeric() || "._@-".contains(char);
    match (1..=64).contains(&name.len()) && name.chars().all(fits) {
        true => Ok(()),
        false => Err("a name has up to 64 letters, digits, dots, hyphens, @ and underlines"),
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Everybody who may use the admin interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bearers(Vec<Bearer>);

impl Bearers {
    /// What a file says.
    ///
    /// # Errors
    /// All lines that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (mut bearers, mut problems) = (Vec::<Bearer>::new(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok(bearer) if bearers.iter().any(|it| it.name == bearer.name) => {
                    let text = format!("there are two tokens called {}", bearer.name);
                    problems.push(Problem { line: at + 1, text });
                }
                Ok(bearer) => bearers.push(bearer),
                Err(text) => problems.push(Problem { line: at + 1, text: text.to_owned() }),
            }
        }
        if problems.is_empty() { Ok(Self(bearers)) } else { Err(problems) }
    }

    /// Whose token it is.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&Bearer> {
        self.0.iter().find(|bearer| bearer.has(token))
    }

    /// True if nobody has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse_line(line: &str) -> Result<Bearer, &'static str> {
    let parts: Vec<_> = line.trim_end().split(':').collect();
    let [name, role, hex] = parts[..] else { return Err("a line is name:role:hash") };
    check_name(name)?;
    let role = Role::from_name(role).ok_or("a role is metrics, read or operate")?;
    let wrong = "the hash is 64 hexadecimal digits; petrelctl token writes it";
    let mut hash = [0; 32];
    // The sign that a number may have is no digit.
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong);
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| wrong)?;
    }
    Ok(Bearer { name: name.to_owned(), role, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_hash_and_shown_nowhere() {
        let (bearer, token) = Bearer::make("ops", Role::Read).expect("made");
        let other = Bearer::make("else", Role::Operate).expect("made").0;
        let file = format!("# tokens\n\n{bearer}\n{other}\n");
        assert!(!file.contains(&token) && !format!("{bearer:?}").contains("petrel_"));
        let bearers = Bearers::parse(&file).expect("a good file");
        assert_eq!(bearers.0.len(), 2);
        assert_eq!(bearers.find(&token), Some(&bearer));
        assert_eq!(bearers.find(&format!("{token}x")), None);
        assert_eq!(bearers.find(""), None);
        assert!(Role::Metrics < Role::Read && Role::Read < Role::Operate);
    }

    #[test]
    fn each_line_that_is_none_is_named() {
        let good = Bearer::make("ops", Role::Read).expect("made").0;
        let short = &good.to_string()[..20];
        let file = format!(
            "{good}\n{short}\nx:y\n{good}\na b:read:{}\nc:root:11\nd:read:{}\n",
            "0".repeat(64),
            "+f".repeat(32)
        );
        let problems = Bearers::parse(&file).expect_err("a bad file");
        let lines: Vec<_> = problems.iter().map(|it| (it.line, it.text.as_str())).collect();
        assert_eq!(
            lines,
            [
                (2, "the hash is 64 hexadecimal digits; petrelctl token writes it"),
                (3, "a line is name:role:hash"),
                (4, "there are two tokens called ops"),
                (5, "a name has up to 64 letters, digits, dots, hyphens, @ and underlines"),
                (6, "a role is metrics, read or operate"),
                (7, "the hash is 64 hexadecimal digits; petrelctl token writes it"),
            ]
        );
        assert!(Bearer::make("a:b", Role::Read).is_err() && Bearer::make("", Role::Read).is_err());
    }
}
