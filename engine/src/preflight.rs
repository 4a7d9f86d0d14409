//! What the system allows this process, asked before anything starts.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{FdTablesChoice, RuntimeChoice};

/// What drives the shards, chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Glommio executors on io_uring.
    Glommio,
    /// Plain threads on epoll.
    Epoll,
}

impl fmt::Display for Runtime {
    /// Its name in the configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Glommio => RuntimeChoice::Glommio.name(),
            Self::Epoll => RuntimeChoice::Epoll.name(),
        })
    }
}

/// Glommio refuses to start below this limit of locked memory, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Below this many connections the operator probably wants to know. A usual soft limit of 1024
/// raised to its hard limit is far above.
const CONNECTIONS_EXPECTED: u64 = 10_000;

/// With a limit of open files from here on nobody needs more than one file table.
const FILES_PLENTY: u64 = 1_000_000;

/// Raises the soft limit of open files to the hard one and says how many connections fit beside
/// `shards` shards with `listeners` listeners each, in one file table or in one per shard.
///
/// # Errors
/// A sentence if not even an idle broker fits.
pub fn open_files(shards: u16, listeners: usize, per_shard: bool) -> Result<OpenFiles, String> {
    let limit = raised(Resource::Nofile);
    let own = own_descriptors(shards, listeners, per_shard);
    if limit <= own {
        return Err(format!(
            "RLIMIT_NOFILE is {limit} and Petrel needs {own} files before the first connection; \
             raise it with `ulimit -n` or LimitNOFILE= in the systemd unit"
        ));
    }
    let tables = if per_shard { u64::from(shards) } else { 1 };
    Ok(OpenFiles { limit, connections: (limit - own).saturating_mul(tables) })
}

/// Whether each shard gets a file table of its own; with `Auto` a sentence says why not, if the system
/// refuses it.
///
/// # Errors
/// A sentence if tables of their own were asked for by name and the system refuses them.
pub fn fd_tables(choice: FdTablesChoice, shards: u16) -> Result<(bool, Option<String>), String> {
    let wanted = match choice {
        FdTablesChoice::Shared => false,
        FdTablesChoice::PerShard => true,
        FdTablesChoice::Auto => shards > 1 && raised(Resource::Nofile) < FILES_PLENTY,
    };
    if !wanted {
        return Ok((false, None));
    }
    // Tried on a thread that ends at once, since there is no way back.
    let tried = std::thread::spawn(own_fd_table).join();
    match tried.unwrap_or_else(|_| Err(io::Error::other("the thread that tried it panicked"))) {
        Ok(()) => Ok((true, None)),
        Err(error) => {
            let reason = format!("the system refuses file tables per shard: {error}");
            match choice {
                FdTablesChoice::PerShard => {
                    Err(format!("{reason}; or write fd_tables = \"shared\" under [engine]"))
                }
                _ => Ok((false, Some(format!("{reason}; all shards share one")))),
            }
        }
    }
}

/// Gives the calling thread a file table of its own, a copy of the one it had.
///
/// From then on descriptors of this thread mean nothing to others and the other way round, except
/// those that were open before: they have the same numbers in both tables.
///
/// # Errors
/// The system refuses it, as a seccomp profile may.
pub fn own_fd_table() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).map_err(io::Error::from)
}

/// Closes this thread's copies of descriptors of files below a folder, after [`own_fd_table`]. Others
/// use those files and remove them, and a file takes its room for as long as any table has it.
///
/// # Errors
/// The system does not say which files are open.
pub fn let_go_of(folder: &Path) -> io::Result<()> {
    let folder = fs::canonicalize(folder)?;
    let open: Vec<fs::DirEntry> =
        fs::read_dir("/proc/thread-self/fd")?.collect::<Result<_, _>>()?;
    for entry in open {
        let is_below = fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(&folder));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(number) = number.filter(|_| is_below) {
            nix::unistd::close(number)?;
        }
    }
    Ok(())
}

/// How many files may be open, and what that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit after raising it; `u64::MAX` if there is none.
    pub limit: u64,
    /// How many connections fit.
    pub connections: u64,
}

impl OpenFiles {
    /// A sentence if fewer connections fit than a broker is usually asked for.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (self.connections < CONNECTIONS_EXPECTED).then(|| {
            format!(
                "RLIMIT_NOFILE is {}, so about {} connections fit; raise the hard limit with \
                 `ulimit -Hn` or LimitNOFILE= in the systemd unit if that is too few",
                self.limit, self.connections
            )
        })
    }
}

