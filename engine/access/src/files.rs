//! Files with secrets, or with what people are allowed: written whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Who may do what with a file that is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// As before; this for a file that was not there. What a link leads to is replaced, not the link.
    Kept(u32),
    /// This, whatever was there, which belongs to whoever writes then.
    Always(u32),
}

/// Puts a text in the place of a file at once: whoever reads meanwhile, or after a failure, gets the one or the other.
///
/// # Errors
/// Those of the system; then the file is as it was, or is not there as before.
pub fn replace(file: &Path, text: &str, rights: Rights) -> io::Result<()> {
    let (file, old, mode) = match rights {
        Rights::Always(mode) => (file.to_owned(), None, mode),
        Rights::Kept(mode) => match fs::canonicalize(file) {
            Ok(file) => {
                let old = fs::metadata(&file)?;
                (file, Some(old), mode)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (file.to_owned(), None, mode),
            Err(error) => return Err(error),
        },
    };
    let beside = beside(&file);
    // One that a process of this number has left behind may have other rights, and belong to somebody else.
    let _ = fs::remove_file(&beside);
    let written = (|| {
        let mut new =
            OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(&beside)?;
        if let Some(old) = &old {
            // A broker of another user reads it as before; that only its owner and root may do.
            let _ = fchown(&new, Some(old.uid()), Some(old.gid()));
        }
        // Last: to give a file away takes rights off it.
        let mode = old.map_or(mode, |old| old.permissions().mode() & 0o7777);
        new.set_permissions(Permissions::from_mode(mode))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&beside, &file)
    })();
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&beside);
        return written;
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    // The new name is good as it is; a file system that cannot say so has nothing more to give.
    let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Where the text is written first: in the same folder, by a name that no other process takes.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_keeps_its_rights_and_a_link_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("tokens"), folder.path().join("link"));
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("changed");
        symlink(&file, &link).expect("linked");
        replace(&link, "new", Rights::Kept(0o600)).expect("written");
        assert_eq!((fs::read_to_string(&file).expect("text"), mode(&file)), ("new".into(), 0o640));
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        replace(&folder.path().join("first"), "x", Rights::Kept(0o600)).expect("written");
        assert_eq!(mode(&folder.path().join("first")), 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3, "nothing is left");
    }

    #[test]
    fn nothing_that_was_there_gives_a_file_other_rights_than_it_is_to_have() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin.json");
        for left in [&file, &beside(&file)] {
            fs::write(left, "left behind").expect("written");
            fs::set_permissions(left, Permissions::from_mode(0o666)).expect("changed");
        }
        replace(&file, "secret", Rights::Always(0o600)).expect("written");
        assert_eq!(
            (fs::read_to_string(&file).expect("text"), mode(&file)),
            ("secret".into(), 0o600)
        );
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("taken");
        fs::create_dir_all(file.join("by a folder")).expect("made");
        replace(&file, "x", Rights::Always(0o600)).expect_err("no file replaces a folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
