//! What lines are about, how much they matter, and which are wanted.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much a line matters; of an area, up to which level its lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Of an area only: nothing is wanted.
    Off,
    /// Something failed.
    Error,
    /// Something is not as wanted, and Petrel goes on.
    Warn,
    /// What the operator should know, or may want to.
    Info,
}

impl Level {
    /// The names in the configuration and in lines.
    pub const NAMES: &'static [&'static str] = &["off", "error", "warn", "info"];

    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Off, Self::Error, Self::Warn, Self::Info];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The level for its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// As syslog counts them.
    pub(super) const fn priority(self) -> u8 {
        match self {
            Self::Off | Self::Error => 3,
            Self::Warn => 4,
            Self::Info => 6,
        }
    }
}

/// In as many columns as the longest.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:5}", self.name())
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Area {
    /// The process: start, stop, configuration.
    Broker,
    /// Clients that come and go.
    Clients,
    /// Who clients are.
    Authentication,
    /// Messages that somebody does not get.
    Messages,
    /// Listeners, certificates, and connections before their CONNECT.
    Listeners,
    /// What outlives the process.
    Storage,
    /// How much there is to do.
    Load,
    /// What operators ask for.
    Admin,
}

/// How many areas there are.
pub const AREAS: usize = 8;

impl Area {
    /// All of them, in order.
    pub const ALL: [Self; AREAS] = [
        Self::Broker,
        Self::Clients,
        Self::Authentication,
        Self::Messages,
        Self::Listeners,
        Self::Storage,
        Self::Load,
        Self::Admin,
    ];

    /// Its name in the configuration and in lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Clients => "clients",
            Self::Authentication => "authentication",
            Self::Messages => "messages",
            Self::Listeners => "listeners",
            Self::Storage => "storage",
            Self::Load => "load",
            Self::Admin => "admin",
        }
    }

    /// The area for its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|area| area.name() == name)
    }
}

/// Up to which level the lines of each area are wanted, by [`Area::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels(pub [Level; AREAS]);

impl Levels {
    /// What is wanted of an area.
    #[must_use]
    pub const fn of(&self, area: Area) -> Level {
        self.0[area as usize]
    }
}

/// What comes with every client is left out, so that what they do that they should not is seen.
impl Default for Levels {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

const DEFAULT: [Level; AREAS] = {
    let mut levels = [Level::Info; AREAS];
    levels[Area::Clients as usize] = Level::Warn;
    levels[Area::Authentication as usize] = Level::Warn;
    levels[Area::Messages as usize] = Level::Warn;
    levels
};

static WANTED: [AtomicU8; AREAS] = {
    let mut levels = [const { AtomicU8::new(0) }; AREAS];
    let mut at = 0;
    while at < AREAS {
        levels[at] = AtomicU8::new(DEFAULT[at] as u8);
        at += 1;
    }
    levels
};

/// Whether lines of this level are wanted of an area.
///
/// *Cost*: one relaxed load.
#[inline]
#[must_use]
pub fn is_on(area: Area, level: Level) -> bool {
    WANTED[area as usize].load(Ordering::Relaxed) >= level as u8
}

/// Lines of an area are wanted up to this level from now on. Called from any thread.
pub fn set_level(area: Area, level: Level) {
    WANTED[area as usize].store(level as u8, Ordering::Relaxed);
}

/// Up to which level the lines of each area are wanted now.
#[must_use]
pub fn levels() -> Levels {
    let level = |area: Area| Level::ALL[usize::from(WANTED[area as usize].load(Ordering::Relaxed))];
    Levels(Area::ALL.map(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for area in Area::ALL {
            assert_eq!(Area::from_name(area.name()), Some(area));
            assert_eq!(Area::ALL[area as usize], area);
        }
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!((Area::from_name("x"), Level::from_name("trace")), (None, None));
    }

    /// No other test of this process looks at the area.
    #[test]
    fn a_level_is_changed_while_it_runs() {
        let area = Area::Admin;
        assert!(is_on(area, Level::Info));
        set_level(area, Level::Off);
        assert!(!is_on(area, Level::Error));
        assert_eq!(levels().of(area), Level::Off);
        set_level(area, Level::Warn);
        assert!(is_on(area, Level::Warn) && !is_on(area, Level::Info));
        set_level(area, Level::Info);
    }
}
