"""CPU per connection: above bare TLS handshakes, and beside Mosquitto's.

    make bench-tls               (ARGS="--rounds 5 --count 5000 --only connect")

The broker alone on core 0, the load on core 1, all contenders in turn within each round; medians, and
the median of the ratios of neighbouring runs. MQTT 3.1.1, ECDSA P-256, X25519.

connect   TCP, TLS 1.3, CONNECT and SUBSCRIBE, beside TCP and TLS alone; 90 under way at once
storm     persistent sessions cut at once that come back, over TLS in full and resumed and without TLS;
          90 under way at once
flood     the same without that bound: everybody at once
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

import broker

LOAD_CPU = 1
BROKER_CPU = 0
UNDER_WAY = 90


def floor(count, resume):
    """CPU of a bare handshake, in microseconds."""
    with broker.floor_tls(cpu=BROKER_CPU) as (process, address):
        command = [str(broker.BENCH), "handshakes", "--address", address]
        command += ["--connections", str(count), "--window", str(UNDER_WAY)]
        command += ["--resume"] if resume else []
        load = subprocess.Popen(
            broker.pinned(command, LOAD_CPU),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        expect(load.stdout.readline(), "warm")
        before = broker.cpu_seconds(process.pid)
        load.stdin.write("\n")
        load.stdin.flush()
        expect(load.stdout.readline(), f"done {count}")
        spent = broker.cpu_seconds(process.pid) - before
        load.stdin.close()
        load.wait(timeout=60)
        return {"us": spent * 1e6 / count}


def expect(line, what):
    if line.strip() != what:
        raise SystemExit(f"the load said {line!r} where {what!r} was due")


def contender(name, tls):
    """A broker by its name."""
    if name == "mosquitto":
        return broker.mosquitto(cpu=BROKER_CPU, tls=tls)
    layer = name.split()[1] if tls else None
    return broker.petrel(1, cpu=BROKER_CPU, record_layer=layer)


def loaded(name, scenario, count, tls, *more):
    """What petrel-bench says of a broker; None if that is not installed."""
    with contender(name, tls) as running, tempfile.NamedTemporaryFile() as result:
        if running is None:
            return None
        process, address = running
        host, port = address.rsplit(":", 1)
        command = [str(broker.BENCH), scenario, "-h", host, "-p", port, "-V", "4", "--quiet"]
        command += ["-c", str(count), "--broker-pid", str(process.pid), "--json", result.name]
        command += ["-S"] if tls else []
        command = broker.pinned(command + list(more), LOAD_CPU)
        run = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600)
        if run.returncode == 2:
            raise SystemExit(f"{name}: the load could not run")
        return json.load(result)["results"]


def connect(count):
    """The cases of a new connection."""
    bound = ["--under-way", str(UNDER_WAY), "--time", "0.1"]
    for name in ("petrel rustls", "petrel compact", "mosquitto"):
        yield name, lambda name=name: figures(
            loaded(name, "connect", count, True, *bound), "cpu_per_connect_us"
        )
    yield "bare rustls", lambda: floor(count, False)
    yield "bare rustls, resumed", lambda: floor(count, True)


def storms(count, *bound):
    """The cases of sessions that come back."""
    for kind, tls, more in (
        ("TLS in full", True, []),
        ("TLS resumed", True, ["--resume"]),
        ("plain", False, []),
    ):
        brokers = ("petrel rustls", "petrel compact", "mosquitto") if tls else ("petrel", "mosquitto")
        for name in brokers:
            yield f"{kind}: {name}", lambda name=name, tls=tls, more=more: figures(
                loaded(name, "storm", count if tls else count * 3 // 2, tls, "--pairs", "1",
                       "--time", "0.5", *bound, *more),
                "cpu_per_return_us",
            )


def figures(results, key):
    if results is None:
        return None
    return {
        "us": results[key],
        "s": results.get("recovery_s", float("nan")),
        "gave up": results.get("storm_gave_up", 0) + results.get("gave_up", 0),
    }


def table(title, cases, rounds, beside):
    """Runs the cases in turn, several times over; prints a row for each. Returns the medians."""
    cases = list(cases)
    found = {name: [] for name, _ in cases}
    for turn in range(rounds):
        for name, run in cases:
            print(f"\r{title}: round {turn + 1}, {name}{' ' * 30}", end="", file=sys.stderr)
            measured = run()
            if measured is not None:
                found[name].append(measured)
    print(file=sys.stderr)
    print(f"\n{title}: CPU µs each, median (least-most), {rounds} rounds")
    for name, runs in found.items():
        if not runs:
            print(f"  {name:30} not installed")
            continue
        each = [run["us"] for run in runs]
        row = f"  {name:30} {statistics.median(each):7.1f} ({min(each):.1f}-{max(each):.1f})"
        other = beside(name)
        if found.get(other):
            ratios = [run["us"] / it["us"] for run, it in zip(runs, found[other])]
            row += f"  {statistics.median(ratios):.2f} × {other} ({min(ratios):.2f}-{max(ratios):.2f})"
        if "s" in runs[0] and runs[0]["s"] == runs[0]["s"]:
            row += f"  back in {statistics.median(run['s'] for run in runs):.2f} s"
            row += f", {sum(run['gave up'] for run in runs):.0f} attempts given up"
        print(row, flush=True)


def against_mosquitto(name):
    return name.rsplit(":", 1)[0] + ": mosquitto" if ": petrel" in name else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--only", choices=["connect", "storm", "flood"])
    options = parser.parse_args()
    if options.only in (None, "connect"):
        table("connect", connect(options.count), options.rounds,
              lambda name: None if name == "bare rustls" else "bare rustls")
    if options.only in (None, "storm"):
        table("storm", storms(2 * options.count, "--under-way", str(UNDER_WAY)),
              options.rounds, against_mosquitto)
    if options.only in (None, "flood"):
        table("flood", storms(2 * options.count), 1, against_mosquitto)


if __name__ == "__main__":
    main()
