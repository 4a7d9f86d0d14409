"""User memory per connection and session by state, as a slope.

    make bench-memory            (ARGS="--shards 8 --counts 5000,10000,15000")

A broker of its own for each number of clients; private memory of its process with them, less what it
takes without any. The slope between the smallest and the largest number is the figure: what does not
grow with the clients falls out of it. Kernel memory is not in it.
"""

import argparse
import subprocess
import sys

import broker

# Sessions that are made and left behind at a time.
BATCH = 500

STATES = [
    ("plain, connected, 1 subscription", None, False, 512),
    ('TLS 1.3, record_layer = "rustls"', "rustls", False, 4096),
    ('TLS 1.3, record_layer = "compact"', "compact", False, 1024),
    ("offline session, 1 subscription", None, True, 300),
]


def held(layer, offline, count, shards, runtime):
    """Private memory that this many clients take."""
    with broker.petrel(shards, runtime, record_layer=layer) as (process, address):
        host, port = address.rsplit(":", 1)
        before = broker.memory_bytes(process.pid)
        if offline:
            return left_behind(process, host, port, count) - before
        command = [str(broker.BENCH), "connect", "-h", host, "-p", port, "-c", str(count)]
        command += ["--quiet", "--time", "2", "--broker-pid", str(process.pid)]
        command += ["-S"] if layer else []
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
        if result.returncode != 0:
            raise SystemExit(f"the load failed:\n{result.stdout}")
        for line in result.stdout.splitlines():
            if "broker memory per connection" in line:
                return float(line.split()[-2]) * count
    raise SystemExit(f"no memory in:\n{result.stdout}")


def left_behind(process, host, port, count):
    """Private memory once this many sessions have been left behind, some at a time: what connections
    have taken meanwhile is used again and does not count."""
    for batch in range(0, count, BATCH):
        command = [str(broker.BENCH), "connect", "-h", host, "-p", port, "-c", str(BATCH)]
        command += ["-r", "--quiet", "--time", "0.1", "--prefix", f"batch-{batch}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=120, check=True)
    return broker.memory_bytes(process.pid)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="5000,10000,15000")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--runtime", default="auto")
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(",")]
    bad = False
    print(f"{'bytes each':36}", *[f"{count:>9}" for count in counts], f"{'slope':>9} {'at most':>8}")
    for name, layer, offline, most in STATES:
        totals = [held(layer, offline, it, options.shards, options.runtime) for it in counts]
        slope = (totals[-1] - totals[0]) / (counts[-1] - counts[0])
        each = [f"{total / count:9.0f}" for total, count in zip(totals, counts)]
        print(f"{name:36}", *each, f"{slope:9.0f} {most:8}", flush=True)
        bad |= slope > most
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
