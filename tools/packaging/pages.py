"""Examples of the pages for those who run a broker that need the programs themselves: those of README.md.

They have fixed ports, so they are run in a network of their own. Usage: pages.py FOLDER-OF-PROGRAMS
"""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60


def hold(what, text):
    if not what:
        sys.exit(f"pages: {text}")


def sections(page):
    """The parts of a page by their headings; what stands before the first is below the empty one."""
    parts = re.split(r"^#+ (.*)\n", (ROOT / page).read_text(), flags=re.M)
    # A comment in a block is no heading.
    hold(len(set(parts[1::2])) == len(parts[1::2]), f"{page} has a heading twice")
    return dict(zip(["", *parts[1::2]], parts[0::2]))


def blocks(page, heading, kind):
    """Blocks of a kind below a heading."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", sections(page)[heading], flags=re.M | re.S)


def lines(block):
    return [line.split("  #")[0].strip() for line in block.splitlines()]


def own_network(arguments):
    """Runs this program again where no port is taken; says why if that cannot be."""
    up = "ip link set lo up && exec \"$@\""
    command = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() != 0 else []), "sh", "-c", up, "sh"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "there is no unshare or no ip"
    trial = subprocess.run([*command, "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        return trial.stderr.strip()
    os.environ["PETREL_OWN_NETWORK"] = "yes"
    sys.stdout.flush()
    os.execvp(command[0], [*command, sys.executable, *arguments])


def certificate(folder):
    """`server.pem` and `server.key`, for this machine."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=petrel", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
        + ["-keyout", folder / "server.key", "-out", folder / "server.pem"],
        check=True,
        capture_output=True,
    )


class Broker:
    """A command that starts a broker, until it is ready."""

    def __init__(self, command, folder):
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(command, cwd=folder, stderr=self.log, stdin=subprocess.DEVNULL)
        atexit.register(self.process.kill)
        self.wait_for("petrel ready")

    def wait_for(self, text):
        begin = time.monotonic()
        while text not in Path(self.log.name).read_text():
            said = Path(self.log.name).read_text()
            hold(self.process.poll() is None and time.monotonic() - begin < PATIENCE_S, f"no {text!r}: {said}")
            time.sleep(0.05)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        hold(self.process.wait(PATIENCE_S) == 0, "the broker does not end well")


def plan(line):
    """What make would do for a line, without doing it."""
    words = line.split()
    command = ["make", "-n", "--no-print-directory", "-C", ROOT, *words[1:]]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    hold(words[0] == "make" and done.returncode == 0, f"{line}: {done.stderr}")
    return done.stdout.splitlines()


def readme(programs):
    [two] = blocks("README.md", "Two commands", "sh")[:1]
    run, test = lines(two)
    hold(plan(run)[-1].strip() == "target/release/petrel", f"{run} starts something else")
    hold("all passed" in plan(test)[-1], f"{test} does something else")
    [_, client] = blocks("README.md", "Two commands", "sh")
    subscribe, publish = lines(client.replace("target/release/", f"{programs}/"))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        broker = Broker([programs / "petrel"], folder)
        hold(subscribe.endswith(" &"), "the subscriber is in the way of the publisher")
        heard = (folder / "heard").open("w")
        subscriber = subprocess.Popen(["sh", "-c", f"exec {subscribe.removesuffix(' &')}"], stdout=heard)
        begin = time.monotonic()
        # Until it has subscribed nobody hears it.
        while "demo/hello it works" not in (folder / "heard").read_text():
            hold(time.monotonic() - begin < PATIENCE_S, f"nothing comes: {subscribe}")
            subprocess.run(["sh", "-c", publish], check=True)
        subscriber.kill()
        subscriber.wait()
        broker.end()
    print("README.md: the two commands and the two clients do what it says")

    [start] = blocks("README.md", "Configuration", "sh")
    [config] = blocks("README.md", "Configuration", "toml")
    if not shutil.which("openssl"):
        return print("not run here: the configuration of README.md: there is no openssl for its certificate")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        certificate(folder)
        (folder / "petrel.toml").write_text(config)
        (folder / "rules.toml").write_text('[[rule]]\nallow = "both"\ntopics = ["#"]\n')
        command = re.search(r"petrelctl (passwd users NAME)", config)[1].split()
        subprocess.run([programs / "petrelctl", *command], cwd=folder, input="s3cret\n", text=True, check=True)
        serve, check = lines(start.replace("target/release/", f"{programs}/"))
        said = subprocess.run(check.split(), cwd=folder, check=True, capture_output=True, text=True).stdout
        hold("nothing is wrong" in said, said)
        broker = Broker(serve.split(), folder)
        probe = ["probe", "-h", "127.0.0.1", "-p", "8883", "--cafile", "server.pem", "-u", "NAME", "-P", "s3cret", "--count", "1"]
        subprocess.run([programs / "petrelctl", *probe], cwd=folder, check=True, capture_output=True)
        broker.end()
    print("README.md: its configuration is served, over TLS to the user that it makes")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: pages.py FOLDER-OF-PROGRAMS")
    if "PETREL_OWN_NETWORK" not in os.environ:
        why = own_network(sys.argv)
        return print(f"not run here: the examples of README.md: no network of its own for its ports: {why}")
    readme(Path(sys.argv[1]).resolve())


if __name__ == "__main__":
    main()
