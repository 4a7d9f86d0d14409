"""Packets that are changed, cut and out of order, against a running broker by every way in, for minutes.

    make fuzz-live             (ARGS="--seconds 180 --seed 1 --shards 2 --runtime auto --storage")

MQTT, over TLS, over WebSocket, over both, and behind the header of a proxy; 3.1, 3.1.1 and 5. What is sent are
conversations of a client of which some bytes are changed in two of three, in pieces, with and without an end;
few client identifiers and topics, so that sessions, retained messages and groups are met again and again. A quiet
pair must get every message meanwhile. It is an error if the broker ends, says
that it panicked, keeps file descriptors or memory, cannot be stopped, or cannot read what it has kept.
"""

import argparse
import base64
import contextlib
import os
import pathlib
import random
import socket
import ssl
import struct
import subprocess
import tempfile
import time

import broker
from malformed import resident_mb
from neighbours import quiet

WORKERS = 4
TOPICS = ["a", "a/b", "a/b/c", "t/" * 30, "", "/", "+", "#", "$SYS/x", "$share/g/a", "a/#/b", "ü", "a\0b", "x" * 300]
FILTERS = TOPICS + ["a/#", "+/b", "$share/g/a/#", "$share//a", "$share/g/", "$SYS/#", "+/+/#"]
CLIENTS = ["", "c1", "c2", "c3", "c4", "x" * 70, "ü", "c\n5"]
# Memory may be held in other pieces than before.
GROWTH_MB = 6
# What the log of the one lane may have in memory.
WINDOW_MB = 134


def length(number):
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (128 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first, body):
    return bytes([first]) + length(len(body)) + body


class Client:
    """What a client might say."""

    def __init__(self, rng):
        self.rng = rng
        self.version = rng.choice([3, 4, 5, 5])

    def properties(self, made):
        if self.version != 5:
            return b""
        chosen = self.rng.sample(made, self.rng.randint(0, min(3, len(made))))
        body = b"".join(make(self.rng) for make in chosen)
        return length(len(body)) + body

    def connect(self):
        rng = self.rng
        will = rng.random() < 0.3
        flags = rng.choice([0, 2]) | (4 | rng.choice([0, 8, 16]) | rng.choice([0, 32]) if will else 0)
        names = rng.random() < 0.3
        flags |= 192 if names else 0
        body = text("MQIsdp" if self.version == 3 else "MQTT") + bytes([self.version, flags])
        body += struct.pack(">H", rng.choice([0, 1, 60]))
        body += self.properties(
            [
                lambda r: b"\x11" + struct.pack(">I", r.choice([0, 5, 2**32 - 1])),
                lambda r: b"\x21" + struct.pack(">H", r.choice([1, 10, 65535])),
                lambda r: b"\x27" + struct.pack(">I", r.choice([1, 60, 2**32 - 1])),
                lambda r: b"\x22" + struct.pack(">H", r.choice([0, 5, 65535])),
                lambda r: b"\x15" + text("SCRAM-SHA-256") + b"\x16" + text("n,,n=a,r=b"),
                lambda r: b"\x26" + text("k") + text("v" * r.choice([0, 10, 1000])),
            ]
        )
        body += text(rng.choice(CLIENTS))
        if will:
            body += self.properties([lambda r: b"\x18" + struct.pack(">I", r.choice([0, 1])), lambda _: b"\x01\x01"])
            body += text(rng.choice(TOPICS)) + text("will")
        return packet(0x10, body + (text("user") + text("password") if names else b""))

    def publish(self):
        rng = self.rng
        qos = rng.choice([0, 0, 1, 2, 2])
        body = text(rng.choice(TOPICS)) + (struct.pack(">H", rng.choice([0, 1, 2, 3])) if qos else b"")
        body += self.properties(
            [
                lambda r: b"\x23" + struct.pack(">H", r.choice([0, 1, 2, 65535])),
                lambda r: b"\x02" + struct.pack(">I", r.choice([0, 1, 60])),
                lambda _: b"\x01\x01",
                lambda _: b"\x0b\x01",
                lambda _: b"\x08" + text("a/b"),
            ]
        )
        return packet(0x30 | qos << 1 | rng.choice([0, 1, 8]), body + rng.randbytes(rng.choice([0, 5, 300, 3000])))

    def other(self):
        rng = self.rng
        number = struct.pack(">H", rng.choice([0, 1, 2, 3]))
        kind = rng.choice([4, 5, 6, 7, 8, 8, 8, 10, 12, 14, 15])
        if kind in (8, 10):
            body = number + self.properties([lambda r: b"\x0b" + length(r.choice([0, 1, 268435455]))])
            for _ in range(rng.choice([0, 1, 1, 3])):
                body += text(rng.choice(FILTERS)) + (bytes([rng.choice([0, 1, 2, 3, 5, 32, 64])]) if kind == 8 else b"")
            return packet(kind << 4 | 2, body)
        if kind == 12:
            return packet(0xC0, b"")
        if kind in (14, 15):
            return packet(kind << 4, rng.choice([b"", b"\x04\x00", b"\x18\x00", b"\x19\x00", b"\x00"]))
        return packet(kind << 4 | (2 if kind == 6 else 0), number + rng.choice([b"", b"\x00", b"\x10", b"\x92\x00"]))

    def conversation(self):
        rng = self.rng
        said = [self.connect()] if rng.random() < 0.95 else []
        for _ in range(rng.randint(0, 12)):
            said.append(self.publish() if rng.random() < 0.5 else self.other())
        raw = bytearray(b"".join(said))
        if raw and rng.random() < 0.66:
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(raw))
                kind = rng.randrange(5)
                if kind < 2:
                    raw[at] = rng.randrange(256)
                elif kind == 2:
                    del raw[at : at + rng.randint(1, 20)]
                elif kind == 3:
                    raw[at:at] = rng.randbytes(rng.randint(1, 20))
                else:
                    raw[at:at] = raw[at : at + 200]
                if not raw:
                    break
        return bytes(raw)


