//! HdrHistogram logs: intervals of every series, for the tools that draw them.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

/// Values are in nanoseconds; the greatest of an interval is written in milliseconds.
const MAX_DIVISOR: f64 = 1e6;

/// A log that is written while the run goes on, by a thread of its own.
#[derive(Debug)]
pub struct Log {
    intervals: mpsc::Sender<Interval>,
    thread: JoinHandle<Result<(), String>>,
}

struct Interval {
    series: String,
    start: Duration,
    length: Duration,
    times: Histogram<u64>,
}

impl Log {
    /// Begins a log.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &str) -> Result<Self, String> {
        let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
        let (intervals, received) = mpsc::channel();
        let path = path.to_owned();
        let began = SystemTime::now();
        let thread = std::thread::Builder::new()
            .name("hdr-log".to_owned())
            .spawn(move || write(file, began, received).map_err(|error| format!("{path}: {error}")))
            .map_err(|error| error.to_string())?;
        Ok(Self { intervals, thread })
    }

    /// Adds an interval of a series, its start counted from when the log was begun; one in which
    /// nothing was measured is left out.
    pub fn add(&self, series: String, start: Duration, length: Duration, times: &Histogram<u64>) {
        if !times.is_empty() {
            let times = times.clone();
            // A writer that has failed says so at the end.
            let _ = self.intervals.send(Interval { series, start, length, times });
        }
    }

    /// Ends the log.
    ///
    /// # Errors
    /// It could not be written.
    pub fn finish(self) -> Result<(), String> {
        drop(self.intervals);
        self.thread.join().map_err(|_| "the writer of the log panicked".to_owned())?
    }
}

fn write(file: File, began: SystemTime, all: mpsc::Receiver<Interval>) -> Result<(), String> {
    let mut file = BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[petrel-bench; nanoseconds; a tag for each series]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(MAX_DIVISOR)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(|error| error.to_string())?;
    for Interval { series, start, length, times } in all {
        log.write_histogram(&times, start, length, Tag::new(&series))
            .map_err(|error| error.to_string())?;
    }
    file.flush().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn every_series_has_its_intervals() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("times.hlog");
        let log = Log::create(path.to_str().expect("UTF-8")).expect("begun");
        let mut times = Histogram::new(3).expect("made");
        let second = Duration::from_secs(1);
        log.add("sink.empty".to_owned(), Duration::ZERO, second, &times);
        times.record(5_000_000).expect("recorded");
        for series in ["sink.delivery", "sink.residency"] {
            log.add(series.to_owned(), second, second, &times);
        }
        log.finish().expect("written");
        let bytes = std::fs::read(path).expect("readable");
        let entries = IntervalLogIterator::new(&bytes).map(|it| it.expect("an entry"));
        let found: Vec<(String, Duration, f64)> = entries
            .filter_map(|entry| match entry {
                LogEntry::Interval(it) => {
                    Some((it.tag()?.as_str().to_owned(), it.start_timestamp(), it.max()))
                }
                _ => None,
            })
            .collect();
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["sink.delivery", "sink.residency"]);
        assert!(found.iter().all(|(_, start, max)| *start == second && (*max - 5.0).abs() < 0.01));
    }

    #[test]
    fn a_log_that_cannot_be_made_is_an_error() {
        assert!(Log::create("/no/such/folder/times.hlog").is_err());
    }
}
