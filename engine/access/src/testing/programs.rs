//! Real back ends, each a process of the test's own on a port of its own, with its files in a folder that goes with
//! it. Where a program is not installed, the test says so and is passed over.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, getuid, kill_process};

/// Who has no rights of its own: PostgreSQL does not run as root.
const NOBODY: u32 = 65_534;

/// Says why a test is passed over, past what the harness keeps to itself.
pub(crate) fn pass_over(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{name} is passed over: {why}");
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Several, each another one.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A program in the search path or in one of these folders.
pub(crate) fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = folders.iter().chain(&in_path).map(|folder| folder.join(program));
    all.into_iter().find(|file| file.is_file())
}

/// A process that ends with this.
pub(crate) struct Running {
    child: Child,
    /// How it is asked to end.
    signal: Signal,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // It may have ended.
            let _ = kill_process(pid, self.signal);
        }
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts a program and waits until it says `ready` on stderr.
    pub(crate) fn start(
        mut command: Command,
        ready: &str,
        signal: Signal,
        folder: tempfile::TempDir,
    ) -> Result<Self, String> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let stderr = child.stderr.take().expect("a pipe");
        let mut running = Self { child, signal, _folder: folder };
        let mut lines = BufReader::new(stderr).lines();
        let mut said = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            said = said + &line + "\n";
            if line.contains(ready) {
                // What it still says has to go somewhere.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(running);
            }
        }
        let ended = running.child.wait();
        Err(format!("it ended before it was ready ({ended:?}):\n{said}"))
    }
}

/// Gives a file to nobody if this is root.
fn give(path: &Path) {
    if getuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Writes a file that only its owner reads, nobody or whoever this is.
fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    give(&path);
    path
}

/// A command that runs as nobody if this is root.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    if getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env("LC_ALL", "C").current_dir("/");
    command
}

/// A database of the test's own. Its administrator is `root` with the password `root`.
#[cfg(feature = "postgresql")]
pub(crate) struct Postgres {
    pub port: u16,
    /// The authority of its certificate, which is for `localhost`.
    pub ca: String,
    _running: Running,
}

#[cfg(feature = "postgresql")]
impl Postgres {
    /// Starts one; says why not if it is not installed.
    pub(crate) fn start() -> Result<Self, String> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
        let (initdb, postgres) = find("initdb", &folders)
            .zip(find("postgres", &folders))
            .ok_or("PostgreSQL is not installed (the package postgresql)")?;
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let own = |name: &str, text: &str| write(folder.path(), name, text);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = own("cert.pem", &made.cert.pem());
        let key = own("key.pem", &made.signing_key.serialize_pem());
        let password = own("password", "root\n");
        let data = folder.path().join("data");
        let mut command = as_nobody(&initdb);
        command.args(["-U", "root", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8"]);
        command.arg("-D").arg(&data).arg("--pwfile").arg(&password);
        let output = command.output().map_err(|error| format!("{}: {error}", initdb.display()))?;
        if !output.status.success() {
            return Err(format!("initdb fails: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let port = free_port();
        let mut command = as_nobody(&postgres);
        command.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        for (name, value) in [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", String::new()),
            ("fsync", "off".to_owned()),
            ("shared_buffers", "16MB".to_owned()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", cert.display().to_string()),
            ("ssl_key_file", key.display().to_string()),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let ready = "ready to accept connections";
        let running = Running::start(command, ready, Signal::INT, folder)?;
        Ok(Self { port, ca: made.cert.pem(), _running: running })
    }
}

/// A directory of the test's own.
#[cfg(feature = "ldap")]
pub(crate) struct Slapd {
    pub port: u16,
    pub tls_port: u16,
    /// The authority of its certificate, which is for `localhost`.
    pub ca: String,
    _running: Running,
}

#[cfg(feature = "ldap")]
impl Slapd {
    /// Starts one with these entries; says why not if it is not installed.
    pub(crate) fn start(entries: &str) -> Result<Self, String> {
        let folders = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
        let schema = Path::new("/etc/ldap/schema");
        let (slapd, slapadd) = find("slapd", &folders)
            .zip(find("slapadd", &folders))
            .filter(|_| schema.is_dir())
            .ok_or("OpenLDAP is not installed (the package slapd)")?;
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let own = |name: &str, text: &str| write(folder.path(), name, text);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = own("cert.pem", &made.cert.pem());
        let key = own("key.pem", &made.signing_key.serialize_pem());
        let entries = own("entries.ldif", entries);
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        give(&data);
        // A bind without a password succeeds here, as it does at other makers' directories.
        let config = format!(
            "include {schema}/core.schema\ninclude {schema}/cosine.schema\n\
             include {schema}/inetorgperson.schema\nallow bind_anon_dn\n\
             TLSCertificateFile {cert}\nTLSCertificateKeyFile {key}\n\
             database ldif\nsuffix dc=example\ndirectory {data}\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by users read by anonymous auth\n",
            schema = schema.display(),
            cert = cert.display(),
            key = key.display(),
            data = data.display(),
        );
        let config = own("slapd.conf", &config);
        let mut command = as_nobody(&slapadd);
        let output = command.arg("-f").arg(&config).arg("-l").arg(&entries).output();
        let output = output.map_err(|error| format!("{}: {error}", slapadd.display()))?;
        if !output.status.success() {
            return Err(format!("slapadd fails: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let [port, tls_port] = free_ports();
        let mut command = as_nobody(&slapd);
        let urls = format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{tls_port}/");
        command.arg("-f").arg(&config).args(["-h", &urls, "-d", "256"]);
        let running = Running::start(command, "slapd starting", Signal::TERM, folder)?;
        // It says so before it listens.
        let listens = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
        super::until("slapd", || [port, tls_port].iter().all(listens));
        Ok(Self { port, tls_port, ca: made.cert.pem(), _running: running })
    }
}