def framed(rng, raw):
    """In WebSocket frames, behind the question whether they may come."""
    path = rng.choice(["/mqtt", "/mqtt", "/", "/" + "x" * 3000])
    key = base64.b64encode(rng.randbytes(16)).decode()
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    out = bytearray(head.encode())
    while raw:
        size = rng.choice([1, 10, 125, 126, 1000, 60000])
        piece, raw = raw[:size], raw[size:]
        code = rng.choice([0x82] * 8 + [0x02, 0x80, 0x89, 0x8A, 0x81, 0x88, 0xF2])
        mask = rng.randbytes(4)
        size = len(piece)
        out += bytes([code])
        out += bytes([128 | size]) if size < 126 else bytes([254]) + struct.pack(">H", size)
        out += mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(piece))
    if rng.random() < 0.2:
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def proxied(rng, raw):
    """Behind the header of a proxy."""
    if rng.random() < 0.5:
        head = bytearray(b"PROXY TCP4 10.1.2.3 10.0.0.1 1234 1883\r\n")
    else:
        more = rng.choice([b"", b"\x02\x00\x03abc", b"\x04\x00\x01x"])
        body = bytes([10, 1, 2, 3, 10, 0, 0, 1]) + struct.pack(">HH", 1234, 1883) + more
        head = bytearray(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(body)) + body)
    if rng.random() < 0.3:
        head[rng.randrange(len(head))] = rng.randrange(256)
    return bytes(head) + raw


def once(rng, ports, tls):
    """One conversation; whether it was answered by anything."""
    heard = 0
    way = rng.choice(list(ports))
    raw = Client(rng).conversation()
    raw = framed(rng, raw) if way in ("ws", "wss") else proxied(rng, raw) if way == "proxy" else raw
    stream = socket.socket()
    try:
        stream.bind((f"127.0.{rng.randrange(1, 250)}.{rng.randrange(1, 250)}" if way != "proxy" else "127.0.0.1", 0))
        stream.settimeout(5)
        stream.connect(("127.0.0.1", ports[way]))
        if way in ("mqtts", "wss") and rng.random() < 0.9:
            stream = tls.wrap_socket(stream)
        while raw:
            size = rng.choice([1, 7, 100, 100_000, 100_000])
            stream.sendall(raw[:size])
            raw = raw[size:]
            if rng.random() < 0.2:
                stream.settimeout(0.002)
                try:
                    heard += len(stream.recv(65536))
                except TimeoutError:
                    pass
                stream.settimeout(5)
        end = rng.random()
        if end < 0.3:
            # Without a word, perhaps with a reset.
            return heard > 0
        stream.shutdown(socket.SHUT_WR)
        # The broker ends it, or does not; both are seen in its descriptors.
        while more := len(stream.recv(65536)):
            heard += more
    except (OSError, ValueError):
        pass
    finally:
        stream.close()
    return heard > 0


