//! The program as a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub fn petrel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    command.stdin(Stdio::null());
    command
}

/// A folder with `p.toml`.
pub fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("p.toml"), config).expect("written");
    folder
}

pub fn with_config(command: &mut Command, folder: &TempDir) {
    command.arg("--config").arg(folder.path().join("p.toml"));
}

/// A `[[listener]]` on loopback.
pub fn listener(protocol: &str, port: u16) -> String {
    format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:{port}\"\n")
}

/// A broker that says on stderr what it does.
pub struct Running {
    pub child: Child,
    pub lines: Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// The text of the next log line, its time and level left out.
    pub fn line(&mut self) -> String {
        let line = self.lines.next().expect("a line").expect("readable");
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(time.ends_with('Z'), "{line}");
        let (level, text) = rest.split_at(6);
        assert!(["info  ", "warn  ", "error "].contains(&level), "{line}");
        text.to_owned()
    }

    /// The next line that holds this.
    pub fn line_with(&mut self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The address of the next listener.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line_with("listening for ");
        let address = line.split([' ', ',', '/']).find_map(|word| word.parse().ok());
        address.unwrap_or_else(|| panic!("no address in {line}"))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill_process(pid.expect("not zero"), signal).expect("it runs");
    }

    /// Waits for the end; the exit code and the lines that were left.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let mut rest = Vec::new();
        for line in &mut self.lines {
            rest.push(line.expect("readable"));
        }
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Running {
    /// A test that fails leaves nothing that runs.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `petrel` under a limit of the shell's `ulimit`.
pub fn limited(limit: &str, config: &str) -> (TempDir, Command) {
    let folder = folder(config);
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" --config \"$1\"");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_petrel"));
    command.arg(folder.path().join("p.toml")).stdin(Stdio::null());
    (folder, command)
}
