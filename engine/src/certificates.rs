//! The certificates of a running broker: read when it starts, when it is told, and when their files
//! change; and watched for their end.
//!
//! All listeners or none: whatever is wrong with one file leaves everything as it was. Files are looked
//! at from a thread of its own, which never waits for a shard. A change is taken when nothing has changed
//! for [`SETTLED_LOOKS`] looks, so that a file which is being written, or a key whose certificate is still
//! to come, is not taken for what it will be. What is wrong then is told once, and looked at again when a
//! file changes again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use petrel_net::Protocol;
use petrel_net::certificate::validity::{Dated, DatedKind};
use petrel_net::tls::{TicketSecret, TlsConfigError};
use petrel_net::websocket::WebSocketConfig;

use crate::config::{Config, Listener};
use crate::log::{self, Event, Level};

/// How often somebody looks whether files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks between which nothing must have changed before files are read.
const SETTLED_LOOKS: u32 = 2;

/// How often it is told that something ends soon.
const TELL_EVERY: Duration = Duration::from_secs(86_400);

/// How often it is looked whether there is more to be told.
const ASK_EVERY: Duration = Duration::from_secs(3_600);

/// When the certificate that ends first does, in seconds since 1970.
#[derive(Debug, Clone)]
pub struct Ends(Arc<AtomicI64>);

const NEVER: i64 = i64::MAX;

impl Default for Ends {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NEVER)))
    }
}

impl Ends {
    /// Seconds until then, below 0 if it has ended; `None` if there are no certificates.
    #[must_use]
    pub fn in_s(&self) -> Option<i64> {
        let at = self.0.load(Ordering::Relaxed);
        (at != NEVER).then(|| at.saturating_sub(now_s()))
    }
}

/// What is given to the listeners, and the thread that looks after it.
pub struct Certificates {
    shared: Arc<Shared>,
    watcher: Option<Watcher>,
}

struct Shared {
    listeners: Vec<Listener>,
    secret: TicketSecret,
    warn_days: u32,
    ends: Ends,
    /// Held by whoever reads files, until what was read is given out.
    state: Mutex<State>,
}

/// What was read last.
#[derive(Default)]
struct State {
    stamps: Vec<Stamp>,
    dated: Vec<OfListener>,
    /// Of which of them was told, and whether they had ended; and when.
    told: Vec<(usize, bool)>,
    told_at: Option<Instant>,
}

/// Something that ends some day, and the name of its listener.
type OfListener = (String, Dated);

/// What tells a file from another, and from what it was; `None` if it is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// The thread, and its end.
struct Watcher {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// The right to read the files and to give out what they say; one at a time.
pub struct Turn<'a> {
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
}

/// What was read and is not given out.
pub struct Fresh {
    protocols: Vec<Protocol>,
    stamps: Vec<Stamp>,
    dated: Vec<OfListener>,
}

