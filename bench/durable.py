"""What it costs to keep messages of QoS 1, and what an acknowledgement that waits for the disk takes.

    make bench-durable           (ARGS="--rounds 41 --folder /somewhere --mosquitto")

Ten publishers with a window each send to subscribers whose sessions are kept: first to such that are
there, then to such that are away and come when all has been acknowledged. Petrel without `[storage]` and
with it take turns, on core 0, the load on core 1; the difference is what storage costs, all threads and
the kernel's work for them included. A warm-up fills the log once, so that its files are used again, as
they are in a broker that has run for some minutes. Beside it, 4 KiB are written over and synchronised, to
know what the disk takes.
"""

import argparse
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import threading
import time

import broker

BROKER_CPU, LOAD_CPU = 0, 1
PAYLOAD = 200
LIMITS = "[limits]\nsession_queue_messages = 100000000\nsession_queue_bytes = 100000000000\n"


class Disk(threading.Thread):
    """Synchronises 4 KiB from time to time, past the page cache, as a lane does."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.path, self.times, self.ended = pathlib.Path(folder) / "probe", [], threading.Event()

    def run(self):
        with open(self.path, "wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            at = 0
            while not self.ended.wait(0.02):
                begin = time.perf_counter()
                os.pwrite(file.fileno(), bytes(4096), at)
                os.fdatasync(file.fileno())
                self.times.append(time.perf_counter() - begin)
                at = (at + 4096) % (1 << 20)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()
        self.path.unlink()

    def ms(self, quantile):
        times = sorted(self.times)
        return 1000 * times[min(len(times) - 1, int(quantile * len(times)))] if times else 0.0


def written_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def load(address, kept, messages, pairs, window):
    command = [str(broker.BENCH), "pair", "--address", address, "--pairs", str(pairs)]
    command += ["--qos", "1", "--window", str(window), "--payload", str(PAYLOAD)]
    command += ["--seconds", "120", "--messages", str(messages // pairs), "--kept", kept]
    line = subprocess.run(
        broker.pinned(command, LOAD_CPU), check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    return {name: float(value) for name, value in zip(line[::2], line[1::2])}


def measure(process, address, kept, messages, pairs, window):
    cpu, written = broker.cpu_ns(process.pid), written_bytes(process.pid)
    found = load(address, kept, messages, pairs, window)
    # What is only begun is part of it.
    time.sleep(0.3)
    found["cpu_us"] = (broker.cpu_ns(process.pid) - cpu) / 1000 / found["messages"]
    found["written"] = (written_bytes(process.pid) - written) / found["messages"] / PAYLOAD
    found["acks_per_s"] = found["messages"] / found["acknowledged_after"]
    return found


@contextlib.contextmanager
def petrel(folder, lines):
    storage = f'[storage]\npath = "{folder}"\n' if folder else ""
    with broker.petrel(1, cpu=BROKER_CPU, more=LIMITS + storage, lines=lines) as running:
        yield running


def syncs(lines):
    for line in lines:
        found = re.search(r"storage lane 0: messages=(\d+) batches=(\d+) bytes=(\d+) syncs=(\d+)", line)
        if found:
            return [int(number) for number in found.groups()]
    return [0, 0, 0, 0]


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def spread(rows, key):
    values = [row[key] for row in rows]
    return f"{median(rows, key):8.2f} ({min(values):.2f} to {max(values):.2f})"


def flow(options, folder, kept):
    without, with_storage, probes, lines = [], [], [], []
    shape = options.messages, options.pairs, options.window
    with petrel(None, []) as bare, petrel(pathlib.Path(folder) / f"data-{kept}", lines) as durable:
        for address in (bare[1], durable[1]):
            load(address, kept, options.messages, options.pairs, options.window)
        load(durable[1], "away", options.warm_up, 100, 100)
        for _ in range(options.rounds):
            without.append(measure(*bare, kept, *shape))
            with Disk(folder) as disk:
                with_storage.append(measure(*durable, kept, *shape))
            probes.append({"p50": disk.ms(0.5), "p99": disk.ms(0.99)})
    messages, batches, _, synced = syncs(lines)
    more = [{"us": b["cpu_us"] - a["cpu_us"]} for a, b in zip(without, with_storage)]
    ratio = [
        {"p99": b["ack_p99_us"] / 1000 / max(p["p99"], 0.001)}
        for b, p in zip(with_storage, probes)
    ]
    print(f"subscribers {kept}: {options.pairs} pairs, window {options.window}, {PAYLOAD} B, "
          f"{options.messages} messages a round, {options.rounds} rounds")
    print(f"  CPU per message without storage, us     {spread(without, 'cpu_us')}")
    print(f"  CPU per message with storage, us        {spread(with_storage, 'cpu_us')}")
    print(f"  more, us                                {spread(more, 'us')}")
    print(f"  acknowledged a second, without          {spread(without, 'acks_per_s')}")
    print(f"  acknowledged a second, with             {spread(with_storage, 'acks_per_s')}")
    print(f"  acknowledgement p99, ms, with           {median(with_storage, 'ack_p99_us') / 1000:8.2f}")
    print(f"  the disk's p99 meanwhile, ms            {spread(probes, 'p99')}")
    print(f"  acknowledgement p99 / the disk's        {spread(ratio, 'p99')}")
    print(f"  written / payload                       {spread(with_storage, 'written')}")
    print(f"  of all runs: {messages} messages in {batches} batches, {synced} synchronisations", flush=True)


def beside_mosquitto(options, folder):
    """Acknowledgements a second of Mosquitto, without persistence and saving at every change."""
    for name, lines, messages in (
        ("in memory", "", options.messages),
        ("saving at every change", "persistence true\nautosave_interval 1\n"
         f"autosave_on_changes true\npersistence_location {folder}/\n", 2_000),
    ):
        with broker.mosquitto(cpu=BROKER_CPU, more=lines) as running:
            if running is None:
                print("Mosquitto is not installed (apt-get install mosquitto)")
                return
            found = measure(*running, "away", messages, options.pairs, options.window)
            print(f"Mosquitto, {name}: {found['acks_per_s']:.0f} acknowledged a second, "
                  f"{found['cpu_us']:.1f} us of CPU per message, p99 {found['ack_p99_us'] / 1000:.2f} ms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--warm-up", type=int, default=1_200_000)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--folder", default=str(broker.ROOT / "target"))
    parser.add_argument("--flows", default="online,away")
    parser.add_argument("--mosquitto", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kept in options.flows.split(","):
            flow(options, folder, kept)
        if options.mosquitto:
            beside_mosquitto(options, folder)


if __name__ == "__main__":
    main()
