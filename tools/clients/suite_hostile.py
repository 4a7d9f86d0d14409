"""Clients that mean harm or are broken, while honest ones go on beside them."""

import random
import socket
import ssl
import struct
import threading
from contextlib import ExitStack, contextmanager

import wire
from lab import V5, V311, Suite
from wire import Closed, Raw, connect, packet, properties, publish, subscribe, text, varint

SUITE = Suite()
MIB = 1 << 20
# What the broker of this suite is started with.
LIMITS = {
    "maximum_packet_size_bytes": MIB,
    "receive_maximum": 10,
    "topic_alias_maximum": 5,
    "topic_levels_maximum": 128,
    "connect_timeout_s": 2,
    "packet_timeout_s": 2,
    "write_timeout_s": 3,
    "session_queue_bytes": 4 * MIB,
}
GROWTH_BYTES_MAX = 48 * MIB
SEED = 20_240_607


@contextmanager
def about(name):
    """Says which of many cases an assertion is about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


class HonestPair(threading.Thread):
    """Two clients that answer each other without a pause, to show that others do not suffer."""

    def __init__(self, lab):
        super().__init__(daemon=True)
        self._left, self._right = lab.client("left"), lab.client("right")
        self._ping, self._pong = lab.topic("ping"), lab.topic("pong")
        self._left.subscribe(self._pong, 1)
        self._right.subscribe(self._ping, 2)
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self.rounds = 0
        self.error = None

    def run(self):
        try:
            while not self._stopping.is_set():
                self._left.send(self._ping, f"{self.rounds}", 2)
                self._right.expect(f"{self.rounds}")
                self._right.send(self._pong, f"{self.rounds}", 1)
                self._left.expect(f"{self.rounds}")
                with self._progress:
                    self.rounds += 1
                    self._progress.notify_all()
        except Exception as error:
            with self._progress:
                self.error = error
                self._progress.notify_all()

    def expect_progress(self):
        """Two more rounds, or what hindered them."""
        with self._progress:
            goal = self.rounds + 2
            done = self._progress.wait_for(lambda: self.error or self.rounds >= goal, wire.WAIT_S)
        assert self.error is None, f"the honest pair suffered: {self.error!r}"
        assert done, "the honest pair stands still"

    def stop(self):
        self._stopping.set()
        self.join(wire.WAIT_S)


def check(alone=False):
    return SUITE.check((V5,), ("mqtt",), alone)


def property_(identifier, value):
    return bytes([identifier]) + value


# What a v5 client may do wrong once it is connected, and the reason codes that fit.
WRONG = {
    "reserved packet type 0": (b"\x00\x00", {0x81, 0x82}),
    "flags on PINGREQ": (b"\xc1\x00", {0x81}),
    "a second CONNECT": (connect("again"), {0x82}),
    "a CONNACK": (b"\x20\x03\x00\x00\x00", {0x81, 0x82}),
    "a SUBACK": (b"\x90\x04\x00\x01\x00\x00", {0x81, 0x82}),
    "a PINGRESP": (b"\xd0\x00", {0x81, 0x82}),
    "an AUTH out of the blue": (b"\xf0\x00", {0x82}),
    "length of five bytes": (b"\x30\xff\xff\xff\xff\x01", {0x81}),
    "length that is not minimal": (b"\xc0\x80\x00", {0x81}),
    "256 MB announced": (b"\x30\xff\xff\xff\x7f", {0x95}),
    "one byte more than the maximum": (b"\x30" + varint(MIB), {0x95}),
    "PUBLISH of QoS 3": (b"\x36\x06" + text("a") + b"\x00\x01\x00", {0x81}),
    "PUBLISH of QoS 0 with DUP": (publish("a", flags=8), {0x81}),
    "PUBLISH with packet identifier 0": (publish("a", qos=1, packet_id=0), {0x81, 0x82}),
    "PUBLISH with +": (publish("a/+"), {0x90}),
    "PUBLISH with #": (publish("#"), {0x90}),
    "PUBLISH without topic": (publish(""), {0x82}),
    "PUBLISH with U+0000": (publish("a\0b"), {0x81}),
    "PUBLISH with a surrogate": (publish(b"a\xed\xa0\x80"), {0x81}),
    "PUBLISH that is not UTF-8": (publish(b"a\xff\xfe"), {0x81}),
    "PUBLISH with an overlong character": (publish(b"a\xc0\xaf"), {0x81}),
    "PUBLISH cut inside its topic": (packet(0x30, b"\x00\x09ab"), {0x81}),
    "PUBLISH of nothing": (b"\x30\x00", {0x81}),
    "topic of 65,535 slashes": (publish("/" * 65_535), {0x90}),
    "alias 0": (publish("a", props=[property_(0x23, b"\x00\x00")]), {0x94}),
    "alias above the maximum": (publish("a", props=[property_(0x23, b"\x00\x06")]), {0x94}),
    "alias that nobody knows": (publish("", props=[property_(0x23, b"\x00\x05")]), {0x82}),
    "property twice": (publish("a", props=[property_(0x01, b"\x01")] * 2), {0x82}),
    "property that does not exist": (publish("a", props=[property_(0x7F, b"\x00")]), {0x81}),
    "property of another packet": (publish("a", props=[property_(0x11, b"\x00" * 4)]),
                                   {0x81, 0x82}),
    "property block longer than the packet": (packet(0x30, text("a"), b"\x7f\x01"), {0x81}),
    "subscription identifier from a client": (publish("a", props=[property_(0x0B, b"\x01")]),
                                              {0x82}),
    "wildcard in the response topic": (publish("a", props=[property_(0x08, text("b/#"))]),
                                       {0x82, 0x90}),
    "SUBSCRIBE with wrong flags": (b"\x80" + subscribe("a")[1:], {0x81}),
    "SUBSCRIBE to nothing": (packet(0x82, b"\x00\x01\x00"), {0x82}),
    "SUBSCRIBE with packet identifier 0": (subscribe("a", packet_id=0), {0x81, 0x82}),
    "SUBSCRIBE with reserved option bits": (subscribe("a", options=0xC0), {0x81, 0x82}),
    "SUBSCRIBE with QoS 3": (subscribe("a", options=3), {0x81, 0x82}),
    "SUBSCRIBE with Retain Handling 3": (subscribe("a", options=0x30), {0x81, 0x82}),
    "No Local on a shared subscription": (subscribe("$share/g/a", options=4), {0x82}),
    "subscription identifier 0": (subscribe("a", props=[property_(0x0B, b"\x00")]), {0x82}),
    "UNSUBSCRIBE from nothing": (packet(0xA2, b"\x00\x01\x00"), {0x82}),
    "UNSUBSCRIBE with wrong flags": (packet(0xA0, b"\x00\x01\x00", text("a")), {0x81}),
    "PUBREL with wrong flags": (b"\x60\x02\x00\x01", {0x81}),
    "PUBACK of one byte": (b"\x40\x01\x00", {0x81}),
    "PUBACK with a reason that does not exist": (b"\x40\x03\x00\x01\x7f", {0x81, 0x82}),
    "DISCONNECT that raises the session expiry": (
        packet(0xE0, b"\x00", properties(5, property_(0x11, b"\x00\x00\x00\x09"))), {0x82}),
    "more QoS 2 messages than Receive Maximum": (
        b"".join(publish("a", qos=2, packet_id=n) for n in range(1, 20)), {0x93}),
}


@check()
def every_violation_has_its_reason_code(lab):
    for number, (name, (data, reasons)) in enumerate(WRONG.items()):
        with Raw(lab.broker.endpoint("mqtt")) as raw:
            raw.login(lab.client_id(f"v5-{number}")).send(data)
            with about(name):
                packets = raw.receive_until_closed()
        ends = [body for first, body in packets if first == 0xE0]
        assert len(ends) == 1 and packets[-1][0] == 0xE0, f"{name}: answered by {packets}"
        reason = ends[0][0] if ends[0] else 0
        assert reason in reasons, f"{name}: {reason:#x}"


@check()
def older_versions_are_closed_without_a_word(lab):
    wrong = {
        "reserved packet type 0": b"\x00\x00",
        "reserved packet type 15": b"\xf0\x00",
        "a second CONNECT": connect("again", version=4),
        "256 MB announced": b"\x30\xff\xff\xff\x7f",
        "PUBLISH of QoS 3": b"\x36\x05" + text("a") + b"\x00\x01",
        "PUBLISH with #": publish("#", version=4),
        "PUBLISH without topic": publish("", version=4),
        "PUBLISH that is not UTF-8": publish(b"\xff", version=4),
        "SUBSCRIBE to nothing": packet(0x82, b"\x00\x01"),
        "SUBSCRIBE with QoS 3": subscribe("a", options=3, version=4),
        "UNSUBSCRIBE from nothing": packet(0xA2, b"\x00\x01"),
        "topic of 65,535 slashes": publish("/" * 65_535, version=4),
    }
    for version in (3, 4):
        for number, (name, data) in enumerate(wrong.items()):
            with Raw(lab.broker.endpoint("mqtt")) as raw:
                raw.login(lab.client_id(f"v{version}-{number}"), version).send(data)
                with about(name):
                    packets = raw.receive_until_closed()
            assert packets == [], f"{name}: answered by {packets}"


@check()
def a_filter_that_cannot_be_is_refused(lab):
    for filter_ in ("a/#/b", "a#", "a+", "+a/b", "$share/g", "$share//a", "$share/+/a", "",
                    "/" * 65_535):
        with Raw(lab.broker.endpoint("mqtt")) as raw:
            raw.login(lab.client_id("filter")).send(subscribe(filter_))
            try:
                first, body = raw.receive()
            except Closed:
                raise AssertionError(f"{filter_[:20]!r}: closed without a reason") from None
            reason = body[-1] if first == 0x90 else body[0]
            assert reason in (0x8F, 0x81, 0x82), f"{filter_[:20]!r}: {first:#x} {reason:#x}"


@check()
def only_a_proper_connect_opens_a_connection(lab):
    good = connect("x")
    wrong = {
        "PINGREQ first": (b"\xc0\x00", None),
        "SUBSCRIBE first": (subscribe("#"), None),
        "PUBLISH first": (publish("a"), None),
        "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        "zeroes": (b"\0" * 64, None),
        "another protocol": (good.replace(b"MQTT", b"MQTS"), {0x84, None}),
        "level 6": (good.replace(b"MQTT\x05", b"MQTT\x06"), {0x84, 0x01}),
        "level 2": (good.replace(b"MQTT\x05", b"MQTT\x02"), {0x84, 0x01}),
        "reserved flag": (connect("x", flags=0x03), {0x81, None}),
        "will of QoS 3": (connect("x", flags=0x1E), {0x81, None}),
        "will QoS without will": (connect("x", flags=0x0A), {0x81, None}),
        "will flag without will": (connect("x", flags=0x06), {0x81, None}),
        "user flag without user": (connect("x", flags=0x82), {0x81, None}),
        "bytes at the end": (packet(0x10, good[2:], b"more"), {0x81, None}),
        "property twice": (connect("x", props=[b"\x21\x00\x01"] * 2), {0x82, None}),
        "Receive Maximum 0": (connect("x", props=[b"\x21\x00\x00"]), {0x82, None}),
        "Maximum Packet Size 0": (connect("x", props=[b"\x27" + b"\0" * 4]), {0x82, None}),
        "client id with U+0000": (connect("a\0b"), {0x81, 0x85, None}),
        "empty id to be kept, 3.1.1": (connect("", version=4, flags=0), {0x02}),
        "password without user, 3.1.1": (
            packet(0x10, connect("x", 4, flags=0x42)[2:], text("pw")), {None, 0x04}),
    }
    for name, (data, reasons) in wrong.items():
        with Raw(lab.broker.endpoint("mqtt")) as raw:
            with about(name):
                packets = raw.send(data).receive_until_closed()
        if reasons is None:
            assert packets == [], f"{name}: answered by {packets}"
            continue
        assert all(first == 0x20 for first, _body in packets), f"{name}: answered by {packets}"
        reason = packets[0][1][1] if packets else None
        assert len(packets) <= 1 and reason in reasons, f"{name}: answered by {packets}"


@check()
def bytes_may_come_one_at_a_time(lab):
    for version in (3, 4, 5):
        stream = connect(lab.client_id("slow"), version) + subscribe(
            lab.topic("x"), version=version) + publish(lab.topic("x"), b"hello", version=version)
        with Raw(lab.broker.endpoint("mqtt")) as raw:
            for byte in stream:
                raw.send(bytes([byte]))
            assert [raw.receive()[0] for _ in range(3)] == [0x20, 0x90, 0x30]
        with Raw(lab.broker.endpoint("ws")) as raw:
            raw.send(wire.upgrade())
            while not raw.buffer.endswith(b"\r\n\r\n"):
                raw._fill()
            raw.buffer = b""
            raw.send(b"".join(wire.frame(bytes([byte])) for byte in stream))
            answers = b""
            while b"hello" not in answers:
                opcode, length = raw.take(2)
                assert opcode == 0x82
                answers += raw.take(length)
            assert [answers[0], answers.count(b"hello")] == [0x20, 1]


@check()
def all_packets_may_come_at_once(lab):
    data = connect(lab.client_id("c")) + subscribe(lab.topic("x")) + b"".join(
        publish(lab.topic("x"), b"%d" % n, 1, n) for n in range(1, 200)) + b"\xe0\x00"
    with Raw(lab.broker.endpoint("mqtt")) as raw:
        packets = raw.send(data).receive_until_closed()
    kinds = [first for first, _body in packets]
    assert kinds[:2] == [0x20, 0x90] and kinds.count(0x40) == 199, kinds


@check()
def after_a_refused_connect_nothing_is_done(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("x"), 1)
    refused = connect("", version=4, flags=0) + publish(lab.topic("x"), b"smuggled", version=4)
    with Raw(lab.broker.endpoint("mqtt")) as raw:
        packets = raw.send(refused).receive_until_closed()
    assert len(packets) == 1
    lab.client("pub").publish(lab.topic("x"), "honest", 1)
    watcher.expect("honest")


@check()
def silence_and_half_packets_are_cut(lab):
    """Cut at connect_timeout_s or packet_timeout_s, whatever the transport."""
    wanted = connect(lab.client_id("half"))
    with ExitStack() as stack:

        def open_(protocol, data, tls=None):
            raw = stack.enter_context(Raw(lab.broker.endpoint(protocol), tls))
            return raw.send(data)

        waiting = {protocol: open_(protocol, b"") for protocol in ("mqtt", "mqtts", "ws", "wss")}
        waiting["half a CONNECT"] = open_("mqtt", wanted[:-3])
        waiting["half a CONNECT in TLS"] = open_("mqtts", wanted[:5], lab.broker.tls)
        waiting["half a ClientHello"] = open_("mqtts", b"\x16\x03\x01\x02\x00\x01\x00\x01")
        waiting["half an upgrade"] = open_("ws", wire.upgrade()[:40])
        waiting["an upgrade only"] = open_("ws", wire.upgrade())
        waiting["half a frame"] = open_("ws", wire.upgrade() + wire.frame(wanted)[:8])
        for name in ("half a PUBLISH", "a header only"):
            raw = stack.enter_context(Raw(lab.broker.endpoint("mqtt")))
            raw.login(lab.client_id(name))
            waiting[name] = raw.send(publish("a", b"x" * 100)[: 50 if "half" in name else 1])
        for name, raw in waiting.items():
            with about(name):
                raw.wait_closed()


@check()
def one_byte_now_and_then_does_not_extend_the_time(lab):
    data = connect(lab.client_id("trickle"), props=[b"\x26" + text("k" * 500) + text("v")])
    with Raw(lab.broker.endpoint("mqtt")) as raw:
        raw.socket.settimeout(0.1)
        cut = False
        for byte in data[:200]:
            raw.send(bytes([byte]))
            try:
                cut = not raw.socket.recv(1)
            except TimeoutError:
                continue
            except OSError:
                cut = True
            break
        assert cut, "20 s of single bytes were not cut after connect_timeout_s"


@check()
def websocket_rules_are_enforced(lab):
    hello = connect(lab.client_id("ws"))
    wrong = {
        "not HTTP": hello,
        "another path": wire.upgrade("/elsewhere"),
        "no WebSocket at all": b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n",
        "an endless header": b"GET /mqtt HTTP/1.1\r\nX-A: " + b"a" * 300_000,
        "endless headers": b"GET /mqtt HTTP/1.1\r\n" + b"X-A: a\r\n" * 50_000,
        "no mask": wire.upgrade() + wire.frame(hello, masked=False),
        "text frame": wire.upgrade() + wire.frame(hello, opcode=1),
        "reserved opcode": wire.upgrade() + wire.frame(hello, opcode=3),
        "reserved bit": wire.upgrade() + b"\xc2" + wire.frame(hello)[1:],
        "continuation of nothing": wire.upgrade() + wire.frame(hello, opcode=0),
        "long ping": wire.upgrade() + wire.frame(b"x" * 126, opcode=9),
        "ping in pieces": wire.upgrade() + wire.frame(b"x", opcode=9, final=False),
        "length of 2^63": wire.upgrade() + wire.frame(b"x" * 64, announced=1 << 63),
        "PUBLISH first": wire.upgrade() + wire.frame(publish("a")),
    }
    for name, data in wrong.items():
        with Raw(lab.broker.endpoint("ws")) as raw:
            with about(name):
                raw.send(data).wait_closed()


@check()
def garbage_on_tls_ports_ends_that_connection(lab):
    generator = random.Random(SEED)
    for protocol in ("mqtts", "wss"):
        for data in (connect("plain"), wire.upgrade(), b"\x16\x03\x01\xff\xff" + b"\0" * 2000,
                     b"\x15\x03\x03\x00\x02\x02\x28", generator.randbytes(5000)):
            with Raw(lab.broker.endpoint(protocol)) as raw:
                raw.send(data).wait_closed()
    endpoint = lab.broker.endpoint("mqtts")
    with Raw(endpoint, lab.broker.tls) as raw:
        raw.login(lab.client_id("tls"))
        # Bytes that are no record, past the TLS layer of this side.
        with socket.socket(fileno=raw.socket.detach()) as bare:
            bare.settimeout(wire.WAIT_S)
            bare.sendall(generator.randbytes(300))
            try:
                while bare.recv(65536):
                    pass
            except ConnectionResetError:
                pass


@check()
def old_tls_is_refused(lab):
    endpoint = lab.broker.endpoint("mqtts")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(lab.broker.certificates.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    try:
        Raw(endpoint, context)
    except (ssl.SSLError, OSError):
        return
    raise AssertionError("TLS 1.1 was accepted")


@check()
def random_bytes_and_mutated_packets_do_no_harm(lab):
    generator = random.Random(SEED)
    valid = [connect(lab.client_id("fuzz")), subscribe("a/#", "b/+"), publish("a/b", b"x" * 50, 1),
             publish("a", b"", 2, props=[property_(0x26, text("k") + text("v"))]),
             packet(0xA2, b"\x00\x01\x00", text("a/#")), b"\x62\x02\x00\x01", b"\xc0\x00"]
    for number in range(300):
        stream = bytearray(b"".join(generator.choices(valid, k=8)))
        if number % 3:
            stream = bytearray(valid[0]) + stream
        for _ in range(generator.randrange(1, 6)):
            stream[generator.randrange(len(stream))] = generator.randrange(256)
        if number % 10 == 0:
            stream = generator.randbytes(400)
        with Raw(lab.broker.endpoint("ws" if number % 7 == 0 else "mqtt")) as raw:
            raw.send(stream)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                  struct.pack("ii", number % 2, 0))


@check(alone=True)
def announced_lengths_cost_no_memory(lab):
    """200 clients announce the largest packet that is allowed, and send none of it."""
    before = lab.broker.rss_bytes()
    with ExitStack() as stack:
        for number in range(200):
            raw = stack.enter_context(Raw(lab.broker.endpoint("mqtt")))
            raw.login(lab.client_id(f"{number}"))
            raw.send(publish("a", b"x" * (MIB - 20))[:100])
        # Its answer says that the broker has read what came before on its shard.
        lab.client("barrier").publish(lab.topic("x"), b"", 1)
        grown = lab.broker.rss_bytes() - before
    assert grown < GROWTH_BYTES_MAX, f"{grown} B more for 200 announcements"


@check(alone=True)
def a_client_that_never_reads_costs_bounded_memory_and_is_cut(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("cut"), 0)
    before, most = lab.broker.rss_bytes(), 0
    with ExitStack() as stack:
        for qos in (0, 1, 2):
            raw = stack.enter_context(Raw(lab.broker.endpoint("mqtt")))
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.login(lab.client_id(f"deaf{qos}"), will=(lab.topic("cut"), b"%d" % qos))
            raw.send(subscribe(lab.topic("flood/#"), options=qos))
            raw.receive()
        publisher = lab.client("flooder")
        for number in range(60):
            mids = [publisher.send(lab.topic("flood/x"), b"f" * 65_536, 1) for _ in range(20)]
            for mid in mids:
                publisher.acknowledged(mid)
            most = max(most, lab.broker.rss_bytes() - before)
        # Their wills tell that they are gone; reading would make them honest.
        assert sorted(watcher.receive_texts(3)) == ["0", "1", "2"]
    assert most < GROWTH_BYTES_MAX, f"{most} B more during the flood"


@check(alone=True)
def requests_without_reading_the_answers_cost_bounded_memory(lab):
    """Each request of 30 bytes asks for a retained message of 500 kB; then there are pings."""
    publisher = lab.client("pub")
    publisher.publish(lab.topic("r"), b"r" * 500_000, 1, retain=True)
    before, most = lab.broker.rss_bytes(), 0
    asks = [subscribe(lab.topic("r"), options=1, packet_id=n) for n in range(1, 500)]
    for version, requests in ((5, b"".join(asks)), (4, b"\xc0\x00" * 2 * MIB)):
        with Raw(lab.broker.endpoint("mqtt")) as raw:
            raw.login(lab.client_id("greedy"), version)
            raw.socket.settimeout(1)
            try:
                raw.socket.sendall(requests)
            except OSError:
                pass
            for _ in range(20):
                publisher.publish(lab.topic("x"), b"", 1)
                most = max(most, lab.broker.rss_bytes() - before)
    publisher.publish(lab.topic("r"), b"", 1, retain=True)
    assert most < GROWTH_BYTES_MAX, f"{most} B more"


@check(alone=True)
def many_connections_leave_nothing_behind(lab):
    def descriptors():
        lab.client("barrier", version=V311).close()
        return lab.broker.descriptors()

    before = descriptors()
    for _ in range(5):
        with ExitStack() as stack:
            for number in range(100):
                stack.enter_context(Raw(lab.broker.endpoint("mqtt"))).login(f"many{number}")
    for _ in range(200):
        if (now := descriptors()) <= before + 5:
            return
    raise AssertionError(f"{before} descriptors before, {now} after")