impl Certificates {
    /// Those of a configuration. Nothing is read.
    #[must_use]
    pub fn new(config: &Config, secret: TicketSecret) -> Self {
        let shared = Shared {
            listeners: config.listeners.clone(),
            secret,
            warn_days: config.engine.certificate_warn_days,
            ends: Ends::default(),
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared), watcher: None }
    }

    /// When the first of them ends.
    #[must_use]
    pub fn ends(&self) -> Ends {
        self.shared.ends.clone()
    }

    /// Waits until nobody else reads.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        self.shared.turn()
    }

    /// Reads the files again whenever they change, from now on, and has `give` give each listener, by its
    /// position, what its connections get.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn watch(&mut self, give: impl Fn(u16, &Protocol) + Send + 'static) -> io::Result<()> {
        if self.shared.files().next().is_none() {
            return Ok(());
        }
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let watch = move || shared.watch(&stopped, &give);
        let thread = std::thread::Builder::new().name("certificates".into()).spawn(watch)?;
        self.watcher = Some(Watcher { stop, thread });
        Ok(())
    }

    /// Ends the thread.
    pub fn stop(self) {
        if let Some(Watcher { stop, thread }) = self.watcher {
            drop(stop);
            // A thread that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

impl Turn<'_> {
    /// Reads everything.
    ///
    /// # Errors
    /// What is wrong with a file; nobody tries again by itself until a file changes again.
    pub fn read(&mut self) -> Result<Fresh, TlsConfigError> {
        // Before the files: what changes while they are read is found to have changed.
        let stamps = self.shared.stamps();
        match self.read_all() {
            Ok((protocols, dated)) => Ok(Fresh { protocols, stamps, dated }),
            Err(error) => {
                self.state.stamps = stamps;
                Err(error)
            }
        }
    }

    fn read_all(&self) -> Result<(Vec<Protocol>, Vec<OfListener>), TlsConfigError> {
        let mut protocols = Vec::new();
        let mut dated = Vec::new();
        for listener in &self.shared.listeners {
            let protocol = protocol(listener, &self.shared.secret)?;
            if let Protocol::Mqtts(tls) | Protocol::Wss(tls, _) = &protocol {
                let named = |it: &Dated| (listener.name.clone(), it.clone());
                dated.extend(tls.dated().iter().map(named));
            }
            protocols.push(protocol);
        }
        Ok((protocols, dated))
    }

    /// Keeps what was read, and says what of it ends soon. Has `give` give each listener, by its position,
    /// what its connections get, before anybody else reads; returns the same.
    pub fn take(mut self, fresh: Fresh, give: impl Fn(u16, &Protocol)) -> Vec<Protocol> {
        for (index, protocol) in fresh.protocols.iter().enumerate() {
            // There are few listeners.
            give(index as u16, protocol);
        }
        *self.state = State { stamps: fresh.stamps, dated: fresh.dated, ..State::default() };
        let own = self.state.dated.iter().filter(|(_, it)| it.kind == DatedKind::Certificate);
        let ends = own.filter_map(|(_, it)| it.until_s).min().unwrap_or(NEVER);
        self.shared.ends.0.store(ends, Ordering::Relaxed);
        self.remind();
        fresh.protocols
    }

    /// Says what ends soon or has ended, unless that is what was said last and lately.
    fn remind(&mut self) {
        let now_s = now_s();
        let mut troubles = Vec::new();
        for (at, (_, dated)) in self.state.dated.iter().enumerate() {
            let complaint = dated.complaint(now_s, self.shared.warn_days);
            troubles.extend(complaint.map(|it| (at, it.is_urgent())));
        }
        let is_old = self.state.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !is_old && troubles == self.state.told {
            return;
        }
        self.state.told_at = Some(Instant::now());
        for (at, _) in &troubles {
            let (listener, dated) = &self.state.dated[*at];
            if let Some(complaint) = dated.complaint(now_s, self.shared.warn_days) {
                let text = format_args!("listener {listener}: {complaint}");
                log::say(Event::Certificates, Level::Warn, &[], text);
            }
        }
        self.state.told = troubles;
    }
}

impl Shared {
    fn turn(&self) -> Turn<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { shared: self, state }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.listeners.iter().flat_map(Listener::tls_files)
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.files().map(stamp).collect()
    }

    fn watch(&self, stopped: &mpsc::Receiver<()>, give: &impl Fn(u16, &Protocol)) {
        let mut asked = Instant::now();
        let mut settling = Settling::default();
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let stamps = self.stamps();
            let turn = self.turn();
            if settling.is_ripe(&turn.state.stamps, &stamps) {
                self.read_again(turn, &stamps, give);
            } else {
                drop(turn);
            }
            if asked.elapsed() >= ASK_EVERY {
                asked = Instant::now();
                self.turn().remind();
            }
        }
    }

    fn read_again(&self, mut turn: Turn<'_>, stamps: &[Stamp], give: &impl Fn(u16, &Protocol)) {
        let changed = self.changed(&turn.state.stamps, stamps);
        match turn.read() {
            Ok(fresh) => {
                let text = format_args!(
                    "{} changed: certificates are read again, for new connections",
                    changed.display()
                );
                log::say(Event::Certificates, Level::Info, &[], text);
                turn.take(fresh, give);
            }
            Err(error) => {
                let text = format_args!(
                    "{} changed: {error}; the certificates of before stay in use",
                    changed.display()
                );
                log::say(Event::Certificates, Level::Error, &[], text);
            }
        }
    }

    /// The first file that is not what it was.
    fn changed(&self, before: &[Stamp], now: &[Stamp]) -> PathBuf {
        let mut stamps = before.iter().zip(now);
        let at = stamps.position(|(before, now)| before != now).unwrap_or(0);
        self.files().nth(at).map_or_else(PathBuf::new, Path::to_owned)
    }
}

