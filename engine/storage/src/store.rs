//! What a lane needs of a disk: a log, and a few ordered maps, written in batches.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;

/// One of the maps of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What is known of the folder as a whole, by name.
    Meta,
    /// Sessions and shared groups, by incarnation.
    Session,
    /// Subscriptions, by incarnation and filter.
    Subscription,
    /// Pages of messages that wait, by incarnation and the sequence number of the last.
    Queue,
    /// QoS 2 messages received and not released, by incarnation and packet identifier.
    Receipt,
    /// Retained messages, by topic name.
    Retained,
    /// How far the receipts of a stream have come.
    Stream,
    /// Messages that wait for several sessions, by name, and how many wait.
    Shared,
}

impl Space {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Meta,
        Self::Session,
        Self::Subscription,
        Self::Queue,
        Self::Receipt,
        Self::Retained,
        Self::Stream,
        Self::Shared,
    ];

    /// Its name in the folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Queue => "queue",
            Self::Receipt => "receipt",
            Self::Retained => "retained",
            Self::Stream => "stream",
            Self::Shared => "shared",
        }
    }

    /// The space with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// In the order in which they were asked for; no key twice.
    pub changes: Vec<Change>,
}

/// One change of a [`Batch`].
#[derive(Debug, Clone)]
pub struct Change {
    /// In this map.
    pub space: Space,
    /// Of this key.
    pub key: Bytes,
    /// To this value; `None` removes the key.
    pub value: Option<Bytes>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change { space, key: key.into(), value: Some(value.into()) });
    }

    /// Removes a key.
    pub fn remove(&mut self, space: Space, key: impl Into<Bytes>) {
        self.changes.push(Change { space, key: key.into(), value: None });
    }

    /// True if nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Why a store could not do what was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has the folder.
    InUse {
        /// The folder.
        path: String,
    },
    /// There is no room.
    Full {
        /// What the system says.
        why: String,
    },
    /// A write or a read failed. What was not synchronised may be lost.
    Failed {
        /// What the system says.
        why: String,
    },
    /// The store holds what it cannot hold.
    Damaged {
        /// What is wrong, and where.
        what: String,
    },
    /// The folder was made by another version, or for other settings.
    Foreign {
        /// In which respect, and what to do.
        what: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path } => write!(f, "{path} is in use by another process"),
            Self::Full { why } => write!(f, "there is no room: {why}"),
            Self::Failed { why } => write!(f, "the disk failed: {why}"),
            Self::Damaged { what } => write!(f, "the data is damaged: {what}"),
            Self::Foreign { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for StoreError {}

/// What is shown of each key and value; it says whether to go on.
pub type Visitor<'a> = dyn FnMut(&Bytes, &Bytes) -> ControlFlow<()> + 'a;

/// A log and ordered maps that outlive the process.
///
/// What is appended and what is written has an order each, and none between them: a failure may lose a
/// suffix of either that was not synchronised. After an error nothing is known of what was not, and
/// nothing may be asked but [`Store::reopen`].
pub trait Store {
    /// Reads the batches of the log from the number `from` on, which were surely written up to there.
    /// Those from `below` on are left out and forgotten. Comes before [`Store::append`].
    ///
    /// # Errors
    /// See [`StoreError`].
    fn read_log(&mut self, from: u64, below: u64) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// Appends a batch to the log, with the number behind the last. With `sync`, it and all before it
    /// survive whatever happens once this returns.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn append(&mut self, number: u64, batch: &Bytes, sync: bool) -> Result<(), StoreError>;

    /// Makes everything that was appended survive.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn sync_log(&mut self) -> Result<(), StoreError>;

    /// Batches below this number may go from the log; what was written of them into the maps survives
    /// before they do.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn release_log(&mut self, below: u64) -> Result<(), StoreError>;

    /// Carries out a batch of changes in the maps. With `sync`, it and everything before it survives
    /// once this returns.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), StoreError>;

    /// Gives back what the disk has of what was removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn shrink(&mut self) -> Result<(), StoreError>;

    /// The value of a key.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Shows the keys from `from` on, in order, for as long as `visit` goes on.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// Shows the keys from `from` on that begin with a prefix, in order, for as long as `visit` goes on.
    ///
    /// *Cost*: what was removed from the keys with another prefix is not passed over.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan_prefix(
        &self,
        space: Space,
        prefix: [u8; 8],
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError>;

    /// Opens the store again after an error, with what has survived.
    ///
    /// # Errors
    /// See [`StoreError`]; among them that [`Maps`] of it are still held somewhere.
    fn reopen(&mut self) -> Result<(), StoreError>;

    /// All maps as they are now, for somebody else to read while the store goes on.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn maps(&self) -> Result<Box<dyn Maps>, StoreError>;
}

/// The maps of a [`Store`] at one moment; what is written later is not in them.
pub trait Maps: Send {
    /// Shows the keys from `from` on, in order, for as long as `visit` goes on.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// What the store takes of its disk now.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn usage(&self) -> Result<Usage, StoreError>;
}

/// What a store takes of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in tables, by space.
    pub spaces: [(Space, u64); Space::ALL.len()],
    /// Bytes of the journals, with what is reserved of the newest.
    pub journal_bytes: u64,
    /// Bytes of the log, with what is reserved for it.
    pub log_bytes: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (space, bytes) in self.spaces {
            writeln!(f, "{:14} {bytes:14} bytes", space.name())?;
        }
        writeln!(f, "{:14} {:14} bytes", "journals", self.journal_bytes)?;
        write!(f, "{:14} {:14} bytes", "log", self.log_bytes)
    }
}
