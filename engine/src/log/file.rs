//! A file that begins anew when it is large, and some of those before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

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
}

impl LogFile {
    /// Goes on where the file ends, or makes it.
    pub(super) fn open(path: &Path, bytes_maximum: u64, files_kept: u32) -> io::Result<Self> {
        let (file, bytes) = open(path)?;
        let is_torn = false;
        Ok(Self { path: path.to_owned(), file, bytes, bytes_maximum, files_kept, is_torn })
    }

    /// Writes a line, to a new file if the present one has no room for it.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let room = self.bytes_maximum.saturating_sub(self.bytes);
        if self.bytes > 0 && room < line.len() as u64 {
            // One that cannot be moved away goes on growing, and is tried again after as much.
            if self.rotate().is_err() {
                self.bytes = 1;
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
        (self.file, self.bytes) = open(&self.path)?;
        self.is_torn = false;
        Ok(())
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

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
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
