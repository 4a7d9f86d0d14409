//! The thread that writes lines, and the bounded way to it.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::file::LogFile;
use super::{Destination, Event, Level, LogConfig, Value, encoded, limit};
use crate::preflight;

/// Lines that may wait to be written.
const LINES_WAITING_MAX: usize = 1024;

/// How long the end of the process waits for the last lines to be taken.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

/// How often it is said what was left out.
const SUM_EVERY: Duration = Duration::from_secs(10);

/// What waits for the thread that writes.
pub(super) enum Entry {
    Line(Vec<u8>),
    /// Say when everything before has been written.
    Flush(mpsc::Sender<()>),
    /// Look at [`Told`].
    Wake,
}

/// What the thread that writes is told beside the lines, whether there is room for more of them or not.
#[derive(Default)]
struct Told {
    /// Lines that were lost since it took any.
    lost: AtomicU64,
    /// The file may be another.
    reopens: AtomicBool,
}

/// Lines on their way to where they are written.
pub(super) struct Queue {
    entries: Sender<Entry>,
    told: Arc<Told>,
}

impl Queue {
    pub(super) fn push(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(Entry::Line(line)) {
            self.told.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The file is opened again before the next line is written.
    pub(super) fn reopen(&self) {
        self.told.reopens.store(true, Ordering::Release);
        // What is full wakes the writer anyway.
        let _ = self.entries.try_send(Entry::Wake);
    }

    /// Waits until what was pushed has been written, but not for ever.
    pub(super) fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.entries.send_timeout(Entry::Flush(done), LAST_LINES_WITHIN).is_ok() {
            // A writer that is stuck keeps the lines; there is nobody to tell.
            let _ = wait.recv_timeout(LAST_LINES_WITHIN);
        }
    }
}

/// Where lines go.
enum Sink {
    Stream(Box<dyn io::Write>),
    File(LogFile),
    Journal(UnixDatagram, PathBuf),
}

impl Sink {
    fn open(config: &LogConfig) -> io::Result<Self> {
        Ok(match config.to {
            Destination::Stderr => Self::Stream(Box::new(io::stderr())),
            Destination::Stdout => Self::Stream(Box::new(io::stdout())),
            Destination::File => {
                let path = config.file.clone().unwrap_or_default();
                let named = |error: io::Error| {
                    let path = path.display();
                    io::Error::new(
                        error.kind(),
                        format!("the log cannot be written to {path}: {error}"),
                    )
                };
                let (bytes, kept) = (config.file_bytes_maximum, config.files_kept);
                Self::File(LogFile::open(&path, bytes, kept).map_err(named)?)
            }
            Destination::Journald => {
                let path = config.journal_socket.clone();
                let named = |error: io::Error| {
                    let path = path.display();
                    let text = format!(
                        "journald cannot be reached at {path}: {error}; where it does not run, the \
                         log goes elsewhere with `to` in [log]"
                    );
                    io::Error::new(error.kind(), text)
                };
                let socket = UnixDatagram::unbound()?;
                // Told now, and not with the first line.
                UnixDatagram::unbound()?.connect(&path).map_err(named)?;
                Self::Journal(socket, path)
            }
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => {
                stream.write_all(line)?;
                stream.flush()
            }
            Self::File(file) => file.write(line),
            // By its path, since it may be restarted.
            Self::Journal(socket, path) => socket.send_to(line, path).map(drop),
        }
    }
}

/// What the thread writes to, and what it has to say itself.
struct Writer {
    sink: Sink,
    config: LogConfig,
    told: Arc<Told>,
    sum_at: Instant,
    /// When it was said for the last time what was left out.
    summed: Instant,
}

impl Writer {
    fn new(sink: Sink, config: LogConfig, told: Arc<Told>) -> Self {
        let summed = Instant::now();
        Self { sink, config, told, sum_at: summed + SUM_EVERY, summed }
    }

