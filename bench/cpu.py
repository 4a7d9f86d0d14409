"""CPU time per forwarded message, Petrel beside Mosquitto, in turn within one run.

    make bench-cpu             (ARGS="--rounds 5 --seconds 3")

Ten publishers to ten subscribers, 64 bytes, at most `--window` messages on their way per pair. The
broker has core 0, the load core 1. A figure is the broker's CPU time divided by the messages
delivered; quote medians, and the ratio of neighbouring runs.
"""

import argparse
import statistics
import subprocess

import broker


def measure(run, address, qos, options):
    process = run
    command = [str(broker.BENCH), "pair", "--address", address, "--qos", str(qos)]
    command += ["--seconds", str(options.seconds), "--window", str(options.window)]
    before = broker.cpu_seconds(process.pid)
    line = subprocess.run(
        broker.pinned(command, 1), check=True, capture_output=True, text=True
    ).stdout.split()
    used = broker.cpu_seconds(process.pid) - before
    figures = dict(zip(line[::2], line[1::2]))
    if figures["out_of_order"] != "0":
        raise SystemExit(f"out of order: {figures}")
    return used / int(figures["messages"]) * 1e6, float(figures["rate"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--runtime", default="auto")
    options = parser.parse_args()
    worse = False
    with broker.petrel(1, options.runtime, cpu=0) as ours, broker.mosquitto(cpu=0) as theirs:
        if theirs is None:
            print("mosquitto is not installed: Petrel alone is measured")
        for qos in (0, 1):
            for options.window in options.windows:
                ratios, rows = [], []
                for _ in range(options.rounds):
                    row = [measure(*ours, qos, options)]
                    if theirs is not None:
                        row.append(measure(*theirs, qos, options))
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