/// Since when files are as they are.
#[derive(Debug, Default)]
struct Settling {
    looks: u32,
    stamps: Vec<Stamp>,
}

impl Settling {
    /// Whether the files differ from what was read, and have been as they are for long enough.
    fn is_ripe(&mut self, read: &[Stamp], now: &[Stamp]) -> bool {
        if read == now {
            *self = Self::default();
            return false;
        }
        if self.stamps == now {
            self.looks += 1;
        } else {
            *self = Self { looks: 0, stamps: now.to_vec() };
        }
        self.looks >= SETTLED_LOOKS
    }
}

/// What a listener gives to its connections.
fn protocol(listener: &Listener, secret: &TicketSecret) -> Result<Protocol, TlsConfigError> {
    let tls = listener.load_tls(secret)?;
    let websocket = listener.protocol.is_websocket().then(|| {
        Arc::new(WebSocketConfig { path: listener.path.clone(), ..WebSocketConfig::default() })
    });
    Ok(match (tls, websocket) {
        (None, None) => Protocol::Mqtt,
        (Some(tls), None) => Protocol::Mqtts(tls),
        (None, Some(websocket)) => Protocol::Ws(websocket),
        (Some(tls), Some(websocket)) => Protocol::Wss(tls, websocket),
    })
}

fn stamp(file: &Path) -> Stamp {
    // What a link leads to: the file that is read.
    let meta = fs::metadata(file).ok()?;
    let modified = (meta.mtime(), meta.mtime_nsec());
    let changed = (meta.ctime(), meta.ctime_nsec());
    Some((meta.dev(), meta.ino(), meta.len(), modified, changed))
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(numbers: &[u64]) -> Vec<Stamp> {
        numbers.iter().map(|number| Some((0, *number, 0, (0, 0), (0, 0)))).collect()
    }

    #[test]
    fn files_are_read_when_nothing_has_changed_for_two_looks() {
        let mut settling = Settling::default();
        let read = stamps(&[1, 1]);
        assert!(!settling.is_ripe(&read, &read));
        let looks = [[2, 1], [2, 1], [2, 2], [2, 2], [2, 2]].map(|now| stamps(&now));
        let ripe = looks.iter().map(|now| settling.is_ripe(&read, now)).collect::<Vec<_>>();
        assert_eq!(ripe, [false, false, false, false, true]);
        // Read, and no good: nothing more until it changes again.
        let read = stamps(&[2, 2]);
        assert!((0..9).all(|_| !settling.is_ripe(&read, &read)));
        let gone = [None, None];
        let ripe = (0..3).map(|_| settling.is_ripe(&read, &gone)).collect::<Vec<_>>();
        assert_eq!(ripe, [false, false, true]);
    }

    #[test]
    fn a_file_that_is_moved_in_the_place_of_another_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let (here, there) = (folder.path().join("a"), folder.path().join("b"));
        assert_eq!(stamp(&here), None);
        fs::write(&here, "one").expect("written");
        let before = stamp(&here);
        assert_eq!(before, stamp(&here));
        fs::write(&there, "two").expect("written");
        fs::rename(&there, &here).expect("moved");
        assert_ne!(before, stamp(&here));
    }
}
