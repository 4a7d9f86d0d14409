//! The socket in the storage folder by which `petrelctl` speaks to the process that has the folder.
//!
//! One thread serves one request after another; whoever comes while it is busy is told so. It must
//! never make a shard or a lane wait: lanes give it a view of what they keep, and it reads that.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use petrel_storage::control::{self, Answer, BanRequest, Request};
use petrel_storage::{View, backup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use crate::keeper::Viewer;
use crate::log::{self, Event, Level, Value};
use crate::reins::Reins;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How long a thread waits that could not take a connection.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Pauses of a request that comes while another is carried out, at most.
const PROMPT: Duration = Duration::from_millis(100);

/// The socket of a process, and the thread behind it.
pub struct Control {
    folder: PathBuf,
    /// Dropped, it ends the thread.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl Control {
    /// Listens in a folder. The process must have the folder for itself.
    ///
    /// # Errors
    /// The system refuses a socket or a thread.
    pub fn open(folder: &Path, viewer: Option<Viewer>, reins: Arc<Reins>) -> io::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let listener = control::listen(&folder)?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = UnixStream::pair()?;
        let desk = Desk { folder: folder.clone(), listener, stopped, viewer, reins };
        let thread = std::thread::Builder::new().name("control".into()).spawn(|| desk.run())?;
        Ok(Self { folder, stop, thread })
    }

    /// Calls off what is being done, and ends.
    pub fn close(self) {
        drop(self.stop);
        // A thread that panicked has aborted the process.
        let _ = self.thread.join();
        // What somebody has removed is as good as removed.
        let _ = control::remove(&self.folder);
    }
}

/// What the thread has.
struct Desk {
    folder: PathBuf,
    listener: UnixListener,
    /// Readable when the thread is to end.
    stopped: UnixStream,
    /// Of what is kept, if anything is.
    viewer: Option<Viewer>,
    reins: Arc<Reins>,
}

impl Desk {
    fn run(self) {
        loop {
            let mut awaited = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.stopped, PollFlags::IN),
            ];
            if poll(&mut awaited, None).is_err() {
                // Interrupted by a signal.
                continue;
            }
            if self.is_stopped() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.serve(&stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // No descriptor is left, say. Whoever wants something waits in the queue.
                Err(_) => {
                    is_ready(&self.stopped, PollFlags::IN, RETRY);
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        is_ready(&self.stopped, PollFlags::IN, NOW)
    }

    fn serve(&self, stream: &UnixStream) {
        let answer = permit(stream).and_then(|()| control::receive(stream)).and_then(|request| {
            let shown = format!("{request:?}");
            let fields = [("request", Value::Word(&shown))];
            let text = format_args!("petrelctl asks: {shown}");
            log::say(Event::OperatorAsked, Level::Info, &fields, text);
            self.carry_out(&request, stream)
        });
        if let Err(why) = &answer {
            let text = format_args!("petrelctl is told: {why}");
            log::say(Event::OperatorRefused, Level::Warn, &[("what", Value::Word(why))], text);
        }
        // Whoever asked may have gone.
        let _ = control::answer(stream, &answer);
    }

    fn carry_out(&self, request: &Request, stream: &UnixStream) -> Result<Answer, String> {
        let goes_on = &mut || self.goes_on(stream);
        goes_on()?;
        let done = |text: String| Ok(Answer { text, faults: 0 });
        let (kind, who) = match request {
            Request::Ban(BanRequest { subject, .. }) | Request::Unban(subject) => subject.parts(),
            _ => ("", ""),
        };
        match request {
            Request::Ban(asked) => {
                self.reins.ban(asked)?;
                return done(format!("{kind} {who:?} is banned\n"));
            }
            Request::Unban(subject) if self.reins.unban(subject)? => {
                return done(format!("{kind} {who:?} is not banned any more\n"));
            }
            Request::Unban(_) => return Err(format!("{kind} {who:?} was not banned")),
            Request::Bans => return done(self.reins.bans()),
            Request::Reload => return done(self.reins.reload()? + "\n"),
            Request::Backup { .. } | Request::Stat | Request::Check => {}
        }
        let viewer =
            self.viewer.as_ref().ok_or("the broker keeps nothing: it has no [storage] path")?;
        if let Request::Backup { into } = request {
            backup::refuse_inside(&self.folder, into).map_err(|error| error.to_string())?;
        }
        let views = viewer.views(goes_on)?;
        match request {
            Request::Backup { into } => {
                let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let taken_at_ms = u64::try_from(taken_at.as_millis()).unwrap_or(u64::MAX);
                let summary = backup::write(into, views, taken_at_ms, goes_on)
                    .map_err(|error| error.to_string())?;
                Ok(Answer { text: format!("{}: {summary}", into.display()), faults: 0 })
            }
            Request::Stat => self.of_each(views, |view| {
                Ok((view.usage().map_err(|error| error.to_string())?.to_string(), 0))
            }),
            Request::Check => self.of_each(views, |view| {
                let report = petrel_storage::check_view(view, goes_on)?;
                Ok((report.to_string(), report.faults_total))
            }),
            // Done above.
            Request::Ban(_) | Request::Unban(_) | Request::Bans | Request::Reload => {
                done(String::new())
            }
        }
    }

    /// What is to be said of each lane, below its folder's name.
    fn of_each(
        &self,
        views: Vec<View>,
        mut say: impl FnMut(&View) -> Result<(String, u64), String>,
    ) -> Result<Answer, String> {
        let mut answer = Answer { text: String::new(), faults: 0 };
        for view in views {
            let (text, faults) = say(&view)?;
            let lane = self.folder.join(format!("lane-{}", view.lane()));
            answer.text.push_str(&format!("{}\n{text}\n", lane.display()));
            answer.faults += faults;
        }
        Ok(answer)
    }

    /// Whether to go on with something that takes time. Whoever else comes is told to wait.
    fn goes_on(&self, stream: &UnixStream) -> Result<(), String> {
        if self.is_stopped() {
            return Err("the broker stops".into());
        }
        if self.viewer.as_ref().is_some_and(Viewer::must_let_go) {
            return Err("a disk of the broker has failed; see its log".into());
        }
        // One that will send nothing more may still wait for the answer.
        if is_ready(stream, PollFlags::HUP, NOW) {
            return Err("petrelctl was interrupted".into());
        }
        while let Ok((stream, _)) = self.listener.accept() {
            // A socket that is closed with something unread in it takes the answer back.
            let _ = control::receive_within(&stream, PROMPT);
            let busy = "the broker is busy with another request of petrelctl; try again later";
            let _ = control::answer(&stream, &Err(busy.into()));
        }
        Ok(())
    }
}

/// Whoever may not read the folder may not have it read for them.
fn permit(stream: &UnixStream) -> Result<(), String> {
    let peer = socket_peercred(stream).map_err(|error| error.to_string())?;
    if peer.uid == geteuid() || peer.uid.is_root() {
        return Ok(());
    }
    Err("only the user that the broker runs as may ask it".into())
}

/// Whether something has happened on a socket, or does so within a time.
fn is_ready(stream: &UnixStream, what: PollFlags, within: Timespec) -> bool {
    poll(&mut [PollFd::new(stream, what)], Some(&within)).is_ok_and(|ready| ready > 0)
}
