"""User memory of an idle connection with one subscription.

    make bench-idle            (ARGS="--connections 15000 --shards 2 --runtime glommio")

Private memory of the broker's process, before the connections and with them, divided by their
number. Kernel memory is not in it.
"""

import argparse
import subprocess

import broker


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=15_000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--bytes-max", type=int, default=1024)
    options = parser.parse_args()
    with broker.petrel(options.shards, options.runtime) as (process, address):
        before = broker.memory_bytes(process.pid)
        command = [str(broker.BENCH), "idle", "--address", address]
        command += ["--connections", str(options.connections)]
        load = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        line = load.stdout.readline().strip()
        if line != f"holding {options.connections}":
            load.wait(timeout=60)
            raise SystemExit(f"the load failed: {line}")
        after = broker.memory_bytes(process.pid)
        load.stdin.close()
        load.wait(timeout=120)
    each = (after - before) / options.connections
    print(
        f"{options.connections} idle connections, {options.shards} shards: "
        f"{(after - before) / 1e6:.1f} MB private memory, {each:.0f} B each "
        f"(at most {options.bytes_max})"
    )
    raise SystemExit(0 if each <= options.bytes_max else 1)


if __name__ == "__main__":
    main()
