"""The hot path: CPU of a message beside floor programs and beside Mosquitto, each figure with its aim.

    make bench-hot             (ARGS="--rows 1 3 --rounds 9")

Broker or floor on core 0, load on core 1, the contenders in turn within each round; a ratio is the
median of neighbouring runs, with the extremes. Rows:

 1  one to one, QoS 0, 100 bytes, one on its way in each of ten pairs: Petrel beside a relay
    (`petrel-bench floor-relay`), plain and over TLS with either record layer
 2  the same at QoS 1, without TLS: four packets, two receives and two sends
 3  one to 1,000, QoS 0, 100 bytes: per delivery, one message at a time beside a relay that sends to
    each; and with many at a time, absolutely
 4  full load, 64 bytes, beside Mosquitto: ten pairs, 100 to one, one to 100; 100 on their way for
    each publisher, QoS 0 and 1
 5  20,000 messages a second over ten pairs, sent when they are due by a load that never sleeps

The table goes to bench/results/hot.json as well.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time

import broker

BROKER_CPU, LOAD_CPU = 0, 1
RESULTS = broker.ROOT / "bench/results"
PAIRS, FAN_OUT, MANY = 10, 1000, 100
# Messages of the fan-out that are on their way at once, where they are many.
BATCH = 64


def one_by_one(running, **options):
    """Ten pairs with one message on its way each."""
    return broker.pair(
        running, LOAD_CPU, pairs=PAIRS, payload=100, window=1, seconds=0.4, **options
    )


def fan_out(running, window):
    """One publisher to 1,000; with `per_segment`, messages for each TCP segment that was sent."""
    before = segments()
    found = broker.pair(
        running, LOAD_CPU, shape="fan-out", pairs=FAN_OUT, payload=100, window=window, seconds=0.6
    )
    sent = segments() - before - found["writes"]
    found["per_segment"] = found["messages"] / max(sent, 1)
    return found


def segments():
    """TCP segments with data that this machine has sent for the first time."""
    names, values = [
        line.split() for line in pathlib.Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    ]
    return int(values[names.index("TCPOrigDataSent")])


def take_turns(label, rounds, contenders):
    """Figures of each contender by name, one of each in every round."""
    found = {name: [] for name in contenders}
    for turn in range(rounds):
        progress(f"{label}, round {turn + 1} of {rounds}")
        for name, run in contenders.items():
            found[name].append(run())
    progress("")
    return found


class Table:
    """What was found: lines for people, and the same for machines."""

    def __init__(self):
        self.figures = []

    def ratio(self, name, above, below, aim, at_least=False):
        """Neighbouring runs of two contenders."""
        ratios = [one["cpu_us"] / two["cpu_us"] for one, two in zip(above, below)]
        self.add(name, ratios, "", aim, at_least)

    def cost(self, name, found, aim=None, key="cpu_us", unit="us"):
        """A figure of one contender."""
        self.add(name, [one[key] for one in found], unit, aim)

    def add(self, name, values, unit, aim=None, at_least=False):
        value = statistics.median(values)
        met = None if aim is None else (value >= aim if at_least else value <= aim)
        self.figures.append({
            "name": name, "value": value, "least": min(values), "most": max(values), "unit": unit,
            "rounds": len(values), "aim": aim, "at_least": at_least, "met": met,
        })
        word = {None: "", True: "met", False: "MISSED"}[met]
        limit = "" if aim is None else f"{'>=' if at_least else '<='} {aim:g}"
        spread = f"({min(values):.3g}-{max(values):.3g})"
        print(f"{name:60} {value:8.3f} {unit:3} {spread:16} {limit:9} {word}", flush=True)


def row_1(table, rounds):
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.floor_relay(BROKER_CPU) as floor:
        found = take_turns("1 to 1", rounds, {
            "petrel": lambda: one_by_one(ours), "floor": lambda: one_by_one(floor),
        })
    beside(table, "1 to 1, QoS 0", found["petrel"], found["floor"], 1.25)
    with contextlib.ExitStack() as stack:
        layers = {
            layer: stack.enter_context(broker.petrel(1, cpu=BROKER_CPU, record_layer=layer))
            for layer in ("compact", "rustls")
        }
        floor = stack.enter_context(broker.floor_relay(BROKER_CPU, tls=True))
        found = take_turns("1 to 1 over TLS", rounds, {
            "compact": lambda: one_by_one(layers["compact"], tls=True),
            "floor": lambda: one_by_one(floor, tls=True),
            "rustls": lambda: one_by_one(layers["rustls"], tls=True),
        })
    for layer in layers:
        beside(table, f"1 to 1, QoS 0, TLS {layer}", found[layer], found["floor"], 1.4)


def row_2(table, rounds):
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.floor_relay(BROKER_CPU) as floor:
        found = take_turns("1 to 1, QoS 1", rounds, {
            "petrel": lambda: one_by_one(ours, qos=1), "floor": lambda: one_by_one(floor, qos=1),
        })
    beside(table, "1 to 1, QoS 1", found["petrel"], found["floor"], 1.4)


def beside(table, name, ours, floor, aim):
    """Petrel beside a floor, and what each costs."""
    table.ratio(f"{name}: beside a relay", ours, floor, aim)
    table.cost(f"{name}: Petrel", ours)
    table.cost(f"{name}: relay", floor)
    table.cost(f"{name}: Petrel, sleeps for each", ours, key="sleeps_each", unit="")
    table.cost(f"{name}: relay, sleeps for each", floor, key="sleeps_each", unit="")


def row_3(table, rounds):
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.floor_relay(BROKER_CPU) as floor:
        alone = take_turns("1 to 1,000", rounds, {
            "petrel": lambda: fan_out(ours, 1), "floor": lambda: fan_out(floor, 1),
        })
        many = take_turns("1 to 1,000, many at a time", rounds, {
            "petrel": lambda: fan_out(ours, BATCH), "floor": lambda: fan_out(floor, BATCH),
        })
    table.ratio("1 to 1,000: beside a relay", alone["petrel"], alone["floor"], 1.15)
    table.cost("1 to 1,000: Petrel, each delivery", alone["petrel"])
    table.cost("1 to 1,000: relay, each delivery", alone["floor"])
    name = f"1 to 1,000, {BATCH} at a time"
    table.cost(f"{name}: Petrel, each delivery", many["petrel"], 0.5)
    table.cost(f"{name}: Petrel, messages for each segment", many["petrel"], None, "per_segment", "")
    table.cost(f"{name}: Petrel, messages for each read", many["petrel"], None, "per_read", "")
    table.cost(f"{name}: relay, each delivery", many["floor"])


def row_4(table, rounds):
    aims = {
        ("pair", 0): 12, ("fan-in", 0): 15, ("fan-out", 0): 14,
        ("pair", 1): 16, ("fan-in", 1): 11, ("fan-out", 1): 16,
    }
    names = {"pair": "10 to 10", "fan-in": "100 to 1", "fan-out": "1 to 100"}
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.mosquitto(BROKER_CPU) as theirs:
        for (shape, qos), aim in aims.items():
            def run(running):
                return broker.pair(
                    running, LOAD_CPU, shape=shape, pairs=PAIRS if shape == "pair" else MANY,
                    payload=64, window=100, seconds=0.8, qos=qos,
                )
            name = f"full load, {names[shape]}, QoS {qos}"
            mosquitto(table, name, rounds, ours, theirs, run, aim)


def row_5(table, rounds):
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.mosquitto(BROKER_CPU) as theirs:
        for qos, aim in ((0, 1.3), (1, 1.5)):
            def run(running):
                return broker.pair(
                    running, LOAD_CPU, pairs=PAIRS, payload=64, rate=20_000, seconds=0.8, qos=qos
                )
            mosquitto(table, f"20,000/s, QoS {qos}", rounds, ours, theirs, run, aim, True)


def mosquitto(table, name, rounds, ours, theirs, run, aim, times=False):
    """Mosquitto's cost divided by Petrel's."""
    if theirs is None:
        print(f"{name}: mosquitto is not installed")
        return
    found = take_turns(name, rounds, {"petrel": lambda: run(ours), "theirs": lambda: run(theirs)})
    table.ratio(f"{name}: Mosquitto / Petrel", found["theirs"], found["petrel"], aim, True)
    for who, key in (("Petrel", "petrel"), ("Mosquitto", "theirs")):
        table.cost(f"{name}: {who}", found[key])
        table.cost(f"{name}: {who}, messages a second", found[key], None, "rate", "/s")
        table.cost(f"{name}: {who}, messages for each read", found[key], None, "per_read", "")
        for key_of_time in ("p50_us", "p99_us") if times else ():
            words = f"{name}: {who}, time to arrive, {key_of_time[:3]}"
            table.cost(words, found[key], None, key_of_time)


ROWS = {1: row_1, 2: row_2, 3: row_3, 4: row_4, 5: row_5}


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    table, begin = Table(), time.monotonic()
    for row in options.rows:
        print(f"row {row}", flush=True)
        ROWS[row](table, options.rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hot.json").write_text(json.dumps({"figures": table.figures}, indent=1) + "\n")
    print(f"measured in {time.monotonic() - begin:.0f} s")
    raise SystemExit(1 if any(one["met"] is False for one in table.figures) else 0)


if __name__ == "__main__":
    main()