    /// Writes until nobody can push any more.
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            let entry = entries.recv_deadline(self.sum_at);
            if self.told.reopens.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            match entry {
                Ok(Entry::Line(line)) => self.write(&line),
                Ok(Entry::Flush(done)) => {
                    self.sum();
                    // Whoever asked may have lost patience.
                    let _ = done.send(());
                }
                Ok(Entry::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.say_grows();
            self.say_lost();
            if self.sum_at <= Instant::now() {
                self.sum();
                self.sum_at = Instant::now() + SUM_EVERY;
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.sink.write(line).is_err() {
            // Told when it takes lines again.
            self.told.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file again. If that does not work, it goes on in the one that it has.
    fn reopen(&mut self) {
        let Sink::File(file) = &mut self.sink else { return };
        if let Err(error) = file.reopen() {
            let path = self.config.file.clone().unwrap_or_default();
            let path = path.display();
            let text = format_args!(
                "the log cannot be opened again at {path}: {error}; it goes on in the file that was \
                 there, until it is told to once more with SIGHUP"
            );
            self.say(Level::Error, Event::Note, &[], text);
        }
    }

    /// Says why the file has more than its size, if it has not been said.
    fn say_grows(&mut self) {
        let Sink::File(file) = &mut self.sink else { return };
        let Some(error) = file.why_it_grows() else { return };
        let path = self.config.file.clone().unwrap_or_default();
        let path = path.display();
        let text = format_args!(
            "the log at {path} is full and cannot begin anew: {error}; it goes on growing, and this is tried again \
             after as much"
        );
        self.say(Level::Error, Event::Note, &[], text);
    }

    /// Says how many lines nobody has taken, if now somebody does.
    fn say_lost(&mut self) {
        let lost = self.told.lost.swap(0, Ordering::Relaxed);
        let to = self.config.to.name();
        let text = format_args!("{lost} lines were left out: {to} took none");
        if lost > 0 && !self.say(Level::Warn, Event::Note, &[], text) {
            self.told.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Says what clients would have caused.
    fn sum(&mut self) {
        // More than usual, if the last time nobody took it.
        let seconds = self.summed.elapsed().max(SUM_EVERY).as_secs();
        for (area, event, count) in limit::left_out() {
            let fields = [
                ("of_area", Value::Word(area.name())),
                ("of_event", Value::Word(event.name())),
                ("count", Value::Number(count)),
                ("seconds", Value::Number(seconds)),
            ];
            let (area, name) = (area.name(), event.name());
            let text = format_args!(
                "{count} lines of {name} ({area}) were left out in the last {seconds} s"
            );
            if !self.say(Level::Warn, Event::LinesLeftOut, &fields, text) {
                limit::leave_out(event, count);
                return;
            }
        }
        self.summed = Instant::now();
    }

    /// False if nobody takes it.
    fn say(
        &mut self,
        level: Level,
        event: Event,
        fields: super::Fields<'_>,
        message: std::fmt::Arguments<'_>,
    ) -> bool {
        let line = encoded(&self.config, level, event, fields, message);
        self.sink.write(&line).is_ok()
    }
}

/// Opens what the configuration names and has a thread of its own write there.
///
/// # Errors
/// It cannot be opened, or the system gives no thread.
pub(super) fn start(config: &LogConfig) -> io::Result<Queue> {
    let (entries, received) = bounded(LINES_WAITING_MAX);
    let told = Arc::new(Told::default());
    let (opened, is_open) = mpsc::channel();
    let (config, to_thread) = (config.clone(), Arc::clone(&told));
    let run = move || {
        if config.to == Destination::File {
            // Shards with tables of their own would hold files that have long been removed. Where the system
            // refuses, they do.
            let _ = preflight::own_fd_table();
        }
        match Sink::open(&config) {
            Ok(sink) => {
                // Whoever starts waits for it.
                let _ = opened.send(Ok(()));
                Writer::new(sink, config, to_thread).run(&received);
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(run)?;
    is_open.recv().map_err(io::Error::other)??;
    Ok(Queue { entries, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_holds_nobody_up() {
        /// Takes nothing until it is told to.
        struct Stuck(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);
        impl io::Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // The end of the channel lets everything through.
                let _ = self.0.recv();
                self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (entries, received) = bounded(4);
        let told = Arc::new(Told::default());
        let queue = Queue { entries, told: Arc::clone(&told) };
        let (go_on, stuck) = mpsc::channel();
        let (wrote, written) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let sink = Sink::Stream(Box::new(Stuck(stuck, wrote)));
            let config = LogConfig::default();
            Writer::new(sink, config, told).run(&received);
        });
        // Four wait and one is with the writer, at most.
        for n in 0..10 {
            queue.push(format!("{n}\n").into_bytes());
        }
        drop(go_on);
        queue.flush();
        drop(queue);
        thread.join().expect("no panic");
        let text = String::from_utf8(written.iter().flatten().collect()).expect("text");
        assert!(text.starts_with("0\n"), "{text}");
        let (_, rest) = text.split_once(" warn  ").expect("something was left out");
        assert!(rest.contains(" lines were left out: stderr took none\n"), "{rest}");
    }

    /// Takes nothing so many times, and then all of it.
    struct Full(u32, mpsc::Sender<Vec<u8>>);

    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// No other test of this process leaves out lines of that.
    #[test]
    fn what_is_left_out_is_said_when_somebody_takes_it() {
        let (wrote, written) = mpsc::channel();
        // A line, twice that it was lost, and a sum.
        let sink = Sink::Stream(Box::new(Full(4, wrote)));
        let told = Arc::new(Told::default());
        let mut writer = Writer::new(sink, LogConfig::default(), Arc::clone(&told));
        writer.write(b"one\n");
        writer.say_lost();
        writer.say_lost();
        limit::leave_out(Event::ListenerUseless, 7);
        writer.sum();
        assert_eq!(told.lost.load(Ordering::Relaxed), 1);
        writer.say_lost();
        writer.sum();
        drop(writer);
        let text = String::from_utf8(written.iter().flatten().collect()).expect("text");
        assert!(text.contains("1 lines were left out: stderr took none\n"), "{text}");
        assert!(text.contains("7 lines of listener_useless (listeners) were left out"), "{text}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again_however_many_lines_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let config =
            LogConfig { to: Destination::File, file: Some(path.clone()), ..LogConfig::default() };
        let sink = Sink::open(&config).expect("a file");
        let (entries, received) = bounded(1);
        let told = Arc::new(Told::default());
        let queue = Queue { entries, told: Arc::clone(&told) };
        queue.push(b"one\n".to_vec());
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        queue.reopen();
        drop(queue);
        Writer::new(sink, config, told).run(&received);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\n");
    }

    #[test]
    fn journald_that_does_not_run_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = LogConfig {
            to: Destination::Journald,
            journal_socket: folder.path().join("none"),
            ..LogConfig::default()
        };
        let error = Sink::open(&config).err().expect("nobody is there").to_string();
        assert!(error.starts_with("journald cannot be reached at "), "{error}");
        let config =
            LogConfig { to: Destination::File, file: Some(folder.path().into()), ..config };
        let error = Sink::open(&config).err().expect("it is a folder").to_string();
        assert!(error.starts_with("the log cannot be written to "), "{error}");
    }
}
