#!/usr/bin/env python3
"""Holds the broker's ledger against what its clients have counted themselves, after a mixed run.

    make ledger                   (ARGS="--seconds 300 --shards 2 --runtime auto --seed 1")

Publishers of every QoS, some of whose messages expire in a second; subscribers; a shared group; sessions that are
away most of the time or for good, with queues that are too short; one subscriber that reads nothing until the end, and wills of
clients that vanish. When all is over, what was received and delivered must be to the last message what clients have
sent and got, and what is held must be what a walk over all sessions finds.
"""

import argparse
import itertools
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

import wire
from broker import Broker, Certificates
from lab import V5, Client, Will

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"session_queue_messages": 60, "outgoing_bytes_maximum": 65536, "outgoing_inflight_maximum": 20,
          "write_timeout_s": 3600}
TOPICS = 12
SETTLED_S = 60


class Count:
    """What one client has got, once each."""

    def __init__(self):
        self.by_qos = [0, 0, 0]
        self.seen = set()

    def take(self, client):
        """Counts what has come so far; True if something has."""
        found = False
        while not client.messages.empty():
            message = client.messages.get()
            found = True
            key = (message.topic, message.payload, message.qos)
            # Of QoS 1 and 2 it may come again on the next connection.
            if message.qos == 0 or key not in self.seen:
                self.by_qos[message.qos] += 1
                self.seen.add(key)
        return found


class Run:
    def __init__(self, broker, options):
        self.broker = broker
        self.options = options
        self.endpoint = broker.endpoint("mqtt")
        self.sent = [0, 0, 0]
        self.wills = 0
        self.counts = []
        self.over = threading.Event()
        self.threads = []
        self.failed = []
        self.lock = threading.Lock()

    def client(self, name, **options):
        return Client(self.endpoint, None, name, **options)

    def begin(self, work, *arguments):
        def run():
            try:
                work(*arguments)
            except Exception as error:  # whatever it is, the run has failed
                self.failed.append(f"{work.__name__}{arguments}: {error!r}")
                self.over.set()

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def publisher(self, number):
        rng = random.Random(self.options.seed * 1000 + number)
        client = self.client(f"publisher-{number}").connect()
        mids, sent = [], [0, 0, 0]
        while not self.over.wait(rng.expovariate(60)):
            qos = rng.choice((0, 0, 1, 1, 2))
            kind = rng.random()
            # Sessions that come and go get no QoS 0, of which nobody could say whether it has arrived.
            topic = f"{'any' if qos == 0 or kind < 0.5 else 'sure'}/{rng.randrange(TOPICS)}"
            if kind > 0.95:
                topic = f"nobody/{kind}"
            expiry = {"MessageExpiryInterval": 1} if rng.random() < 0.3 else {}
            payload = f"{number}.{sum(sent)}".ljust(rng.choice((8, 200, 4000)))
            mid = client.send(topic, payload, qos, **expiry)
            sent[qos] += 1
            if qos > 0:
                mids.append(mid)
        for mid in mids:
            client.acknowledged(mid)
        # Everything before it has been handled when this is answered.
        client.publish("nobody/last", f"last of {number}", 1)
        sent[1] += 1
        client.close()
        with self.lock:
            self.sent = [all_of + own for all_of, own in zip(self.sent, sent)]

    def subscriber(self, name, filter_, qos, settled):
        client = self.client(name).connect()
        client.subscribe(filter_, qos)
        count = self.counted()
        self.ready.release()
        while not settled.is_set():
            count.take(client)
            time.sleep(0.05)
        count.take(client)
        client.close()

    def comes_and_goes(self, number, settled):
        rng = random.Random(self.options.seed * 77 + number)
        name, count = f"sometimes-{number}", self.counted()
        options = {"clean": False, "expiry": 3600}
        client = self.client(name, **options).connect()
        # A message of QoS 2 could be with the client that has gone, and with none of those that come after it.
        client.subscribe("sure/#", 1)
        self.ready.release()
        while not self.over.is_set():
            time.sleep(rng.uniform(0.1, 1.0))
            count.take(client)
            client.drop() if rng.random() < 0.5 else client.close()
            count.take(client)
            self.over.wait(rng.uniform(0.5, 3.0))
            client = self.client(name, **options).connect()
        while not settled.is_set():
            count.take(client)
            time.sleep(0.05)
        count.take(client)
        client.close()

    def deaf(self, settled):
        """Reads nothing until the end, of QoS 0."""
        count = self.counted()
        with socket.socket() as connection:
            # Before it connects, and not less: a window that is small once grows no more.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
            connection.connect((self.endpoint.host, self.endpoint.port))
            connection.sendall(wire.connect("deaf", 5) + wire.subscribe("any/#"))
            self.ready.release()
            self.over.wait()
            connection.settimeout(150)
            received = bytearray()
            for number in itertools.count(1):
                # Its answer comes behind everything that was sent before. It also says that there is room again, of
                # which a sender that has waited for minutes hears late otherwise.
                was_settled = settled.is_set()
                connection.sendall(b"\xc0\x00")
                while sum(packet[0] >> 4 == 13 for packet in packets(bytes(received))) < number:
                    more = connection.recv(1 << 20)
                    assert more, "the connection of who reads nothing was closed"
                    received += more
                if was_settled:
                    break
                settled.wait(0.2)
            count.by_qos[0] += sum(packet[0] >> 4 == 3 for packet in packets(bytes(received)))

    def vanishing(self):
        rng = random.Random(self.options.seed)
        while not self.over.wait(rng.uniform(0.2, 1.0)):
            will = Will("any/will", b"will %d" % self.wills, rng.choice((0, 1)))
            self.client(f"vanishing-{self.wills}", will=will).connect().drop()
            self.wills += 1

    def counted(self):
        with self.lock:
            self.counts.append(Count())
            return self.counts[-1]

    def run(self):
        settled = threading.Event()
        self.ready = threading.Semaphore(0)
        for number in range(4):
            self.begin(self.subscriber, f"subscriber-{number}", "#", number % 3, settled)
            self.begin(self.comes_and_goes, number, settled)
        for number in range(3):
            self.begin(self.subscriber, f"member-{number}", "$share/group/sure/+", 2 - number % 2, settled)
        self.begin(self.deaf, settled)
        for _ in range(12):
            assert self.ready.acquire(timeout=30), self.failed
        # Its queue is full in the end, and is what is held.
        away = self.client("away", clean=False, expiry=3600).connect()
        away.subscribe("sure/#", 1)
        away.close()
        for number in range(6):
            self.begin(self.publisher, number)
        self.begin(self.vanishing)
        self.over.wait(self.options.seconds)
        self.over.set()
        try:
            return self.compare(settled)
        finally:
            settled.set()
            for thread in self.threads:
                thread.join()

    def compare(self, settled):
        """Waits until the broker and the clients say the same; what differs, and the broker's numbers."""
        begin = time.monotonic()
        publishing = self.threads[12:]
        for thread in publishing:
            thread.join()
        while True:
            numbers = scrape(self.broker)
            found = {name: numbers.get(name, 0) for name in self.expected(numbers)}
            differs = {
                name: (found[name], wanted)
                for name, wanted in self.expected(numbers).items() if found[name] != wanted
            }
            if self.failed:
                return {"failed": self.failed}, numbers
            if not differs and settled.is_set():
                return differs, numbers
            if time.monotonic() > begin + SETTLED_S:
                return differs, numbers
            time.sleep(0.5)
            # Who reads nothing counts at the end only.
            if time.monotonic() > begin + 5:
                settled.set()

    def expected(self, numbers):
        wanted = {}
        for qos in range(3):
            wanted[f'petrel_messages_received_total{{qos="{qos}"}}'] = self.sent[qos]
            got = sum(count.by_qos[qos] for count in self.counts)
            wanted[f'petrel_copies_delivered_total{{qos="{qos}"}}'] = got
        wanted["petrel_wills_published_total"] = self.wills
        waits = numbers["petrel_queued_messages"] + numbers["petrel_inflight_messages"]
        wanted["petrel_copies_held"] = waits
        wanted["petrel_queued_messages"] = LIMITS["session_queue_messages"]
        return wanted


