"""What settings of Linux change, measured one by one beside its default.

    make bench-tuning            (as root, for it sets them; each is put back)

Each row is a setting, its value, and the figure that it is said to move. Runs in turn, some times
over; medians. What cannot be set here is said and left out.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import broker

# Setting, values of which one is the default, what is measured under it.
SETTINGS = [
    ("/proc/sys/net/core/somaxconn", ["128", "4096", "65535"], "flood"),
    ("/proc/sys/net/ipv4/tcp_max_syn_backlog", ["128", "2048", "65536"], "flood"),
    ("/sys/kernel/mm/transparent_hugepage/enabled", ["never", "madvise", "always"], "memory"),
    ("/proc/sys/net/ipv4/tcp_rmem", ["4096 16384 6291456", "4096 131072 33554432"], "memory"),
    ("shards", ["1", "2", "8", "32"], "pings"),
]
UNITS = {
    "flood": "s until all of 15,000 sessions are back, all at once; attempts each",
    "memory": "bytes per TLS connection: broker, kernel (both ends)",
    "pings": "broker CPU µs per ping, 4,000 a second",
}


def load(scenario, count, shards, layer, *more):
    """What petrel-bench says."""
    with (
        broker.petrel(shards, record_layer=layer) as (process, address),
        tempfile.NamedTemporaryFile() as file,
    ):
        host, port = address.rsplit(":", 1)
        command = [str(broker.BENCH), scenario, "-h", host, "-p", port, "-c", str(count)]
        command += ["--broker-pid", str(process.pid), "--quiet", "--json", file.name]
        command += ["-S"] if layer else []
        subprocess.run(command + list(more), stdout=subprocess.DEVNULL, timeout=600)
        return json.load(file)["results"]


def measure(what, shards):
    """The figures of one run."""
    if what == "flood":
        found = load("storm", 15_000, shards, None, "--pairs", "1", "--time", "0.5")
        return found["recovery_s"], found["attempts_each"]
    if what == "memory":
        found = load("connect", 10_000, shards, "compact", "--time", "1")
        return found["user_bytes_each"], found["slab_bytes_each"]
    found = load("keepalive", 8_000, shards, None, "-k", "2", "--time", "10")
    return (found["cpu_per_ping_us"],)


class Setting:
    """A file of the kernel, or the number of shards."""

    def __init__(self, name):
        self.file = pathlib.Path(name) if name.startswith("/") else None
        self.shards = 2
        if self.file:
            self.before = self.file.read_text().strip()
            if "[" in self.before:
                self.before = self.before.split("[")[1].split("]")[0]
        else:
            self.before = None

    def set(self, value):
        if self.file:
            self.file.write_text(value)
        else:
            self.shards = int(value)

    def put_back(self):
        if self.file:
            self.file.write_text(self.before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name, values, what in SETTINGS:
        print(f"{name}: {UNITS[what]}", flush=True)
        try:
            setting = Setting(name)
            setting.set(setting.before or values[0])
        except OSError as error:
            print(f"  not measured: {error}")
            continue
        found = {value: [] for value in values}
        try:
            for _ in range(options.rounds):
                for value in values:
                    setting.set(value)
                    found[value].append(measure(what, setting.shards))
        finally:
            setting.put_back()
        for value, runs in found.items():
            medians = [f"{statistics.median(column):10.2f}" for column in zip(*runs)]
            mark = "  (as found)" if value == setting.before else ""
            print(f"  {value:24}", *medians, mark, flush=True)


if __name__ == "__main__":
    main()
