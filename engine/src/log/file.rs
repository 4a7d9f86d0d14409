//! A file that begins anew when it is large, and some of those before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Only its owner writes it, and its group reads it where the umask leaves it that: client identifiers and addresses
/// stand there.
const MODE: u32 = 0o640;

/// The file that lines go to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_maximum: u64,
    files_kept: u32,
    /// The last line is not whole, since the disk took no more of it.
    is_torn: bool,
    /// Why it has grown beyond its size, if nobody has been told yet.
    grows: Option<io::Error>,
}

impl LogFile {
    /// Goes on where the file ends, or makes it.
    pub(super) fn open(path: &Path, bytes_maximum: u64, files_kept: u32) -> io::Result<Self> {
        let Opened { file, bytes, is_torn } = open(path)?;
        let (path, grows) = (path.to_owned(), None);
        Ok(Self { path, file, bytes, bytes_maximum, files_kept, is_torn, grows })
    }

    /// Writes a line, to a new file if the present one has no room for it.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let room = self.bytes_maximum.saturating_sub(self.bytes);
        if self.bytes > 0 && room < line.len() as u64 {
            // One that cannot be moved away goes on growing, and is tried again after as much.
            if let Err(error) = self.rotate() {
                self.bytes = 1;
                self.grows = Some(error);
            }
        }
        if self.is_torn {
            // Torn until this is there: a disk may have no room for one byte either.
            self.file.write_all(b"\n")?;
            self.bytes += 1;
        }
        self.is_torn = true;
        self.file.write_all(line)?;
        self.is_torn = false;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Opens the file once more: somebody may have moved it away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let Opened { file, bytes, is_torn } = open(&self.path)?;
        (self.file, self.bytes, self.is_torn) = (file, bytes, is_torn);
        Ok(())
    }

    /// Why it could not begin anew, once for each time.
    pub(super) const fn why_it_grows(&mut self) -> Option<io::Error> {
        self.grows.take()
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files_kept).rev() {
            rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
        }
        match self.files_kept {
            0 => fs::remove_file(&self.path).or_else(if_there)?,
            _ => rename_if_there(&self.path, &self.numbered(1))?,
        }
        self.reopen()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

struct Opened {
    file: File,
    bytes: u64,
    is_torn: bool,
}

fn open(path: &Path) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    // A named pipe that nobody reads would be waited for.
    options.append(true).create(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    let (is_file, bytes) = (metadata.is_file(), metadata.len());
    let mut last = [b'\n'];
    if is_file && bytes > 0 {
        // What cannot be read is taken to be whole.
        let _ = File::open(path).and_then(|file| file.read_exact_at(&mut last, bytes - 1));
    }
    Ok(Opened { file, bytes, is_torn: last != [b'\n'] })
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).or_else(if_there)
}

fn if_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(folder: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn so_many_files_are_kept_and_no_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 10, 2).unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        let expected = [("log", "four\n"), ("log.1", "three\n"), ("log.2", "one\ntwo\n")];
        assert_eq!(contents(folder.path()), files(&expected));
        // Another process goes on where it ended.
        drop(log);
        let mut log = LogFile::open(&path, 10, 2).unwrap();
        log.write(b"five\n").unwrap();
        log.write(b"six, and it is long\n").unwrap();
        let expected =
            [("log", "six, and it is long\n"), ("log.1", "four\nfive\n"), ("log.2", "three\n")];
        assert_eq!(contents(folder.path()), files(&expected));
    }

    #[test]
    fn what_a_process_has_left_half_written_stays_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "hal").unwrap();
        let mut log = LogFile::open(&path, 100, 2).unwrap();
        log.write(b"whole\n").unwrap();
        assert_eq!(contents(folder.path()), files(&[("log", "hal\nwhole\n")]));
    }

    #[test]
    fn a_file_that_cannot_be_moved_away_grows_and_it_is_said_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::create_dir_all(folder.path().join("log.1/full")).unwrap();
        let mut log = LogFile::open(&path, 10, 1).unwrap();
        for line in ["one\n", "three\n", "four\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        assert!(log.why_it_grows().is_some() && log.why_it_grows().is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nthree\nfour\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (kind, mode) =
            (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert!(LogFile::open(&path, 10, 1).is_err());
    }

    #[test]
    fn without_files_to_keep_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&folder.path().join("log"), 10, 0).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        assert_eq!(contents(folder.path()), files(&[("log", "three\n")]));
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 1000, 3).unwrap();
        log.write(b"one\n").unwrap();
        fs::rename(&path, folder.path().join("old")).unwrap();
        log.write(b"two\n").unwrap();
        log.reopen().unwrap();
        log.write(b"three\n").unwrap();
        let expected = [("log", "three\n"), ("old", "one\ntwo\n")];
        assert_eq!(contents(folder.path()), files(&expected));
    }

    #[test]
    fn no_line_begins_in_the_middle_of_one_that_the_disk_did_not_take_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 1000, 3).unwrap();
        log.write(b"one\n").unwrap();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut file = std::mem::replace(&mut log.file, full);
        file.write_all(b"tw").unwrap();
        log.write(b"two\n").unwrap_err();
        log.write(b"three\n").unwrap_err();
        log.file = file;
        log.write(b"four\n").unwrap();
        log.write(b"five\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nfour\nfive\n");
    }

    /// It goes on being written, though to one file.
    #[test]
    fn a_file_that_cannot_be_moved_away_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        // A folder that is not empty stands where it is to go.
        fs::create_dir_all(folder.path().join("log.1").join("in_the_way")).unwrap();
        let mut log = LogFile::open(&path, 10, 1).unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\nfour\n");
    }
}
