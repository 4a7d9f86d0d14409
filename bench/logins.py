"""A storm of logins by password: each client is a user of its own, and each hash costs what argon2id costs.

    make bench-logins                  (ARGS="--count 20000")

Broker on core 0 with its threads that check, load on core 1. A quiet pair is measured before and while they
come in. Then they come once more, when it is known who they are: what a CONNECT costs then, beside one of
clients that say nothing of themselves.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile
import time

import broker
from neighbours import BROKER_CPU, LOAD_CPU, quiet

PASSWORD = "secret"
CLIENTS_PER_TABLE = 15_000


def write_users(folder, count):
    """One hash for all: each is checked all the same, since what is known is known of one user."""
    file = pathlib.Path(folder) / "users"
    command = [str(broker.PETREL.with_name("petrelctl")), "passwd", str(file), "user"]
    subprocess.run(command, input=PASSWORD, text=True, check=True)
    hashed = file.read_text().split(":", 1)[1].strip()
    file.write_text("".join(f"user-{number}:{hashed}\n" for number in range(count)))
    return file


def tables(count):
    """How many tables of descriptors so many clients need on either side, each of a shard or a thread."""
    return 1 + count // CLIENTS_PER_TABLE


def connect(running, count, *words):
    """A run of `connect`: its process and the file of its results."""
    process, address = running
    host, port = address.rsplit(":", 1)
    results = tempfile.NamedTemporaryFile()
    command = [str(broker.BENCH), "connect", "-h", host, "-p", port, "-c", str(count), "--time", "0"]
    command += ["--threads", str(tables(count)), "--pin", "no", "--quiet", "--patience", "3600", *words]
    command += ["--broker-pid", str(process.pid), "--json", results.name]
    command = broker.pinned(["nice", "-n", "10", *command], LOAD_CPU)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL), results


def finished(run):
    child, results = run
    if child.wait(timeout=7200):
        raise SystemExit("not all came in")
    return json.loads(pathlib.Path(results.name).read_text())["results"]


def cpu_s(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def most_mb(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        users = write_users(folder, count)
        more = (
            'authentication = ["users"]\nallow_anonymous = true\n[[authenticator]]\nname = "users"\n'
            f'kind = "passwords"\nfile = "{users}"\n[access]\nknown_s = 86400\n'
        )
        with broker.petrel(tables(count), cpu=BROKER_CPU, more=more) as running:
            process = running[0]
            alone = quiet(running)
            begin = time.monotonic()
            logins = connect(running, count, "-u", "user-%i", "-P", PASSWORD)
            beside = []
            while logins[0].poll() is None:
                beside.append(quiet(running))
            finished(logins)
            took = time.monotonic() - begin
            print(f"{count} logins in {took:.0f} s, {count / took:.0f} a second, memory at most {most_mb(process):.0f} MB")
            worst = max(one["p99_us"] for one in beside)
            print(f"a quiet pair: p50 {alone['p50_us']:.0f} us, p99 {alone['p99_us']:.0f} us alone")
            middle = sorted(one["p99_us"] for one in beside)[len(beside) // 2]
            print(f"beside the logins: p99 {middle:.0f} us, at worst {worst:.0f} us in {len(beside)} runs of 4 s: "
                  f"{middle / alone['p99_us']:.2f} times")
            costs = {}
            for name, words in (("known", ("-u", "user-%i", "-P", PASSWORD)), ("anonymous", ())):
                each = []
                for _ in range(5):
                    before = cpu_s(process)
                    finished(connect(running, count, *words))
                    each.append((cpu_s(process) - before) / count * 1e6)
                costs[name] = sorted(each)[2]
            print(f"CPU of a client that comes and goes: {costs['known']:.0f} us if it is known, "
                  f"{costs['anonymous']:.0f} us if it says nothing")


if __name__ == "__main__":
    main()
