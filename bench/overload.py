"""What is left of the rate of connections when ten times as many want in as can be served.

    make bench-overload             (as root; ARGS="--count 30000 --patience 2 --quota 0.1")

One machine cannot offer ten times what the same machine serves, so the broker gets a small part of a
core (the kernel's CPU bandwidth control) and the load the rest. All sessions are cut twice, each time
with a broker of its own: once with clients that wait for as long as it takes, which is the best that the
broker can do with that time, and once with clients that give up and begin anew at once. Counted is the
time until half of them are back: up to there at least half of the overload is left. Over loopback the
sender's core refuses a SYN, so that price is not in it; the simulator has it (make sim-storm).
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import broker

# The kernel takes no quota below a millisecond.
PERIOD_US = 20_000
LONG_S = 600
SHOWN = ["accepted", "gone_before_handshake", "handshake_begun", "handshake_gone", "connect_gone"]


class Bandwidth:
    """A group of processes with a part of a core, by either version of control groups."""

    def __init__(self):
        name = f"petrel-bench-{os.getpid()}"
        first = pathlib.Path("/sys/fs/cgroup/cpu")
        self.old = (first / "cpu.cfs_quota_us").exists()
        root = first if self.old else pathlib.Path("/sys/fs/cgroup")
        if not self.old and "cpu" not in read(root / "cgroup.subtree_control").split():
            sys.exit("overload: no control group of CPU time: mount one, or enable `cpu` at its root")
        self.folder = root / name

    def __enter__(self):
        try:
            self.folder.mkdir()
        except OSError as error:
            sys.exit(f"overload: {error}; control groups are root's")
        return self

    def __exit__(self, *_):
        self.folder.rmdir()

    def add(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def limit(self, share):
        quota = int(share * PERIOD_US) if share else -1
        if self.old:
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self.folder / "cpu.max").write_text(f"{quota if share else 'max'} {PERIOD_US}")


def read(path):
    return path.read_text() if path.exists() else ""


def storm(options, patience_s, group):
    """Results of a storm whose broker has its part of a core from the cut on."""
    layer = options.record_layer
    with tempfile.TemporaryDirectory() as folder, broker.petrel(
        options.shards, "epoll", record_layer=layer
    ) as (process, address):
        group.limit(None)
        group.add(process.pid)
        host, port = address.rsplit(":", 1)
        file = pathlib.Path(folder) / "storm.json"
        command = [str(broker.BENCH), "storm", "-S", "-h", host, "-p", port, "--json", str(file)]
        command += ["-c", str(options.count), "--pairs", "1", "--time", "1", "-R", "4000"]
        command += ["--patience", str(patience_s), "--broker-pid", str(process.pid)]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        said = b""
        while chunk := running.stderr.read1(4096):
            said += chunk
            if b"coming back" in said:
                break
            if b"quiet" in said:
                group.limit(options.quota)
        subprocess.run(["cat"], stdin=running.stderr, stdout=subprocess.DEVNULL)
        running.wait()
        group.limit(None)
        process.send_signal(signal.SIGUSR1)
        results = json.loads(file.read_text())["results"]
        results["stages"] = next(line for line in process.stderr if "stages:" in line)
        return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--patience", type=float, default=2)
    parser.add_argument("--quota", type=float, default=0.1, help="part of a core")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--record-layer", default="compact")
    options = parser.parse_args()
    half = options.count / 2
    with Bandwidth() as group:
        rates = {}
        for name, patience_s in [("patient", LONG_S), ("impatient", options.patience)]:
            results = storm(options, patience_s, group)
            half_s = results["back_us"]["p50_us"] / 1e6
            rates[name] = half / half_s
            print(
                f"{name:>9}: {half_s:6.1f} s until half are back, {rates[name]:5.0f}/s; all within "
                f"{results['recovery_s']:6.1f} s, {results['attempts_each']:.1f} attempts each, broker "
                f"{results['cpu_per_return_us']:.0f} us each, {results['present']:.0f} with their session",
                flush=True,
            )
            stages = dict(re.findall(r"(\w+)=(\d+)", results["stages"]))
            print("           " + " ".join(f"{name}={stages[name]}" for name in SHOWN), flush=True)
    offered = options.count / options.patience / rates["patient"]
    print(f"offered: {offered:.1f} times what can be served at first, {offered / 2:.1f} times at half")
    print(f"goodput: {100 * rates['impatient'] / rates['patient']:.0f} % of the patient")


if __name__ == "__main__":
    main()
