"""The Debian package, as far as it can be tried without systemd and without touching this system.

Installs it into an empty folder tree, starts the broker from there as its unit would, with a socket in the place of
systemd's, upgrades to a higher version with another default configuration, removes and purges. What cannot be done
here is said with its reason. Usage: check.py PACKAGE.deb
"""

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pages import blocks, certificate, own_network

PATIENCE_S = 60
# Points of `systemd-analyze security`, of 100: what a service may do of what it could.
EXPOSURE_MAX = 20
INSTALL = "docs/operate/INSTALL.md"
UPGRADE = "docs/operate/UPGRADE.md"
CONFIG = """\
[engine]
shards = 2
control = "{run}"
[storage]
path = "{state}"
[[listener]]
protocol = "mqtt"
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
"""


def run(*command, **more):
    """Runs a command that has to succeed, and returns what it writes."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, **more
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def hold(what, text):
    if not what:
        sys.exit(f"package-check: {text}")


def left_out(what, why):
    print(f"not run here: {what}: {why}")


class Tree:
    """A folder tree in the place of a system's root."""

    def __init__(self, root):
        self.root = root
        for folder in ("etc", "usr/bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
            (root / folder).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        self.before = self.files()

    def files(self):
        """Everything there is but the package manager's own."""
        found = (path.relative_to(self.root) for path in self.root.rglob("*"))
        return {str(path) for path in found if not str(path).startswith(("var/lib/dpkg", "var/log"))}

    def dpkg(self, *arguments):
        # Only this package is in the tree, so what it depends on is not.
        force = ["--force-script-chrootless", "--force-depends", "--force-confdef", "--force-confold"]
        return run("dpkg", f"--root={self.root}", *force, *arguments)

    def user(self):
        """Numbers of the user and the group that the package has made."""
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, user, group, *_ = line.split(":")
            if name == "petrel":
                return int(user), int(group)
        sys.exit("package-check: the user petrel has not been made")


class Service:
    """The broker from a tree, as its unit starts it."""

    def __init__(self, tree, unit, wrap=()):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = tree.root / "notify"
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))
        path.chmod(0o666)
        user, group = tree.user()
        # StateDirectory= and RuntimeDirectory=.
        for name in ("var/lib/petrel", "run/petrel"):
            (tree.root / name).mkdir(parents=True, exist_ok=True)
            os.chown(tree.root / name, user, group)
        program, *arguments = unit["Service"]["ExecStart"].split()
        arguments = [argument.replace("/etc/petrel", f"{tree.root}/etc/petrel") for argument in arguments]
        limits = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"]
        command = ["setpriv", f"--reuid={user}", f"--regid={group}", *limits, f"{tree.root}{program}", *arguments]
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000", "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            [*map(str, wrap), *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.status = self.hears("READY=1")

    def hears(self, state):
        # One time for all: other states come all the while.
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.socket.settimeout(max(until - time.monotonic(), 0.001))
                states = self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                self.process.kill()
                sys.exit(f"package-check: {state} is not said:\n{self.process.communicate()[0]}")
            if state in states:
                return states

    def port(self):
        found = re.search(r"serving on 127\.0\.0\.1:(\d+) ", "\n".join(self.status))
        hold(found, f"no port in {self.status}")
        return found[1]

    def send(self, number):
        # Below what wraps it, if anything does.
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[0]) if children else self.process.pid, number)

    def end(self):
        self.send(signal.SIGTERM)
        self.hears("STOPPING=1")
        text, _ = self.process.communicate(timeout=PATIENCE_S)
        hold(self.process.returncode == 0, f"the broker ends with {self.process.returncode}:\n{text}")
        self.socket.close()


def read_unit(path):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(path)
    return unit


def check_unit(tree):
    """What systemd itself says of the unit."""
    name = tree.root / "usr/lib/systemd/system/petrel.service"
    unit = read_unit(name)
    if not shutil.which("systemd-analyze"):
        left_out("systemd-analyze verify", "there is no systemd-analyze")
        return unit
    # Its manual pages and programs are in the tree only.
    text = name.read_text().replace("/usr/bin/petrel", f"{tree.root}/usr/bin/petrel")
    copy = tree.root / "petrel.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    wrong = [line for line in done.stderr.splitlines() if "petrel" in line]
    hold(done.returncode == 0 and not wrong, f"systemd-analyze verify: {done.stdout}{done.stderr}")
    print("systemd-analyze verify: nothing is wrong")
    run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", "--no-pager", copy)
    print(f"systemd-analyze security: an exposure of at most {EXPOSURE_MAX / 10}")
    copy.unlink()
    return unit


