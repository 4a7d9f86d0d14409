"""The large cases: many connections held, and all of them cut at once.

    make bench-density N=200000 TLS=1
    make bench-storm N=50000 TLS=1          (ARGS="--pairs 50 -I 20 --nice 10 --json storm.json")

On one machine the load takes the cores that the broker wants. What the broker alone does to those who
stayed is seen with a core for each:

    make bench-storm N=15000 TLS=1 ARGS="--shards 1 --broker-cpu 0 --load-cpu 1"

The broker gets as many shards as its connections need file tables, at least one per core. Whatever
follows the options known here goes to petrel-bench.
"""

import argparse
import os
import subprocess
import sys

import broker

# Of a file table of 20,000, with room for what a shard needs itself and for uneven spreading.
PER_TABLE = 0.8


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["connect", "storm"])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--tls", default="", help="anything but 0 or nothing: TLS 1.3")
    parser.add_argument("--record-layer", default="compact")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--broker-cpu", help="cores of the broker, as taskset has them")
    parser.add_argument("--load-cpu", help="cores of the load")
    options, rest = parser.parse_known_args()
    files = os.sysconf("SC_OPEN_MAX")
    need = -(-options.count // int(files * PER_TABLE))
    shards = options.shards or max(need, os.cpu_count() or 1)
    layer = options.record_layer if options.tls not in ("", "0") else None
    with broker.petrel(
        shards, options.runtime, cpu=options.broker_cpu, record_layer=layer
    ) as (process, address):
        host, port = address.rsplit(":", 1)
        command = [str(broker.BENCH), options.scenario, "-h", host, "-p", port]
        command += ["-c", str(options.count), "--broker-pid", str(process.pid)]
        command += ["-S"] if layer else []
        print(f"{shards} shards, {layer and f'TLS 1.3, record layer {layer}' or 'plain'}")
        command = broker.pinned(command + rest, options.load_cpu)
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
