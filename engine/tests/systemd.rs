//! What the program says to who started it, over a socket as systemd's.

mod common;

use std::collections::VecDeque;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use common::process::{Running, folder, listener, petrel, with_config};
use rustix::process::Signal;

/// Much longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The other end of the socket.
struct Manager {
    socket: UnixDatagram,
    heard: VecDeque<String>,
}

impl Manager {
    /// Waits for a state to be told. What was told before is forgotten.
    fn hears(&mut self, state: &str) -> Vec<String> {
        loop {
            while let Some(message) = self.heard.pop_front() {
                let states: Vec<String> = message.lines().map(str::to_owned).collect();
                if states.iter().any(|told| told == state) {
                    return states;
                }
            }
            let mut buffer = [0; 4096];
            let bytes = self.socket.recv(&mut buffer).expect("something is said in time");
            let message = String::from_utf8(buffer[..bytes].to_vec()).expect("UTF-8");
            self.heard.push_back(message);
        }
    }
}

#[test]
fn systemd_is_told_of_the_start_of_life_of_reloads_and_of_the_end() {
    let folder = folder(&(listener("mqtt", 0) + "[engine]\nshards = 2\n"));
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    is_told(&folder, socket, path.to_str().expect("UTF-8"));
}

/// As systemd itself has them in containers.
#[test]
fn systemd_is_told_at_a_name_that_is_no_path() {
    let folder = folder(&(listener("mqtt", 0) + "[engine]\nshards = 2\n"));
    // Nobody else has a folder of this name.
    let name = folder.path().to_str().expect("UTF-8").to_owned();
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    is_told(&folder, UnixDatagram::bind_addr(&address).expect("bound"), &format!("@{name}"));
}

fn is_told(folder: &tempfile::TempDir, socket: UnixDatagram, name: &str) {
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut manager = Manager { socket, heard: VecDeque::new() };
    let mut command = petrel();
    with_config(&mut command, folder);
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let mut broker = Running::start(&mut command);
    let address = broker.address();

    let status = manager.hears("READY=1").pop().expect("a status");
    assert!(status.starts_with(&format!("STATUS=serving on {address} with 2 shards")), "{status}");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");

    broker.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1");
    let monotonic = reloading.iter().find_map(|told| told.strip_prefix("MONOTONIC_USEC="));
    assert!(monotonic.is_some_and(|usec| usec.parse::<u64>().is_ok()), "{reloading:?}");
    let status = manager.hears("READY=1").pop().expect("a status");
    assert!(status.contains("reload: certificates, users"), "{status}");

    let file = folder.path().join("p.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, text + "apples = 1\npears = 2\n").expect("written");
    broker.signal(Signal::HUP);
    manager.hears("RELOADING=1");
    let states = manager.hears("READY=1");
    assert_eq!(states.len(), 2, "a problem is no state: {states:?}");
    let status = &states[1];
    assert!(status.contains("apples") && status.contains("pears"), "{status}");
    assert!(status.contains("nothing has changed"), "{status}");

    broker.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert_eq!(broker.end().0, Some(0));
}

/// For somebody else's process, as a shell that runs it would be.
#[test]
fn a_watchdog_that_is_for_another_process_is_left_alone() {
    let folder = folder(&listener("mqtt", 0));
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut command = petrel();
    with_config(&mut command, &folder);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let mut broker = Running::start(&mut command);
    broker.line_with("petrel ready");
    broker.signal(Signal::TERM);
    let mut all = Vec::new();
    while !all.iter().any(|said: &String| said.contains("STOPPING=1")) {
        let mut buffer = [0; 4096];
        let bytes = socket.recv(&mut buffer).expect("something is said in time");
        all.push(String::from_utf8_lossy(&buffer[..bytes]).into_owned());
    }
    assert!(!all.iter().any(|said| said.contains("WATCHDOG=1")), "{all:?}");
    assert_eq!(broker.end().0, Some(0));
}