def allowed_calls(unit_path):
    """The system calls that the unit allows."""
    allowed = set()

    def members(name):
        if not name.startswith("@"):
            return {name}
        lines = run("systemd-analyze", "syscall-filter", "--no-pager", name).splitlines()[1:]
        words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        return set().union(*(members(word) for word in words))

    for line in unit_path.read_text().splitlines():
        key, _, value = line.partition("=")
        if key != "SystemCallFilter":
            continue
        names = set().union(*(members(name) for name in value.removeprefix("~").split()))
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


def check_calls(tree, unit):
    """Has the broker start and serve under strace, and compares its system calls with those that the unit allows."""
    for program in ("strace", "systemd-analyze"):
        if not shutil.which(program):
            return left_out("system calls against SystemCallFilter=", f"there is no {program}")
    trial = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        return left_out("system calls against SystemCallFilter=", trial.stderr.strip())
    log = tree.root / "calls"
    service = Service(tree, unit, wrap=["strace", "-f", "-qq", "-e", "signal=none", "-o", log])
    exchange(tree, service)
    service.end()
    # Who drops the rights before the broker is run is systemd itself there.
    lines = log.read_text().splitlines()
    begin = next(at for at, line in enumerate(lines) if "execve(" in line and "/usr/bin/petrel" in line)
    calls = {found[1] for line in lines[begin:] if (found := re.match(r"\d+ +([a-z_0-9]+)\(", line))}
    hold({"io_uring_setup", "epoll_create1"} & calls, "the broker has not served")
    forbidden = calls - allowed_calls(tree.root / "usr/lib/systemd/system/petrel.service")
    hold(not forbidden, f"the unit forbids system calls that the broker makes: {sorted(forbidden)}")
    print(f"SystemCallFilter= allows all of the {len(calls)} system calls that the broker makes")
    log.unlink()


def exchange(tree, service, kept=None):
    """A message goes through the broker; one that is retained from before is still there."""
    petrelctl, port = tree.root / "usr/bin/petrelctl", service.port()
    if kept:
        got = run(petrelctl, "sub", "-p", port, "-t", "package/kept", "-C", "1", "-W", "30")
        hold(got.strip() == kept, f"{kept!r} was kept, and {got!r} is there")
    run(petrelctl, "pub", "-p", port, "-t", "package/kept", "-m", "still here", "-q", "1", "-r")
    got = run(petrelctl, "sub", "-p", port, "-t", "package/#", "-C", "1", "-W", "30")
    hold(got.strip() == "still here", f"what comes is {got!r}")
    run(petrelctl, "probe", "-h", "127.0.0.1", "-p", port, "--count", "1", "--timeout", "30")
    run(petrelctl, "status", "--folder", tree.root / "run/petrel")


def check_service(tree, unit):
    service = Service(tree, unit)
    service.hears("WATCHDOG=1")
    exchange(tree, service)
    service.send(signal.SIGHUP)
    reloading = service.hears("RELOADING=1")
    hold(any(state.startswith("MONOTONIC_USEC=") for state in reloading), f"no time in {reloading}")
    service.hears("READY=1")
    service.hears("WATCHDOG=1")
    service.end()
    print("the broker says READY, WATCHDOG, RELOADING and STOPPING, as the user petrel without any capability")


