"""MQTT by hand: packets as bytes, and a socket that sends whatever it is told."""

import base64
import os
import socket
import struct

from broker import WS_PATH

WAIT_S = 20


class Closed(Exception):
    """The broker ended the connection."""


def varint(value):
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(first_byte, *parts):
    body = b"".join(parts)
    return bytes([first_byte]) + varint(len(body)) + body


def properties(version, *parts):
    body = b"".join(parts)
    return varint(len(body)) + body if version == 5 else b""


def connect(client_id, version=5, keep_alive=0, flags=0x02, props=(), will=None):
    name = "MQIsdp" if version == 3 else "MQTT"
    last = b""
    if will is not None:
        flags |= 0x04
        last = properties(version) + text(will[0]) + text(will[1])
    head = text(name) + bytes([version, flags]) + struct.pack(">H", keep_alive)
    return packet(0x10, head, properties(version, *props), text(client_id), last)


def publish(topic, payload=b"", qos=0, packet_id=1, version=5, flags=0, props=()):
    identifier = struct.pack(">H", packet_id) if qos else b""
    parts = text(topic), identifier, properties(version, *props), payload
    return packet(0x30 | qos << 1 | flags, *parts)


def subscribe(*filters, options=0, packet_id=1, version=5, props=()):
    body = b"".join(text(filter_) + bytes([options]) for filter_ in filters)
    return packet(0x82, struct.pack(">H", packet_id), properties(version, *props), body)


def upgrade(path=WS_PATH, extra=""):
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket",
             "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Protocol: mqtt"]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode()


def frame(payload, opcode=2, final=True, masked=True, announced=None):
    """A WebSocket frame; `announced` lies about its length."""
    length = len(payload) if announced is None else announced
    mask_bit = 0x80 if masked else 0
    head = bytes([opcode | (0x80 if final else 0)])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Raw:
    """A connection that obeys nobody."""

    def __init__(self, endpoint, tls=None):
        self.socket = socket.create_connection((endpoint.host, endpoint.port), WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=endpoint.host)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends; that the broker has already hung up is its right."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self

    def _fill(self):
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError("the broker neither answered nor closed") from None
        except OSError:
            raise Closed from None
        if not data:
            raise Closed
        self.buffer += data

    def take(self, count):
        while len(self.buffer) < count:
            self._fill()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def receive(self):
        """The next packet: its first byte and its body."""
        first, length, shift = self.take(1)[0], 0, 0
        while True:
            digit = self.take(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return first, self.take(length)

    def receive_until_closed(self):
        """All packets up to the end of the connection."""
        packets = []
        try:
            while True:
                packets.append(self.receive())
        except Closed:
            return packets

    def wait_closed(self, timeout_s=WAIT_S):
        """Reads and forgets until the connection ends."""
        self.socket.settimeout(timeout_s)
        try:
            while True:
                self.buffer = b""
                self._fill()
        except Closed:
            pass

    def login(self, client_id, version=5, **options):
        self.send(connect(client_id, version, **options))
        first, body = self.receive()
        assert first == 0x20 and body[1] == 0, f"CONNECT was answered by {first:#x} {body!r}"
        return self