def work(seed, until, ports):
    """In a process of its own; says how many conversations there were."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        rng, count, answered = random.Random(seed), 0, 0
        while time.monotonic() < until:
            answered += once(rng, ports, tls)
            count += 1
        os.write(writer, f"{count} {answered}".encode())
        os._exit(0)
    finally:
        os._exit(2)


def flood(seed, seconds, ports, meanwhile):
    until = time.monotonic() + seconds
    children = [work(seed * 1000 + number, until, ports) for number in range(WORKERS)]
    while time.monotonic() < until:
        meanwhile()
    count = answered = 0
    for child, reader in children:
        of_one = os.read(reader, 64).split()
        count, answered = count + int(of_one[0]), answered + int(of_one[1])
        os.close(reader)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("a client has failed")
    return count, answered


def sockets(process):
    """Those of all threads: a shard may have a table of descriptors of its own."""
    found = set()
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        for link in (task / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return sum(name.startswith("socket:") for name in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--storage", action="store_true", help="with storage, which is looked at afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker.certificate(folder)
        ports = {way: broker.free_port() for way in ("mqtt", "mqtts", "ws", "wss", "proxy")}
        more = f'[storage]\npath = "{folder}/kept"\n' if options.storage else ""
        more += "[limits]\nconnect_timeout_s = 3\nhandshake_timeout_s = 3\npacket_timeout_s = 3\n"
        # Sessions that end, and short queues: what is left afterwards is nobody's.
        more += "session_expiry_max_s = 5\nsession_queue_messages = 20\n"
        for way, port in ports.items():
            protocol = "mqtt" if way == "proxy" else way
            more += f'[[listener]]\nprotocol = "{protocol}"\naddress = "127.0.0.1:{port}"\n'
            if way in ("mqtts", "wss"):
                more += f'cert = "{folder}/server.pem"\nkey = "{folder}/server.key"\n'
            if way == "proxy":
                more += 'proxy_protocol = true\nproxy_trusted = ["127.0.0.1"]\n'
        said, wrong = [], []
        with broker.petrel(options.shards, options.runtime, more=more, lines=said) as running:
            process, _ = running

            def meanwhile():
                if process.poll() is not None:
                    raise SystemExit(f"the broker has ended: {process.returncode}; {''.join(process.stderr)}")
                quiet(running)

            flood(options.seed + 1, min(10, options.seconds), ports, meanwhile)
            time.sleep(5)
            before, open_before = resident_mb(process), sockets(process)
            count, answered = flood(options.seed, options.seconds, ports, meanwhile)
            time.sleep(12)
            after, open_after = resident_mb(process), sockets(process)
            meanwhile()
        if open_after > open_before:
            wrong.append(f"{open_after - open_before} sockets are left open")
        if after > before + GROWTH_MB + (WINDOW_MB if options.storage else 0):
            wrong.append("memory has grown")
        if any("panic" in line for line in said):
            wrong.append("it panicked: " + next(line for line in said if "panic" in line))
        if options.storage:
            command = [str(broker.PETREL.with_name("petrelctl")), "storage", "check", f"{folder}/kept"]
            check = subprocess.run(command, capture_output=True, text=True)
            if check.returncode:
                wrong.append(f"what it has kept is damaged: {check.stdout}{check.stderr}")
        print(f"{count} conversations ({answered} answered) in {options.seconds:.0f} s, seed {options.seed}, {options.shards} shards, {options.runtime}")
        print(f"memory: {before:.1f} MB before, {after:.1f} MB after; sockets {open_before} and {open_after}")
        if wrong:
            raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
