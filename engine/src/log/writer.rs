//! The thread that writes lines, and the bounded way to it.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// The file may be another.
    Reopen,
}

/// Lines on their way to where they are written.
pub(super) struct Queue {
    entries: Sender<Entry>,
    /// Since the writer took none.
    lost: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn push(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(Entry::Line(line)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        // A writer that is stuck opens nothing either.
        let _ = self.entries.try_send(Entry::Reopen);
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
    lost: Arc<AtomicU64>,
    sum_at: Instant,
}

impl Writer {
    /// Writes until nobody can push any more.
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            match entries.recv_deadline(self.sum_at) {
                Ok(Entry::Line(line)) => self.write(&line),
                Ok(Entry::Flush(done)) => {
                    self.sum();
                    // Whoever asked may have lost patience.
                    let _ = done.send(());
                }
                Ok(Entry::Reopen) => {
                    if let Sink::File(file) = &mut self.sink
                        && file.reopen().is_err()
                    {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let to = self.config.to.name();
                self.say(
                    Level::Warn,
                    Event::Note,
                    &[],
                    format_args!("{lost} lines were left out: {to} took none"),
                );
            }
            if self.sum_at <= Instant::now() {
                self.sum();
                self.sum_at = Instant::now() + SUM_EVERY;
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        if self.sink.write(line).is_err() {
            // Told when it takes lines again.
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says what clients would have caused.
    fn sum(&mut self) {
        let seconds = SUM_EVERY.as_secs();
        for (area, event, count) in limit::left_out() {
            let fields = [
                ("of_area", Value::Word(area.name())),
                ("of_event", Value::Word(event.name())),
                ("count", Value::Number(count)),
                ("seconds", Value::Number(seconds)),
            ];
            let (area, event) = (area.name(), event.name());
            self.say(
                Level::Warn,
                Event::LinesLeftOut,
                &fields,
                format_args!(
                    "{count} lines of {event} ({area}) were left out in the last {seconds} s"
                ),
            );
        }
    }

    fn say(
        &mut self,
        level: Level,
        event: Event,
        fields: super::Fields<'_>,
        message: std::fmt::Arguments<'_>,
    ) {
        let line = encoded(&self.config, level, event, fields, message);
        // One that is lost here was a line about lines.
        let _ = self.sink.write(&line);
    }
}

/// Opens what the configuration names and has a thread of its own write there.
///
/// # Errors
/// It cannot be opened, or the system gives no thread.
pub(super) fn start(config: &LogConfig) -> io::Result<Queue> {
    let (entries, received) = bounded(LINES_WAITING_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let (opened, is_open) = mpsc::channel();
    let (config, to_thread) = (config.clone(), Arc::clone(&lost));
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
                let sum_at = Instant::now() + SUM_EVERY;
                Writer { sink, config, lost: to_thread, sum_at }.run(&received);
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(run)?;
    is_open.recv().map_err(io::Error::other)??;
    Ok(Queue { entries, lost })
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
        let lost = Arc::new(AtomicU64::new(0));
        let queue = Queue { entries, lost: Arc::clone(&lost) };
        let (go_on, stuck) = mpsc::channel();
        let (wrote, written) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let sink = Sink::Stream(Box::new(Stuck(stuck, wrote)));
            let config = LogConfig::default();
            Writer { sink, config, lost, sum_at: Instant::now() + SUM_EVERY }.run(&received);
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
