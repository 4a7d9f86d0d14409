//! The secret of session tickets in a file, so that clients resume after a restart too.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{RandomUnavailable, TicketSecret};

const SECRET_BYTES: usize = 32;

/// What is wrong with a file of a secret. Displays as one sentence without its full stop.
#[derive(Debug)]
pub enum SecretFileError {
    /// It cannot be read or made.
    Io(PathBuf, io::Error),
    /// It is no ordinary file.
    NoFile(PathBuf),
    /// It holds another number of bytes than a secret has.
    Length(PathBuf, u64),
    /// Others than its owner may read it; these are its permissions.
    Exposed(PathBuf, u32),
    /// It belongs to this user, who is neither this process nor root.
    Foreign(PathBuf, u32),
    /// The system gives no random bytes for a new one.
    Random,
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => {
                write!(
                    f,
                    "the secret of session tickets {} cannot be used: {error}",
                    path.display()
                )
            }
            Self::NoFile(path) => {
                write!(f, "the secret of session tickets {} is no ordinary file", path.display())
            }
            Self::Length(path, bytes) => write!(
                f,
                "the secret of session tickets {} has {bytes} bytes instead of {SECRET_BYTES}; \
                 delete it to have a new one made",
                path.display()
            ),
            Self::Exposed(path, mode) => write!(
                f,
                "the secret of session tickets {} can be read by others (mode {mode:o}); \
                 make it 600, or delete it to have a new one made",
                path.display()
            ),
            Self::Foreign(path, user) => write!(
                f,
                "the secret of session tickets {} belongs to the user with number {user}; \
                 make it this process's own, or delete it to have a new one made",
                path.display()
            ),
            Self::Random => RandomUnavailable.fmt(f),
        }
    }
}

impl std::error::Error for SecretFileError {}

impl TicketSecret {
    /// Reads the secret from a file, or makes one and keeps it there, for its owner alone.
    ///
    /// # Errors
    /// See [`SecretFileError`].
    pub fn from_file(path: &Path) -> Result<Self, SecretFileError> {
        let failed = |error| SecretFileError::Io(path.to_owned(), error);
        match fs::metadata(path) {
            // A pipe would be waited for.
            Ok(meta) if !meta.is_file() => Err(SecretFileError::NoFile(path.to_owned())),
            Ok(_) => Self::read(path, File::open(path).map_err(failed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(failed(error)),
        }
    }

    /// Looks whether [`TicketSecret::from_file`] would find a secret there, or a place for one.
    ///
    /// # Errors
    /// See [`SecretFileError`].
    pub fn check_file(path: &Path) -> Result<(), SecretFileError> {
        let failed = |error| SecretFileError::Io(path.to_owned(), error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.file_name().is_some() => {
                let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
                match fs::metadata(folder.unwrap_or(Path::new("."))) {
                    Ok(meta) if meta.is_dir() => Ok(()),
                    Ok(_) => Err(failed(io::ErrorKind::NotADirectory.into())),
                    Err(error) => Err(failed(error)),
                }
            }
            _ => Self::from_file(path).map(drop),
        }
    }

    /// Makes a secret and keeps it. It appears under its name whole and on the disk, before the first
    /// ticket is sealed with it; if another process is faster, its secret is taken.
    fn make(path: &Path) -> Result<Self, SecretFileError> {
        let failed = |error| SecretFileError::Io(path.to_owned(), error);
        let secret = Self::generate().map_err(|_| SecretFileError::Random)?;
        let (draft, mut file) = draft(path)?;
        let kept = file
            .write_all(secret.bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::hard_link(&draft, path));
        fs::remove_file(&draft).map_err(failed)?;
        match kept {
            Ok(()) => Ok(secret),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::read(path, File::open(path).map_err(failed)?)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn read(path: &Path, mut file: File) -> Result<Self, SecretFileError> {
        let failed = |error| SecretFileError::Io(path.to_owned(), error);
        let meta = file.metadata().map_err(failed)?;
        if meta.len() != SECRET_BYTES as u64 {
            return Err(SecretFileError::Length(path.to_owned(), meta.len()));
        }
        let mode = meta.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretFileError::Exposed(path.to_owned(), mode));
        }
        if ![0, rustix::process::geteuid().as_raw()].contains(&meta.uid()) {
            return Err(SecretFileError::Foreign(path.to_owned(), meta.uid()));
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        file.read_exact(bytes.as_mut_slice()).map_err(failed)?;
        Ok(Self::new(*bytes))
    }
}

/// A new file beside the one that is to be made. Its name cannot be guessed, and whatever has it already
/// is left alone: in a folder of others it might lead elsewhere, or be read by them.
fn draft(path: &Path) -> Result<(PathBuf, File), SecretFileError> {
    let mut nonce = [0; 8];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecretFileError::Random)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", u64::from_ne_bytes(nonce)));
    let draft = PathBuf::from(draft);
    // With `create_new` a link that stands there is not followed either.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    match file {
        Ok(file) => Ok((draft, file)),
        Err(error) => Err(SecretFileError::Io(path.to_owned(), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let made = TicketSecret::from_file(&path).expect("made");
        let found = TicketSecret::from_file(&path).expect("found");
        assert_eq!(made.bytes(), found.bytes());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let other = TicketSecret::from_file(&folder.path().join("other")).expect("made");
        assert_ne!(made.bytes(), other.bytes());
    }

    #[test]
    fn who_makes_it_at_the_same_time_gets_the_same_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let first = TicketSecret::make(&path).expect("made");
        let second = TicketSecret::make(&path).expect("found");
        assert_eq!(first.bytes(), second.bytes());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no draft is left");
    }

    #[test]
    fn a_file_that_is_no_good_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        fs::write(&path, [7; 31]).expect("written");
        let error = TicketSecret::from_file(&path).expect_err("too short").to_string();
        assert!(error.contains("has 31 bytes instead of 32"), "{error}");
        fs::write(&path, [7; 32]).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        let error = TicketSecret::from_file(&path).expect_err("exposed").to_string();
        assert!(error.contains("can be read by others (mode 640)"), "{error}");
        assert_eq!(fs::read(&path).expect("readable"), [7; 32]);
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("made");
        assert!(matches!(TicketSecret::from_file(&pipe), Err(SecretFileError::NoFile(_))));
        let linked = folder.path().join("linked");
        std::os::unix::fs::symlink(folder.path().join("victim"), &linked).expect("made");
        assert!(TicketSecret::from_file(&linked).is_err(), "a link to nothing is no place");
        assert!(!folder.path().join("victim").exists());
        let nowhere = folder.path().join("no/secret");
        assert!(matches!(TicketSecret::from_file(&nowhere), Err(SecretFileError::Io(..))));
    }

    #[test]
    fn a_check_says_what_would_be_and_makes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        TicketSecret::check_file(&path).expect("it could be made");
        assert!(!path.exists());
        for no_place in [folder.path(), Path::new(""), &folder.path().join("no/secret")] {
            assert!(TicketSecret::check_file(no_place).is_err(), "{}", no_place.display());
        }
        fs::write(&path, [7; 31]).expect("written");
        assert!(matches!(TicketSecret::check_file(&path), Err(SecretFileError::Length(_, 31))));
    }
}
