"""What is no MQTT, again and again: seeded, on 200 connections at a time, beside clients that behave.

    make bench-malformed                  (ARGS="--packets 100000 --seed 1")

Broker on core 0, load on core 1. Half of the connections send a good CONNECT first. What is sent are packets of every
type with bytes changed, cut, doubled and made up. The broker ends each connection; the next begins then. A quiet
pair is measured before and meanwhile, and what the broker holds before and when all have gone.
"""

import argparse
import os
import pathlib
import random
import selectors
import socket
import time

import broker
from neighbours import BROKER_CPU, LOAD_CPU, quiet

V5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc"
V4 = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc"
PACKETS = [
    V5,
    V4,
    b"\x20\x03\x00\x00\x00",
    b"\x30\x09\x00\x03a/b\x00xyz",
    b"\x32\x0b\x00\x03a/b\x00\x01\x00xyz",
    b"\x34\x0b\x00\x03a/b\x00\x02\x00xyz",
    b"\x30\x12\x00\x03a/b\x09\x03\x00\x01t\x23\x00\x01\x01\x00xyz",
    b"\x40\x02\x00\x01",
    b"\x50\x02\x00\x01",
    b"\x62\x02\x00\x01",
    b"\x70\x02\x00\x01",
    b"\x82\x09\x00\x01\x00\x00\x03a/b\x01",
    b"\xa2\x08\x00\x01\x00\x00\x03a/b",
    b"\xc0\x00",
    b"\xe0\x02\x00\x00",
    b"\xf0\x02\x18\x00",
]


def changed(rng):
    """A packet with something wrong."""
    packet = bytearray(rng.choice(PACKETS))
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        at = rng.randrange(len(packet)) if packet else 0
        if kind == 0 and packet:
            packet[at] = rng.randrange(256)
        elif kind == 1:
            del packet[at:]
        elif kind == 2:
            packet[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 3:
            packet += bytes(packet)
        elif kind == 4:
            packet[:0] = bytes([rng.randrange(256)]) + rng.choice([b"\xff\xff\xff\x7f", b"\xff" * 5, b"\x00", b"\x7f"])
        else:
            packet += rng.choice(PACKETS)
        if not packet:
            packet = bytearray(b"\x00\x00")
    # Nobody waits for the rest of a packet.
    return bytes(packet) + b"\xff" * 6 + b"\x00\xff" * 64


class Flood:
    def __init__(self, address, packets, seed, together):
        host, port = address.rsplit(":", 1)
        self.address = (host, int(port))
        self.left = packets
        self.sent = 0
        self.ended = 0
        self.rng = random.Random(seed)
        self.selector = selectors.DefaultSelector()
        for _ in range(together):
            self.begin()

    def begin(self):
        if self.left == 0:
            return
        self.left -= 1
        stream = socket.socket()
        # Ends of many connections wait for a while; each address has its own ports.
        stream.bind((f"127.0.{self.rng.randrange(1, 250)}.{self.rng.randrange(1, 250)}", 0))
        stream.setblocking(False)
        stream.connect_ex(self.address)
        first = self.rng.choice([b"", V5, V4])
        self.selector.register(stream, selectors.EVENT_WRITE, first + changed(self.rng))

    def turn(self):
        for key, events in self.selector.select(timeout=5):
            stream = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    stream.send(key.data)
                    # What is taken for the start of a long packet ends here, too.
                    stream.shutdown(socket.SHUT_WR)
                    self.sent += 1
                    self.selector.modify(stream, selectors.EVENT_READ, None)
                elif stream.recv(65536):
                    continue
                else:
                    self.end(stream)
            except OSError:
                self.end(stream)

    def end(self, stream):
        self.selector.unregister(stream)
        stream.close()
        self.ended += 1
        self.begin()

    def run(self):
        while self.selector.get_map():
            before = self.ended
            self.turn()
            if self.ended == before and not self.selector.get_map():
                return


def resident_mb(process):
    pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def flood(address, packets, seed, together):
    """In a process of its own, which is done when all have ended."""
    child = os.fork()
    if child == 0:
        # Whatever happens, this process must not go on with what its parent has.
        try:
            os.sched_setaffinity(0, {LOAD_CPU})
            os.nice(10)
            run = Flood(address, packets, seed, together)
            run.run()
            os._exit(0 if run.ended == packets else 1)
        finally:
            os._exit(2)
    return child


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packets", type=int, default=100_000)
    parser.add_argument("--together", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with broker.petrel(1, cpu=BROKER_CPU) as running:
        process, address = running
        alone = sorted(quiet(running)["p99_us"] for _ in range(3))[1]
        os.waitpid(flood(address, 5_000, options.seed + 1, options.together), 0)
        time.sleep(12)
        before = resident_mb(process)
        begin = time.monotonic()
        child = flood(address, options.packets, options.seed, options.together)
        beside, status = [], 0
        while True:
            beside.append(quiet(running)["p99_us"])
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
        took = time.monotonic() - begin
        if status or process.poll() is not None:
            raise SystemExit(f"not every connection was ended, or the broker has: {status}")
        time.sleep(12)
        after = resident_mb(process)
        middle = sorted(beside)[len(beside) // 2]
        print(f"{options.packets} malformed packets on {options.together} connections in {took:.0f} s, seed {options.seed}")
        print(f"a quiet pair: p99 {alone:.0f} us alone, {middle:.0f} us beside them, {middle / alone:.2f} times; "
              f"at worst {max(beside):.0f} us in {len(beside)} runs")
        print(f"memory: {before:.1f} MB before, {after:.1f} MB twelve seconds after they ended")


if __name__ == "__main__":
    main()