def newer(package, folder):
    """The same package with a higher version and another default configuration."""
    run("dpkg-deb", "-R", package, folder)
    control = folder / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 999.0-1", control.read_text(), flags=re.M))
    config = folder / "etc/petrel/petrel.toml"
    config.write_text(config.read_text() + "\n# A line that the next version has.\n")
    result = folder.parent / "newer.deb"
    run("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "-b", folder, result)
    return result


def check_contents(tree):
    wanted = [
        "etc/petrel/petrel.toml",
        "usr/bin/petrelctl",
        "usr/lib/systemd/system/petrel.service",
        "usr/lib/sysusers.d/petrel.conf",
        "usr/share/bash-completion/completions/petrelctl",
        "usr/share/doc/petrel/CONFIGURATION.md",
        "usr/share/doc/petrel/copyright",
        "usr/share/man/man1/petrel.1.gz",
        "usr/share/man/man1/petrelctl-pub.1.gz",
    ]
    for name in wanted:
        hold((tree.root / name).stat().st_size > 0, f"{name} is not in the package")
    said = run(tree.root / "usr/bin/petrel", "--config", tree.root / "etc/petrel/petrel.toml", "--check-config")
    hold("nothing is wrong" in said, said)
    print("the default configuration is good")


class Operator:
    """Types what a page shows: each line as it stands, but in the tree and by the numbers of its users."""

    def __init__(self, tree, unit, packages):
        self.tree, self.unit, self.packages = tree, unit, packages
        self.service, self.place = None, tree.root.parent / "operator"
        self.place.mkdir(exist_ok=True)

    def types(self, block, typed=None):
        for line in block.splitlines():
            for command in line.split(" && "):
                self.does(command.replace("sudo ", "").split(), typed)

    def does(self, words, typed):
        match words:
            case ["systemctl", what, "petrel"]:
                self.systemctl(what)
            case ["apt", "install", *_, package]:
                # The package's own scripts have systemd do this.
                self.end()
                self.tree.dpkg("--install", self.packages[Path(package).name])
                self.systemctl("start")
            case ["dpkg-deb", "-x", package, folder]:
                run("dpkg-deb", "-x", self.packages[Path(package).name], self.place / folder)
            case _:
                self.runs(words, typed)

    def runs(self, words, typed):
        user, group = self.tree.user()
        numbers = {"petrel:petrel": f"{user}:{group}"}
        if words[0] == "install":
            numbers["petrel"] = str(user)
        words = [numbers.get(word, word) for word in words]
        ours = ("/etc/petrel", "/run/petrel", "/var/lib/petrel", "/var/backups/petrel")
        words = [f"{self.tree.root}{word}" if word.startswith(ours) else word for word in words]
        if words[0] in ("petrel", "petrelctl"):
            words[0] = f"{self.tree.root}/usr/bin/{words[0]}"
        environment = {**os.environ, "PETREL_FOLDER": f"{self.tree.root}/run/petrel"}
        (self.tree.root / "var/backups").mkdir(exist_ok=True)
        done = subprocess.run(
            words, cwd=self.place, env=environment, input=typed or "", capture_output=True, text=True, timeout=300
        )
        hold(done.returncode == 0, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    def systemctl(self, what):
        match what:
            case "status":
                hold(any(state.startswith("STATUS=serving on ") for state in self.service.status), self.service.status)
            case "stop":
                self.end()
            case "start" | "restart":
                self.end()
                self.service = Service(self.tree, self.unit)
            case _:
                sys.exit(f"package-check: systemctl {what} is not known here")

    def end(self):
        if self.service:
            self.service.end()
        self.service = None


def own_paths(tree, text):
    """A configuration as it stands, with its folders in the tree."""
    return re.sub(r'"(/run/petrel|/var/lib/petrel)"', rf'"{tree.root}\1"', text)


def follow_install(package, tree, unit):
    """What INSTALL.md shows of the package, from the installation to a listener for others."""
    [install, users] = blocks(INSTALL, "Debian package", "sh")
    [toml] = blocks(INSTALL, "Debian package", "toml")
    hold("restart petrel" in users, f"{INSTALL} does not end with a restart")
    config = tree.root / "etc/petrel/petrel.toml"
    default = config.read_text()
    config.write_text(own_paths(tree, default))
    operator = Operator(tree, unit, {"petrel_*.deb": package})
    operator.types(install)
    if not shutil.which("openssl"):
        left_out(f"the listener for others of {INSTALL}", "there is no openssl for its certificate")
    else:
        config.write_text(own_paths(tree, default) + toml)
        certificate(config.parent)
        *first, restart = users.splitlines(keepends=True)
        operator.types("".join(first), "s3cret\n")
        _, group = tree.user()
        for name in ("server.pem", "server.key", "users"):
            os.chown(config.parent / name, 0, group)
            (config.parent / name).chmod(0o640)
        operator.types(restart)
        words = "petrelctl probe -h 127.0.0.1 -p 8883 --count 1 -u NAME -P s3cret --cafile".split()
        operator.runs([*words, "/etc/petrel/server.pem"], None)
        for name in ("server.pem", "server.key", "users"):
            (config.parent / name).unlink()
    operator.end()
    for folder in ("var/lib/petrel", "run/petrel"):
        shutil.rmtree(tree.root / folder)
    config.write_text(default)
    print(f"{INSTALL}: the package is installed, configured and restarted as it says")


def follow_upgrade(package, upgrade, tree, unit):
    """What UPGRADE.md shows: to another version, back to the old one, and back to what was kept before."""
    [there] = blocks(UPGRADE, "Upgrade Petrel", "sh")
    [back, restore] = blocks(UPGRADE, "Back to the old version", "sh")
    config = tree.root / "etc/petrel/petrel.toml"
    default = config.read_text()
    config.write_text(own_paths(tree, default))
    operator = Operator(tree, unit, {"petrel_NEW.deb": upgrade, "petrel_OLD.deb": package})
    operator.systemctl("start")
    petrelctl = [tree.root / "usr/bin/petrelctl"]
    session = "-c -i keeper -q 1 -t jobs/#".split()

    def publish(text):
        run(*petrelctl, "pub", "-t", "state", "-m", text, "-q", "1", "-r")
        run(*petrelctl, "pub", "-t", "jobs/1", "-m", text, "-q", "1")

    def kept(count):
        """What is retained, and the first messages that waited."""
        state = run(*petrelctl, "sub", "-t", "state", "-C", "1", "-W", "30").strip()
        return state, run(*petrelctl, "sub", *session, "-C", str(count), "-W", "30").split()

    run(*petrelctl, "sub", *session, "-E")
    publish("before")
    operator.types(there)
    publish("after")
    operator.types(back)
    hold(kept(2) == ("after", ["before", "after"]), "what the newer version has kept is lost on the way back")
    operator.types(restore)
    hold(kept(1) == ("before", ["before"]), "the broker is not as it was when the backup was made")
    operator.end()
    for folder in ("var/lib/petrel", "var/lib/petrel.newer", "run/petrel", "var/backups"):
        shutil.rmtree(tree.root / folder)
    for left in config.parent.glob("petrel.toml.dpkg-*"):
        left.unlink()
    config.write_text(default)
    print(f"{UPGRADE}: backup, drain, upgrade, the way back and a restoration keep what it says")


def check(package, tree):
    tree.dpkg("--install", package)
    check_contents(tree)
    unit = check_unit(tree)
    folder = tree.root / "etc/petrel"
    _, group = tree.user()
    hold((folder.stat().st_mode & 0o777, folder.stat().st_gid) == (0o750, group), "others may read /etc/petrel")
    enabled = tree.root / "etc/systemd/system/multi-user.target.wants/petrel.service"
    hold(enabled.is_symlink(), "the unit is not enabled")

    upgrade = newer(package, tree.root.parent / "newer")
    if "PETREL_OWN_NETWORK" in os.environ:
        follow_install(package, tree, unit)
        follow_upgrade(package, upgrade, tree, unit)

    config = folder / "petrel.toml"
    own = CONFIG.format(run=tree.root / "run/petrel", state=tree.root / "var/lib/petrel")
    config.write_text(own)
    check_service(tree, unit)
    check_calls(tree, unit)

    tree.dpkg("--install", upgrade)
    hold(config.read_text() == own, "an upgrade has changed the user's configuration")
    hold("next version" in (folder / "petrel.toml.dpkg-dist").read_text(), "the new default file is not beside it")
    service = Service(tree, unit)
    exchange(tree, service, kept="still here")
    service.end()
    print("an upgrade keeps the user's configuration and what the broker has stored")

    tree.dpkg("--remove", "petrel")
    hold(not (tree.root / "usr/bin/petrel").exists(), "the program stays after a removal")
    hold(config.read_text() == own, "a removal takes the configuration")
    hold(any((tree.root / "var/lib/petrel").iterdir()), "a removal takes what the broker has stored")
    tree.dpkg("--purge", "petrel")
    left = tree.files() - tree.before
    # What stands for systemd's own part here, and the list of users.
    ours = {"notify", "run"}
    users = {f"etc/{name}" for name in ("passwd", "group", "shadow", "gshadow")}
    left = {name for name in left - ours - users if not name.startswith("etc/.pwd") and not name.endswith("-")}
    left = {name for name in left if (tree.root / name).is_symlink() or not (tree.root / name).is_dir()}
    hold(not left, f"a purge leaves {sorted(left)}")
    print("a removal keeps configuration and state, a purge leaves the user petrel alone")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check.py PACKAGE.deb")
    package = Path(sys.argv[1]).resolve()
    if os.geteuid() == 0 and "PETREL_OWN_NETWORK" not in os.environ:
        why = own_network(sys.argv)
        left_out(f"the examples of {INSTALL} and {UPGRADE}", f"no network of its own for their ports: {why}")
    for program in ("dpkg", "dpkg-deb", "setpriv", "systemd-sysusers"):
        if not shutil.which(program):
            return left_out("the package's check", f"there is no {program}")
    with tempfile.TemporaryDirectory(prefix="petrel-package-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        if os.geteuid() != 0:
            run("dpkg-deb", "-x", package, folder / "root")
            said = run(folder / "root/usr/bin/petrel", "--version")
            return left_out("all but taking the package apart", f"only root may install; {said.strip()} runs")
        (folder / "root").mkdir()
        check(package, Tree(folder / "root"))
    left_out("the unit under systemd itself", "that needs a machine that was booted by it")


if __name__ == "__main__":
    main()
