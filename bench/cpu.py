"""CPU time per forwarded message, Petrel beside Mosquitto, in turn within one run.

    make bench-cpu             (ARGS="--rounds 5 --seconds 3")

Ten publishers to ten subscribers, 64 bytes, at most `--window` messages on their way per pair. The
broker has core 0, the load core 1. A figure is the broker's CPU time divided by the messages
delivered; quote medians, and the ratio of neighbouring runs.
"""

import argparse
import statistics

import broker

BROKER_CPU, LOAD_CPU = 0, 1


def measure(running, qos, options):
    figures = broker.pair(
        running, LOAD_CPU, qos=qos, seconds=options.seconds, window=options.window
    )
    return figures["cpu_us"], figures["rate"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--runtime", default="auto")
    options = parser.parse_args()
    worse = False
    with broker.petrel(1, options.runtime, BROKER_CPU) as ours, broker.mosquitto(BROKER_CPU) as theirs:
        if theirs is None:
            print("mosquitto is not installed: Petrel alone is measured")
        for qos in (0, 1):
            for options.window in options.windows:
                ratios, rows = [], []
                for _ in range(options.rounds):
                    row = [measure(ours, qos, options)]
                    if theirs is not None:
                        row.append(measure(theirs, qos, options))
                        ratios.append(row[0][0] / row[1][0])
                    rows.append(row)
                names = ["petrel", "mosquitto"][: len(rows[0])]
                for at, name in enumerate(names):
                    cost = statistics.median(row[at][0] for row in rows)
                    rate = statistics.median(row[at][1] for row in rows)
                    print(
                        f"QoS {qos} window {options.window:3} {name:9}: "
                        f"{cost:6.2f} us CPU per message, {rate:9.0f} messages/s"
                    )
                if ratios:
                    ratio = statistics.median(ratios)
                    worse |= ratio > 1
                    print(
                        f"QoS {qos} window {options.window:3} ratio    : {ratio:.2f} "
                        f"({min(ratios):.2f}-{max(ratios):.2f})"
                    )
    raise SystemExit(1 if worse else 0)


if __name__ == "__main__":
    main()
