//! The topic filters of rules, level by level.

use super::Who;

/// Levels that a rule's filter may have.
const LEVELS_MAX: usize = 128;

/// One level of a rule's filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// This text.
    Text(Box<str>),
    /// Text with values of the client in it.
    Template(Template),
    /// `+`.
    Any,
    /// `#`.
    Rest,
}

/// A level with `%u` or `%c` in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Template(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Text(Box<str>),
    User,
    ClientId,
}

/// What a template is for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Level,
    /// It has no value for something.
    Nothing,
    /// A value would be more than a part of one level.
    Harmful,
}

/// The levels of a rule's filter.
///
/// # Errors
/// It is no topic filter.
pub(super) fn parse(filter: &str) -> Result<Vec<Level>, String> {
    let wrong = |why: &str| Err(format!("{filter:?} {why}"));
    if filter.is_empty() {
        return wrong("is no topic filter: it is empty");
    }
    if filter.starts_with("$share/") {
        return wrong("names a shared subscription; a rule names what follows, and is for both");
    }
    let levels: Vec<&str> = filter.split('/').collect();
    if levels.len() > LEVELS_MAX {
        return wrong(&format!("has more than {LEVELS_MAX} levels"));
    }
    let mut parsed = Vec::with_capacity(levels.len());
    for (at, level) in levels.iter().enumerate() {
        parsed.push(match *level {
            "+" => Level::Any,
            "#" if at + 1 == levels.len() => Level::Rest,
            "#" => return wrong("has a # that is not its last level"),
            level if level.contains(['+', '#']) => {
                return wrong("has a wildcard that shares its level with other characters");
            }
            level => match Template::parse(level) {
                Ok(level) => level,
                Err(why) => return wrong(why),
            },
        });
    }
    Ok(parsed)
}

impl Template {
    /// A level, which is a template if anything is to be put into it. `%%` is a `%`.
    fn parse(level: &str) -> Result<Level, &'static str> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut characters = level.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let part = match characters.next() {
                Some('u') => Part::User,
                Some('c') => Part::ClientId,
                Some('%') => {
                    text.push('%');
                    continue;
                }
                _ => return Err("has a % that no u, c or % follows; a % itself is written %%"),
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(part);
        }
        if parts.is_empty() {
            return Ok(Level::Text(text.into()));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Level::Template(Self(parts.into())))
    }

    /// Whether a level is what this becomes for a client. What a client chooses is never more than a part of one
    /// level, and never begins a name of the broker's own: such a value matches no level, or if it is `strict`
    /// any. What has no value matches none.
    pub(super) fn is(&self, who: &Who<'_>, level: &str, is_first: bool, strict: bool) -> bool {
        match self.becomes(who, is_first) {
            Becomes::Nothing => false,
            Becomes::Harmful => strict,
            Becomes::Level => {
                let mut rest = Some(level);
                for part in &self.0 {
                    rest = rest.and_then(|rest| rest.strip_prefix(part.of(who)?));
                }
                rest == Some("")
            }
        }
    }

    /// Whether there is any level that [`Self::is`] takes.
    pub(super) fn is_any(&self, who: &Who<'_>, is_first: bool, strict: bool) -> bool {
        match self.becomes(who, is_first) {
            Becomes::Nothing => false,
            Becomes::Harmful => strict,
            Becomes::Level => true,
        }
    }

    fn becomes(&self, who: &Who<'_>, is_first: bool) -> Becomes {
        let mut becomes = Becomes::Level;
        for (at, part) in self.0.iter().enumerate() {
            let Some(value) = part.of(who) else { return Becomes::Nothing };
            let begins_own = is_first && at == 0 && value.starts_with('$');
            if !matches!(part, Part::Text(_)) && (!is_harmless(value) || begins_own) {
                becomes = Becomes::Harmful;
            }
        }
        becomes
    }

    /// Whether what it becomes begins a name of the broker's own, which leading wildcards do not match.
    pub(super) fn is_system(&self) -> bool {
        matches!(self.0.first(), Some(Part::Text(text)) if text.starts_with('$'))
    }
}

impl Part {
    fn of<'a>(&'a self, who: &Who<'a>) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::User => who.user,
            Self::ClientId => Some(who.client_id),
        }
    }
}

/// Whether a value stays within one level.
fn is_harmless(value: &str) -> bool {
    !value.is_empty() && !value.contains(['+', '#', '/', '\0'])
}
