"""What clients do to each other: rows 7 to 10 of bench/hot.py.

Times are residencies: the kernel's stamp at the receiver less the moment before `send`, so the load's
own delays are not in them (bench/README.md). What the broker waits for its core is; so for row 7 its
threads have real-time priority where the system allows it, and then those who share the machine are not
in it either.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import broker
from table import progress, take_turns

BROKER_CPU, LOAD_CPU = 0, 1
# Rates that are tried for the greatest that is served, messages a second.
RATES = [20_000, 40_000, 60_000, 80_000, 100_000, 130_000, 160_000, 200_000, 250_000]
QUIET_EVERY_MS, QUIET_S = 10, 4
# A flood has so long to connect its clients before the pair is measured, and outlives that.
FLOOD_BEGINS_S, FLOOD_S = 1.5, 8


def first(process):
    """Gives a process precedence over all others on its core; False if that is refused."""
    try:
        for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        return False
    return True


@contextlib.contextmanager
def alone(**options):
    """Petrel with one shard, in front of everybody else on its core if possible."""
    with broker.petrel(1, cpu=BROKER_CPU, **options) as running:
        if not first(running[0]):
            print("no real-time priority: what others do on the broker's core is in the times")
        yield running


def scenario(running, *words):
    """One run of a scenario of petrel-bench on one thread; its results."""
    process, address = running
    host, port = address.rsplit(":", 1)
    with tempfile.NamedTemporaryFile() as file:
        command = [str(broker.BENCH), *map(str, words), "-h", host, "-p", port, "--quiet"]
        command += ["--threads", "1", "--pin", "no", "--json", file.name]
        command += ["--broker-pid", str(process.pid)]
        run = subprocess.run(
            broker.pinned(command, LOAD_CPU), stdout=subprocess.DEVNULL, timeout=120
        )
        if run.returncode:
            raise SystemExit(f"failed: {' '.join(command)}")
        return json.load(file)["results"]


def paced(running, rate, qos, seconds):
    """A hundred pairs at so many messages a second; how long they were in the broker."""
    results = scenario(
        running, "pairs", "-c", 100, "-I", 100_000 / rate, "-q", qos, "--time", seconds
    )
    residency = results["residency_sink"]
    return {
        "served": results["received"] / results["sent"] * results["sent_per_s"] / rate,
        "late": results["late_us_source"]["p99_us"],
        "busy": results["cpu_per_message_us"] * results["sent_per_s"] / 1e6,
        "p50_us": residency["p50_us"], "p99_us": residency["p99_us"],
    }


def greatest_served(running, qos):
    """The last of the rates at which half of the messages are through within half a millisecond."""
    served = None
    for rate in RATES:
        progress(f"QoS {qos}, {rate:,}/s")
        found = paced(running, rate, qos, 1)
        if found["served"] < 0.98 or found["p50_us"] > 500:
            break
        served = rate
    if served is None:
        raise SystemExit(f"not even {RATES[0]} messages a second are served")
    return served


def row_7(table, rounds):
    """Residency at half of the greatest rate that is served."""
    for qos in (0, 1):
        with alone() as running:
            rate = greatest_served(running, qos) / 2
            name = f"half load, QoS {qos}, {rate:,.0f}/s"
            found = take_turns(name, rounds, {"": lambda: paced(running, rate, qos, 2)})[""]
        table.cost(f"{name}: residency p99", found, 1000, "p99_us")
        table.cost(f"{name}: residency p50", found, None, "p50_us")
        table.cost(f"{name}: share of the core", found, None, "busy", "")


def quiet(running):
    """One pair with 100 messages a second; how long they were in the broker."""
    results = scenario(
        running, "pairs", "-c", 1, "-I", QUIET_EVERY_MS, "--prefix", "quiet", "--time", QUIET_S
    )
    residency = results["residency_sink"]
    return {"p50_us": residency["p50_us"], "p99_us": residency["p99_us"]}


def beside(running, **options):
    """The same beside a flood, which has the core of the load only when the pair does not want it."""
    command = ["nice", "-n", "10", str(broker.BENCH), "pair", "--address", running[1]]
    for name, value in {"seconds": FLOOD_S, "payload": 100, **options}.items():
        command += [f"--{name}", str(value)]
    flood = subprocess.Popen(
        broker.pinned(command, LOAD_CPU), stdout=subprocess.PIPE, text=True
    )
    time.sleep(FLOOD_BEGINS_S)
    found = quiet(running)
    if flood.poll() is not None:
        raise SystemExit("the flood has ended too early")
    words = flood.communicate(timeout=120)[0].split()
    if flood.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    found["rate"] = float(words[words.index("rate") + 1])
    return found


def row_8(table, rounds):
    """A quiet pair beside floods.

    Without real-time priority: of a thread that has it and is always busy Linux takes 5 % of the time.
    """
    with broker.petrel(1, cpu=BROKER_CPU) as running:
        found = take_turns("a quiet pair", rounds, {
            "alone": lambda: quiet(running),
            "a flood from one to one": lambda: beside(running, pairs=1, window=10_000),
            "one to 5,000": lambda: beside(running, shape="fan-out", pairs=5000, window=4),
        })
    by_itself = found.pop("alone")
    for flood, runs in found.items():
        name = f"a quiet pair beside {flood}"
        # Who shares the machine only adds, so the least of either is the broker's own.
        least = [min(one["p99_us"] for one in found) for found in (runs, by_itself)]
        table.add(f"{name}: least p99 / least alone", [least[0] / least[1]], "", 3)
        table.ratio(f"{name}: p99 / alone", runs, by_itself, key="p99_us")
        table.cost(f"{name}: residency p99", runs, None, "p99_us")
        table.cost(f"{name}: residency p50", runs, None, "p50_us")
        table.cost(f"{name}: the flood, deliveries a second", runs, None, "rate", "/s")
    table.cost("a quiet pair alone: residency p99", by_itself, None, "p99_us")
    table.cost("a quiet pair alone: residency p50", by_itself, None, "p50_us")


def stuck_among_many(running, stuck, seconds):
    """One to a hundred, with subscribers that never read beside them; all others get everything."""
    found = broker.pair(
        running, LOAD_CPU, shape="fan-out", pairs=100, payload=1000, window=20, seconds=seconds,
        stuck=stuck,
    )
    if found["messages"] != 100 * found["sent"]:
        raise SystemExit(f"messages are missing: {found}")
    found["memory_mb"] = found["broker_private_after"] / 1e6
    return found


def row_9(table, rounds):
    """A subscriber that never reads among a hundred that do."""
    with broker.petrel(1, cpu=BROKER_CPU) as running:
        found = take_turns("a subscriber that never reads", rounds, {
            "without": lambda: stuck_among_many(running, 0, 0.8),
            "with": lambda: stuck_among_many(running, 1, 0.8),
            "long": lambda: stuck_among_many(running, 1, 3),
        })
    grown = [
        {"mb": one["memory_mb"] - two["memory_mb"]}
        for one, two in zip(found["long"], found["without"])
    ]
    name = "a subscriber that never reads"
    # What may wait for one socket (`outgoing_bytes_maximum`), and as much again.
    table.cost(f"{name}: memory after 3 s of flood, more", grown, 4, "mb", "MB")
    table.cost(f"{name}: memory, none of them", found["without"], None, "memory_mb", "MB")
    table.cost(f"{name}: memory after 0.8 s", found["with"], None, "memory_mb", "MB")
    table.cost(f"{name}: memory after 3 s", found["long"], None, "memory_mb", "MB")
    table.ratio(f"{name}: each delivery to the others / without", found["with"], found["without"])
    table.cost(f"{name}: each delivery to the others", found["with"])


def flooded(shards, receivers, qos, window):
    """One to many, as much as the publisher can send; who gets it lives in all shards.

    Nothing may be missing, or the run has failed. More than the window does not wait for anybody, and at
    QoS 1 it is what may wait for a session.
    """
    with broker.petrel(shards, cpu=BROKER_CPU) as running:
        found = broker.pair(
            running, LOAD_CPU, shape="fan-out", pairs=receivers, qos=qos, window=window, seconds=1
        )
        if found["messages"] != receivers * found["sent"]:
            raise SystemExit(f"messages are missing: {found}")
        status = pathlib.Path(f"/proc/{running[0].pid}/status").read_text()
    found["most_mb"] = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6
    return found


def row_10(table, rounds):
    """Floods from another shard: nothing is lost, what waits is bounded, and others do not wait behind it."""
    flood = {"shape": "fan-out", "pairs": 1900, "qos": 1, "window": 1_000}
    for shards in (1, 2, 8):
        with broker.petrel(shards, cpu=BROKER_CPU) as running:
            found = take_turns(f"a quiet pair, {shards} shards", rounds, {
                "alone": lambda: quiet(running), "beside": lambda: beside(running, **flood),
            })
        name = f"a quiet pair beside a flood to 1,900, {shards} shards, QoS 1"
        table.cost(f"{name}: residency p99", found["beside"], None, "p99_us")
        table.cost(f"{name}: residency p50", found["beside"], None, "p50_us")
        table.cost(f"{name}: the flood, deliveries a second", found["beside"], None, "rate", "/s")
        table.cost(f"a quiet pair alone, {shards} shards: residency p99", found["alone"], None, "p99_us")
    for qos, window in ((0, 20_000), (1, 1_000)):
        for receivers in (300, 1_500):
            name = f"a flood to {receivers} in 4 shards, QoS {qos}"
            found = take_turns(name, rounds, {
                shards: lambda shards=shards: flooded(shards, receivers, qos, window)
                for shards in (1, 4)
            })
            table.cost(f"{name}: memory at most", found[4], 128, "most_mb", "MB")
            table.cost(f"{name}: memory with 1 shard", found[1], None, "most_mb", "MB")
            table.ratio(f"{name}: each delivery / with 1 shard", found[4], found[1])