def packets(received):
    """The packets of some bytes that are whole."""
    at = 0
    while at < len(received):
        length, shift, head = 0, 0, at + 1
        while True:
            if head == len(received):
                return
            length |= (received[head] & 0x7F) << shift
            shift, head = shift + 7, head + 1
            if received[head - 1] < 0x80:
                break
        if head + length > len(received):
            return
        yield received[at:head + length]
        at = head + length


def scrape(broker):
    """All samples of the broker's metrics, by name and labels."""
    with urllib.request.urlopen(f"{broker.admin}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    name = lambda sample: sample.name + "".join(
        f'{{{label}="{value}"}}' for label, value in sample.labels.items()
    )
    return {name(sample): sample.value for sample in samples}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--petrel", type=Path, default=ROOT / "target/release/petrel")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(
            options.petrel, folder, Certificates(folder), options.shards, options.runtime, LIMITS
        )
        try:
            differs, numbers = Run(broker, options).run()
        finally:
            code = broker.stop()
    dropped = {
        name.split('"')[1]: int(count) for name, count in numbers.items()
        if name.startswith("petrel_messages_dropped_total") and count
    }
    due, held = (int(numbers[f"petrel_copies_{name}"]) for name in ("due_total", "held"))
    print(f"copies due {due}, held {held}; dropped {dropped}")
    for name, (broker_says, clients_say) in differs.items() if "failed" not in differs else ():
        print(f"{name}: the broker says {broker_says:.0f}, its clients {clients_say:.0f}")
    if "failed" in differs:
        print("\n".join(differs["failed"]))
    print("the ledger adds up" if not differs and code == 0 else "FAILED")
    return 1 if differs or code != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
