"""Memory per connection and session by state, as a slope.

    make bench-memory            (ARGS="--shards 8 --counts 5000,10000,15000 --only rustls")

A broker of its own for each number of clients; private memory of its process with them, less what it
takes without any. The slope between the smallest and the largest number is the figure: what does not
grow with the clients falls out of it. Each state of a connection has a second row: the same after a
message each way and an idle second.

The kernel's part is what its caches of objects hold, per end of a connection; both ends are on this
machine, and what only the connecting end has (the caches of bound ports) is not counted. Reading it
takes root.

A handshake is in flight from the server's first answer on: the clients send a ClientHello and no more.
"""

import argparse
import json
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile

import broker

# Sessions that are made and left behind at a time.
BATCH = 500

STATES = [
    ("plain, connected, 1 subscription", "plain", None, 512),
    ('TLS 1.3, record_layer = "rustls"', "rustls", "rustls", 4096),
    ('TLS 1.3, record_layer = "compact"', "compact", "compact", 1024),
]
OFFLINE_MOST = 300
HANDSHAKE_MOST = 9000
KERNEL_MOST = 4000
# The kernel's objects of one end of a TCP connection and of its place in an epoll instance.
CACHES = (
    "TCP", "sock_inode_cache", "filp", "dentry", "lsm_inode_cache", "lsm_file_cache",
    "eventpoll_epi", "eventpoll_pwq", "ep_head",
)


def held(layer, count, shards, runtime):
    """What this many connections take, by row."""
    with (
        broker.petrel(shards, runtime, record_layer=layer) as (process, address),
        tempfile.NamedTemporaryFile() as file,
    ):
        host, port = address.rsplit(":", 1)
        command = [str(broker.BENCH), "connect", "-h", host, "-p", port, "-c", str(count)]
        command += ["--quiet", "--time", "12", "--broker-pid", str(process.pid)]
        # When all come at once the passing needs of their handshakes leave holes: 10 to 30 bytes.
        command += ["--json", file.name, "-R", "4000"]
        command += ["-S"] if layer else []
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
        if run.returncode != 0:
            raise SystemExit(f"the load failed:\n{run.stdout}")
        results = json.load(file)["results"]
    return {
        "idle": results["user_bytes_each"] * count,
        "after": results["user_bytes_after_each"] * count,
    }


def kernel(count):
    """What the caches of the kernel hold for one end of this many connections; None if only root may
    know. The broker is not needed for it: an epoll instance that holds both ends is."""
    before = objects()
    if before is None:
        return None
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, select.epoll() as epoll:
        ends = []
        for number in range(count):
            source = (f"127.2.{number // 20000}.{1 + number % 200}", 0)
            ends.append(socket.create_connection(listener.getsockname(), source_address=source))
            ends.append(listener.accept()[0])
            for end in ends[-2:]:
                end.setblocking(False)
                epoll.register(end, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        after = objects()
        for end in ends:
            end.close()
    return sum(after[name] - before[name] for name in before) / 2


def objects():
    """Bytes of the live objects by cache."""
    try:
        with open("/proc/slabinfo", encoding="ascii") as file:
            rows = [line.split() for line in file if not line.startswith(("slabinfo", "#"))]
    except PermissionError:
        return None
    return {row[0]: int(row[1]) * int(row[3]) for row in rows if row[0] in CACHES}


def in_flight(count, shards, runtime):
    """Private memory while this many handshakes wait for the client."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    hello = client_hello()
    with broker.petrel(shards, runtime, record_layer="compact") as (process, address):
        host, port = address.rsplit(":", 1)
        before = broker.memory_bytes(process.pid)
        clients = []
        for number in range(count):
            client = socket.create_connection((host, int(port)))
            client.sendall(hello)
            clients.append(client)
        for client in clients:
            # The server's whole first flight, which ends when nothing more comes.
            client.settimeout(30)
            if not client.recv(65536):
                raise SystemExit("the broker closed a connection whose handshake is in flight")
        memory = broker.memory_bytes(process.pid) - before
        for client in clients:
            client.close()
    return memory


def client_hello():
    """The bytes of a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def left_behind(process, host, port, count):
    """Private memory once this many sessions have been left behind, some at a time: what connections
    have taken meanwhile is used again and does not count."""
    for batch in range(0, count, BATCH):
        command = [str(broker.BENCH), "connect", "-h", host, "-p", port, "-c", str(BATCH)]
        command += ["-r", "--quiet", "--time", "0.1", "--prefix", f"batch-{batch}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=120, check=True)
    return broker.memory_bytes(process.pid)


def offline(count, shards, runtime):
    """Private memory that this many sessions take whose clients are away."""
    with broker.petrel(shards, runtime) as (process, address):
        host, port = address.rsplit(":", 1)
        before = broker.memory_bytes(process.pid)
        return left_behind(process, host, port, count) - before


class Table:
    """Rows of bytes each, and whether all were within their bounds."""

    def __init__(self, counts):
        self.counts = counts
        self.good = True
        numbers = [f"{count:>9}" for count in counts]
        print(f"{'bytes each':38}", *numbers, f"{'slope':>9} {'at most':>8}", flush=True)

    def row(self, name, totals, most, counts=None):
        counts = counts or self.counts
        slope = (totals[-1] - totals[0]) / (counts[-1] - counts[0])
        each = [f"{total / count:9.0f}" for total, count in zip(totals, counts)]
        over = "  OVER" if slope > most else ""
        print(f"{name:38}", *each, f"{slope:9.0f} {most:8}{over}", flush=True)
        self.good &= slope <= most


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="5000,10000,15000")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--only", help="plain, rustls, compact, offline, handshake or kernel")
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(",")]
    where = (options.shards, options.runtime)
    wanted = lambda name: options.only in (None, name)
    table = Table(counts)
    for name, short, layer, most in STATES:
        if wanted(short):
            found = [held(layer, count, *where) for count in counts]
            table.row(name, [it["idle"] for it in found], most)
            table.row("  after a message each way", [it["after"] for it in found], most)
    if wanted("offline"):
        totals = [offline(count, *where) for count in counts]
        table.row("offline session, 1 subscription", totals, OFFLINE_MOST)
    if wanted("handshake"):
        # As many as the caps of the shards let in with room for uneven spreading.
        some = [options.shards * per_shard for per_shard in (200, 400, 600)]
        totals = [in_flight(count, *where) for count in some]
        table.row(f"handshake in flight ({'/'.join(map(str, some))})", totals, HANDSHAKE_MOST, some)
    if wanted("kernel"):
        some = [2000, 4000, 6000]
        totals = [kernel(count) for count in some]
        if None in totals:
            print("kernel: not measured, for only root may read /proc/slabinfo")
        else:
            table.row(f"kernel, one end ({'/'.join(map(str, some))})", totals, KERNEL_MOST, some)
    sys.exit(0 if table.good else 1)


if __name__ == "__main__":
    main()
