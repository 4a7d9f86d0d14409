"""The standard set: ratios to floor programs, which gate, and what else is worth a look.

    make bench                   (ARGS="--rounds 5 --write")

A ratio is the broker's CPU time divided by that of a program that does the same with sockets and
nothing else, one right after the other: what a busy machine does to one it does to the other. The
median over the rounds is the figure. Broker and floor are on core 0, the load is on core 1. What
petrel-bench finds thereafter is reported and never gated. `petrel-micro compare` holds the figures
against bench/baselines/standard.json; the exit code is its own.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time

import broker
import tls

MICRO = broker.ROOT / "target/release/petrel-micro"
RESULTS = broker.ROOT / "bench/results"
BROKER_CPU, LOAD_CPU = 0, 1
# Percent; twice what a busy machine has moved the medians, see docs/PERFORMANCE.md.
RELAY_TOLERANCE = 25
TLS_TOLERANCE = 25
TLS_CASES = ("petrel rustls", "petrel compact", "bare rustls")


def relayed(figures, rounds):
    """Messages of 100 bytes beside a relay: ten pairs with one and with many on their way, and 1 to 1,000."""
    cases = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(broker.petrel(1, cpu=BROKER_CPU))
        floor = stack.enter_context(broker.floor_relay(BROKER_CPU))
        for qos in (0, 1):
            for window in (1, 100):
                options = {"qos": qos, "window": window, "pairs": 10}
                cases[f"1 to 1, qos{qos}, window {window}"] = (ours, floor, options)
        secured = stack.enter_context(broker.floor_relay(BROKER_CPU, tls=True))
        for layer in ("rustls", "compact"):
            theirs = stack.enter_context(
                broker.petrel(1, cpu=BROKER_CPU, record_layer=layer)
            )
            options = {"window": 1, "pairs": 10, "tls": True}
            cases[f"1 to 1, qos0, window 1, TLS {layer}"] = (theirs, secured, options)
        options = {"window": 1, "pairs": 1000, "shape": "fan-out"}
        cases["1 to 1000, qos0, window 1"] = (ours, floor, options)
        found = {name: [] for name in cases}
        for turn in range(rounds):
            progress(f"beside a relay, round {turn + 1} of {rounds}")
            for name, (*both, options) in cases.items():
                found[name].append([
                    broker.pair(one, LOAD_CPU, payload=100, seconds=0.4, **options) for one in both
                ])
    for name, runs in found.items():
        ratios = [mine["cpu_us"] / least["cpu_us"] for mine, least in runs]
        # How many messages come together depends on who else is on the machine.
        tolerance = None if "window 100" in name else RELAY_TOLERANCE
        ratio(figures, f"{name}: CPU beside a relay", ratios, tolerance)
        report(figures, f"{name}: CPU", [mine["cpu_us"] for mine, _ in runs], "us per message")
        report(figures, f"{name}: wakes", [mine["sleeps_each"] for mine, _ in runs], "per message")


def handshakes(figures, rounds, count):
    """TCP, TLS, CONNECT and SUBSCRIBE beside the bare handshake."""
    cases = {name: run for name, run in tls.connect(count) if name in TLS_CASES}
    found = {name: [] for name in cases}
    for turn in range(rounds):
        progress(f"beside bare handshakes, round {turn + 1} of {rounds}")
        for name, run in cases.items():
            found[name].append(run()["us"])
    for name in TLS_CASES[:2]:
        ratios = [mine / least for mine, least in zip(found[name], found["bare rustls"])]
        ratio(figures, f"TLS connect, {name}: CPU beside bare rustls", ratios, TLS_TOLERANCE)
        report(figures, f"TLS connect, {name}: CPU", found[name], "us per connection")


# What is run for a look: name, scenario and options, and the keys of the results with their units.
LOOKS = [
    ("connect", ["connect", "-c", "5000", "--time", "1"],
     {"cpu_per_connect_us": "us", "user_bytes_each": "bytes", "delivery_us": "us"}),
    ("pairs", ["pairs", "-c", "100", "-I", "10", "-q", "1", "--time", "5"],
     {"delivery_us": "us", "cpu_per_message_us": "us"}),
    ("fan-out", ["fan-out", "-c", "1000", "-I", "100", "--time", "5"],
     {"delivery_us": "us", "cpu_per_message_us": "us"}),
    ("fan-in", ["fan-in", "-c", "1000", "-I", "100", "--time", "5"],
     {"delivery_us": "us", "cpu_per_message_us": "us"}),
    ("storm", ["storm", "-c", "5000", "--time", "1"],
     {"recovery_s": "s", "cpu_per_return_us": "us", "storm_us": "us"}),
]


def looks(figures):
    """Scenarios of petrel-bench against one shard."""
    with broker.petrel(1, cpu=BROKER_CPU) as (process, address):
        host, port = address.rsplit(":", 1)
        for name, words, keys in LOOKS:
            progress(f"petrel-bench {name}")
            with tempfile.NamedTemporaryFile() as file:
                command = [str(broker.BENCH), *words, "-h", host, "-p", port, "--quiet"]
                command += ["--broker-pid", str(process.pid), "--json", file.name]
                run = subprocess.run(
                    broker.pinned(command, LOAD_CPU), stdout=subprocess.DEVNULL, timeout=120
                )
                if run.returncode:
                    raise SystemExit(f"petrel-bench {name} failed: {run.returncode}")
                results = json.load(file)["results"]
            for key, unit in keys.items():
                for shown, value in values(key, results):
                    report(figures, f"{name}: {shown}", [value], unit)


def values(wanted, results):
    """Results whose key begins so: numbers, and of distributions two quantiles."""
    for key, value in results.items():
        if key.startswith(wanted) and isinstance(value, dict):
            yield f"{key}, p50", value["p50_us"]
            yield f"{key}, p99", value["p99_us"]
        elif key.startswith(wanted):
            yield key, value


def ratio(figures, name, ratios, tolerance):
    figures[name] = {
        "value": round(statistics.median(ratios), 3), "unit": "ratio", "tolerance_percent": tolerance
    }
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    print(f"{name}: {statistics.median(ratios):.3f} ({spread}, {len(ratios)} rounds)", flush=True)


def report(figures, name, found, unit):
    value = round(statistics.median(found), 3)
    figures[name] = {"value": value, "unit": unit, "tolerance_percent": None}


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tls-rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=4000, help="TLS connections of a round")
    parser.add_argument("--write", action="store_true", help="write the baseline anew")
    options = parser.parse_args()
    figures, begin = {}, time.monotonic()
    relayed(figures, options.rounds)
    handshakes(figures, options.tls_rounds, options.count)
    looks(figures)
    progress("")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "standard.json").write_text(json.dumps({"figures": figures}, indent=1))
    print(f"measured in {time.monotonic() - begin:.0f} s\n", flush=True)
    command = [str(MICRO), "compare", "standard"] + (["--write"] if options.write else [])
    sys.exit(subprocess.run(command, cwd=broker.ROOT).returncode)


if __name__ == "__main__":
    main()