/// Chooses the runtime; with `Auto` a sentence says why it is not glommio.
///
/// # Errors
/// A sentence if glommio was asked for by name and cannot run.
pub fn runtime(choice: RuntimeChoice) -> Result<(Runtime, Option<String>), String> {
    if choice == RuntimeChoice::Epoll {
        return Ok((Runtime::Epoll, None));
    }
    match (glommio_refused(), choice) {
        (None, _) => Ok((Runtime::Glommio, None)),
        (Some(reason), RuntimeChoice::Auto) => {
            Ok((Runtime::Epoll, Some(format!("{reason}; the epoll runtime runs instead"))))
        }
        (Some(reason), _) => Err(format!("{reason}; or write runtime = \"epoll\" under [engine]")),
    }
}

/// Why glommio cannot run here, and what to do; `None` if nothing speaks against it.
fn glommio_refused() -> Option<String> {
    let memlock = raised(Resource::Memlock);
    if memlock < MEMLOCK_BYTES_MIN {
        return Some(memlock_sentence(memlock));
    }
    // A filter may let a ring be made and forbid its use.
    let tried = io_uring::IoUring::new(4).and_then(|ring| {
        ring.submit()?;
        ring.submitter().register_probe(&mut io_uring::Probe::new())
    });
    let error = tried.err()?;
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    Some(io_uring_sentence(&error, switch.as_deref().map(str::trim), memlock))
}

fn memlock_sentence(bytes: u64) -> String {
    format!(
        "RLIMIT_MEMLOCK is {} KiB and glommio needs {} KiB; raise it with `ulimit -l` or \
         LimitMEMLOCK=8M in the systemd unit",
        bytes >> 10,
        MEMLOCK_BYTES_MIN >> 10
    )
}

/// What a refused `io_uring_setup` means. `switch` is the value of `kernel.io_uring_disabled`.
fn io_uring_sentence(error: &io::Error, switch: Option<&str>, memlock_bytes: u64) -> String {
    match (Errno::from_io_error(error), switch) {
        (Some(Errno::PERM), Some(value @ ("1" | "2"))) => format!(
            "io_uring is switched off on this machine (kernel.io_uring_disabled is {value}); \
             allow it with `sysctl kernel.io_uring_disabled=0`"
        ),
        (Some(Errno::PERM | Errno::ACCESS), _) => "io_uring is forbidden to this process, \
             probably by the seccomp profile of its container; run it under a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
        (Some(Errno::NOSYS), _) => "this kernel has no io_uring, or a seccomp profile hides it; \
             glommio needs Linux 5.8 or later"
            .to_owned(),
        (Some(Errno::NOMEM), _) => format!(
            "there is not enough lockable memory for io_uring (RLIMIT_MEMLOCK is {} KiB); raise \
             it with `ulimit -l` or LimitMEMLOCK=8M in the systemd unit",
            memlock_bytes >> 10
        ),
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

/// Sets the soft limit to the hard one and returns what holds then. A refusal leaves the soft
/// limit as it was, and the caller sees that in the number.
fn raised(resource: Resource) -> u64 {
    let before = getrlimit(resource);
    // `Resource` is not `Copy`; the limit that holds is what was asked for, or what was before.
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let holds = if setrlimit(resource, raised).is_ok() { before.maximum } else { before.current };
    holds.unwrap_or(u64::MAX)
}

/// Descriptors that an idle process has open: standard streams and files, and for each shard its
/// executor's rings and events, its epoll instance and its listening sockets.
///
/// With a table per shard, what was open before the tables parted is in all of them.
fn own_descriptors(shards: u16, listeners: usize, per_shard: bool) -> u64 {
    match per_shard {
        true => 24 + u64::from(shards) * 8 + listeners as u64,
        false => 16 + u64::from(shards) * (8 + listeners as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(errno: Errno, switch: Option<&str>) -> String {
        io_uring_sentence(&io::Error::from(errno), switch, 64 << 10)
    }

    #[test]
    fn a_refused_io_uring_is_explained_by_its_cause() {
        assert!(sentence(Errno::PERM, Some("2")).contains("kernel.io_uring_disabled is 2"));
        assert!(sentence(Errno::PERM, Some("0")).contains("seccomp"));
        assert!(sentence(Errno::PERM, None).contains("seccomp"));
        assert!(sentence(Errno::NOSYS, None).contains("5.8"));
        assert!(sentence(Errno::NOMEM, None).contains("64 KiB"));
        assert!(sentence(Errno::INVAL, None).starts_with("io_uring cannot be set up: "));
    }

    #[test]
    fn a_low_file_limit_says_how_many_connections_fit() {
        let few = OpenFiles { limit: 1024, connections: 990 };
        assert!(few.warning().expect("too few").contains("about 990 connections fit"));
        let many = OpenFiles { limit: 1 << 20, connections: (1 << 20) - 34 };
        assert_eq!(many.warning(), None);
    }

    #[test]
    fn the_epoll_runtime_needs_no_permission() {
        assert_eq!(runtime(RuntimeChoice::Epoll), Ok((Runtime::Epoll, None)));
    }
}
