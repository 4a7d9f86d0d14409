"""The hot path: CPU of a message beside floor programs and beside Mosquitto, each figure with its aim.

    make bench-hot             (ARGS="--rows 1 3 --rounds 9")

Broker or floor on core 0, load on core 1, the contenders in turn within each round; a ratio is the
median of neighbouring runs, with the extremes. Rows:

 1  one to one, QoS 0, 100 bytes, one on its way in each of ten pairs: Petrel beside a relay
    (`petrel-bench floor-relay`), plain and over TLS with either record layer; and in a single pair,
    where the broker goes to sleep after each message
 2  the same at QoS 1, without TLS: four packets, two receives and two sends
 3  one to 1,000, QoS 0, 100 bytes: per delivery, one message at a time beside a relay that sends to
    each; and with many at a time, absolutely
 4  full load, 64 bytes, beside Mosquitto: ten pairs, 100 to one, one to 100; 100 on their way for
    each publisher, QoS 0 and 1
 5  20,000 messages a second over ten pairs, sent when they are due by a load that never sleeps

 6  1, 2, 8 and 32 shards, 32 pairs: full load, and 20,000 messages a second. The aim is for a broker
    on one core, since the load needs the other; on both it is told as well
 7  how long messages are in the broker at half of the greatest rate that it serves
 8  the same for a quiet pair beside floods on its shard
 9  a subscriber that never reads among a hundred that do, 1 kB: memory, and what the others cost
10  a flood to subscribers in other shards: nothing is lost, memory

The table goes to bench/results/hot.json as well.
"""

import argparse
import contextlib
import pathlib
import time

import broker
import neighbours
from table import Table, take_turns

BROKER_CPU, LOAD_CPU = 0, 1
# All that publishers have on their way may wait for one subscriber, as Mosquitto is set to let it.
QUEUE = "[limits]\nsession_queue_messages = 1000000\nsession_queue_bytes = 1000000000\n"
PAIRS, FAN_OUT, MANY = 10, 1000, 100
SHARDS = (1, 2, 8, 32)
# Messages of the fan-out that are on their way at once, where they are many.
BATCH = 64


def one_by_one(running, pairs=PAIRS, **options):
    """Pairs with one message on its way each."""
    return broker.pair(
        running, LOAD_CPU, pairs=pairs, payload=100, window=1, seconds=0.4, **options
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


def row_1(table, rounds):
    one_to_one(table, rounds, 0, 1.25)
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
    one_to_one(table, rounds, 1, 1.4)


def one_to_one(table, rounds, qos, aim):
    with broker.petrel(1, cpu=BROKER_CPU) as ours, broker.floor_relay(BROKER_CPU) as floor:
        for name, pairs in ((f"1 to 1, QoS {qos}", PAIRS), (f"1 to 1 alone, QoS {qos}", 1)):
            found = take_turns(name, rounds, {
                "petrel": lambda: one_by_one(ours, pairs, qos=qos),
                "floor": lambda: one_by_one(floor, pairs, qos=qos),
            })
            beside(table, name, found["petrel"], found["floor"], aim)


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
    with brokers() as (ours, theirs):
        for (shape, qos), aim in aims.items():
            def run(running):
                return broker.pair(
                    running, LOAD_CPU, shape=shape, pairs=PAIRS if shape == "pair" else MANY,
                    payload=64, window=100, seconds=0.8, qos=qos,
                )
            name = f"full load, {names[shape]}, QoS {qos}"
            mosquitto(table, name, rounds, ours, theirs, run, aim)


def row_5(table, rounds):
    with brokers() as (ours, theirs), broker.floor_relay(BROKER_CPU) as floor:
        for qos, aim in ((0, 1.3), (1, 1.5)):
            def run(running):
                return broker.pair(
                    running, LOAD_CPU, pairs=PAIRS, payload=64, rate=20_000, seconds=0.8, qos=qos
                )
            name = f"20,000/s, QoS {qos}"
            mosquitto(table, name, rounds, ours, theirs, run, aim, True)
            # What nobody can be cheaper than: most of it is to fall asleep and to wake up.
            relayed = take_turns(name, rounds, {"relay": lambda: run(floor)})["relay"]
            table.cost(f"{name}: relay", relayed)


@contextlib.contextmanager
def brokers():
    """Petrel with one shard, and Mosquitto."""
    with broker.petrel(1, cpu=BROKER_CPU, more=QUEUE) as ours, broker.mosquitto(BROKER_CPU) as theirs:
        yield ours, theirs


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
        for side in ("read", "write"):
            words = f"{name}: {who}, messages for each {side}"
            table.cost(words, found[key], None, f"per_{side}", "")
        for key_of_time in ("p50_us", "p99_us") if times else ():
            words = f"{name}: {who}, time to arrive, {key_of_time[:3]}"
            table.cost(words, found[key], None, key_of_time)


def row_6(table, rounds):
    """Each broker runs only while it is measured: shards that are idle wake up too."""
    loads = {
        "full load, QoS 0": {"window": 100}, "full load, QoS 1": {"window": 100, "qos": 1},
        "20,000/s, QoS 0": {"rate": 20_000},
    }
    for where, cpu, aim in (("core 0", BROKER_CPU, 1.1), ("both cores", None, None)):
        def run(shards):
            with broker.petrel(shards, cpu=cpu) as running:
                return {
                    name: broker.pair(
                        running, LOAD_CPU, pairs=32, payload=64, seconds=0.5, **options
                    )
                    for name, options in loads.items()
                }
        found = take_turns(f"shards on {where}", rounds, {
            shards: lambda shards=shards: run(shards) for shards in SHARDS
        })
        for name in loads:
            costs = {shards: [one[name] for one in found[shards]] for shards in SHARDS}
            for shards in SHARDS:
                table.cost(f"{shards} shards on {where}, {name}", costs[shards])
                if "full" in name:
                    sleeps = [100 * one["sleeps_each"] for one in costs[shards]]
                    words = f"{shards} shards on {where}, {name}: wakes for 100 messages"
                    table.add(words, sleeps, "", 1 if aim else None)
                if shards > 1:
                    words = f"{shards} shards on {where}, {name}: beside 1"
                    table.ratio(words, costs[shards], costs[1], aim)


ROWS = {
    1: row_1, 2: row_2, 3: row_3, 4: row_4, 5: row_5, 6: row_6,
    7: neighbours.row_7, 8: neighbours.row_8, 9: neighbours.row_9,
    10: neighbours.row_10,
}


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
    table.write("hot")
    print(f"measured in {time.monotonic() - begin:.0f} s")
    raise SystemExit(1 if table.missed() else 0)


if __name__ == "__main__":
    main()
