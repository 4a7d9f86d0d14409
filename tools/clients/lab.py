"""What a check works with: the suites' registry, and paho-mqtt behind calls that wait."""

import itertools
import os
import queue
import socket
import threading
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker import WS_PATH

WAIT_S = 20
V31, V311, V5 = paho.MQTTv31, paho.MQTTv311, paho.MQTTv5
VERSIONS = (V31, V311, V5)
VERSION_NAMES = {V31: "3.1", V311: "3.1.1", V5: "5"}
TRANSPORTS = ("mqtt", "mqtts", "ws", "wss")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Check:
    """One thing that is tried, for each of its versions and transports."""

    run: object
    versions: tuple
    transports: tuple
    alone: bool

    @property
    def title(self):
        return self.run.__name__.replace("_", " ")


class Suite(list):
    """Checks in the order in which they stand in the file."""

    def check(self, versions=VERSIONS, transports=TRANSPORTS, alone=False):
        """Registers a function; `alone` keeps other checks of the suite from running beside it."""

        def register(function):
            self.append(Check(function, tuple(versions), tuple(transports), alone))
            return function

        return register


@dataclass
class Message:
    """An application message as a client got it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int
    properties: dict

    @property
    def text(self):
        return self.payload.decode()


class Lab:
    """One check's view of the broker: names of its own, clients that are ended after it."""

    def __init__(self, broker, protocol, version, host="127.0.0.1"):
        self.broker = broker
        self.protocol = protocol
        self.version = version
        self.host = host
        self.program = None
        self.prefix = f"t{next(_numbers)}"
        self._clients = []

    def topic(self, rest):
        return f"{self.prefix}/{rest}"

    def client_id(self, name):
        return f"{self.prefix}-{name}"

    def new(self, name="c", **options):
        """A client that is not connected yet."""
        options.setdefault("version", self.version)
        endpoint = self.broker.endpoint(options.pop("protocol", self.protocol), self.host)
        client_id = options.pop("client_id", self.client_id(name))
        client = Client(endpoint, self.broker.tls, client_id, **options)
        self._clients.append(client)
        return client

    def client(self, name="c", **options):
        """A client whose CONNECT has been accepted."""
        return self.new(name, **options).connect()

    def pair(self, filter_, qos=2):
        """A subscriber of `filter_` and a publisher."""
        subscriber = self.client("sub")
        subscriber.subscribe(filter_, qos)
        return subscriber, self.client("pub")

    def mortal(self, name="c", **options):
        """A client for `vanish`."""
        topic = self.topic(f"gone/{next(_numbers)}")
        witness = self.client(f"witness-of-{name}")
        witness.subscribe(topic, 1)
        client = self.client(name, will=Will(topic, b"gone", 1), **options)
        client.witness = witness
        return client

    def vanish(self, client):
        """Breaks the connection; returns when the broker has seen it, for it publishes the will."""
        client.drop()
        client.witness.receive()

    def wait_for_broker_seconds(self, seconds):
        """Returns when the broker's own clock has gone on: a delayed will is the bell."""
        listener = self.client(f"clock-listener{seconds}", version=V5, protocol="mqtt")
        topic = self.topic(f"clock/{seconds}")
        listener.subscribe(topic)
        will = Will(topic, b"bell", properties={"WillDelayInterval": seconds})
        self.client(f"clock{seconds}", version=V5, protocol="mqtt", will=will,
                    expiry=seconds + 60).drop()
        listener.receive(WAIT_S + seconds)

    def close(self):
        for client in self._clients:
            client.abandon()


@dataclass
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: dict = None


def packet_properties(kind, values):
    """The properties of a packet from a dict of paho's names."""
    if not values:
        return None
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def to_dict(properties):
    """The properties that a packet had, by paho's names."""
    names = (name.replace(" ", "") for name in properties.names) if properties is not None else ()
    return {name: getattr(properties, name) for name in names if hasattr(properties, name)}


class Client:
    """paho-mqtt with calls that return when the broker has answered."""

    def __init__(self, endpoint, tls, client_id, version=V5, clean=True, expiry=None, will=None,
                 properties=None, manual_ack=False, keepalive=60):
        self.endpoint = endpoint
        self.client_id = client_id
        self.version = version
        self.keepalive = keepalive
        self.session_present = None
        self.reason_code = None
        self.connack = {}
        self.disconnect_reason = None
        self.messages = queue.Queue()
        self._answers = {}
        self._changed = threading.Condition()
        self._connected = threading.Event()
        self._closed = threading.Event()
        self._aliases = {}
        self._connect_properties = dict(properties or {})
        if expiry is not None:
            self._connect_properties["SessionExpiryInterval"] = expiry
        self._clean = clean
        options = {} if version == V5 else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=version,
            transport="websockets" if endpoint.is_websocket else "tcp",
            reconnect_on_failure=False, manual_ack=manual_ack, **options)
        self.paho.connect_timeout = WAIT_S
        self.paho.max_inflight_messages_set(200)
        if endpoint.is_tls:
            self.paho.tls_set_context(tls)
        if endpoint.is_websocket:
            self.paho.ws_set_options(path=WS_PATH)
        if will is not None:
            self.paho.will_set(will.topic, will.payload, will.qos, will.retain,
                               packet_properties(PacketTypes.WILLMESSAGE, will.properties))
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = self._on_message
        self.paho.on_publish = self._on_publish
        self.paho.on_subscribe = self._on_subscribe
        self.paho.on_unsubscribe = self._on_subscribe

    def _on_connect(self, _client, _data, flags, reason_code, properties):
        self.session_present = flags.session_present
        self.reason_code = reason_code
        self.connack = to_dict(properties)
        self._connected.set()

    def _on_disconnect(self, _client, _data, _flags, reason_code, _properties):
        self.disconnect_reason = reason_code
        self._closed.set()
        self._connected.set()
        with self._changed:
            self._changed.notify_all()

    def _on_message(self, _client, _data, message):
        properties = to_dict(message.properties)
        topic = message.topic
        if alias := properties.get("TopicAlias"):
            topic = self._aliases.setdefault(alias, topic) if not topic else topic
            self._aliases[alias] = topic
        self.messages.put(Message(topic, bytes(message.payload), message.qos, message.retain,
                                  message.dup, message.mid, properties))

    def _on_publish(self, _client, _data, mid, reason_code, _properties):
        self._answer(mid, reason_code)

    def _on_subscribe(self, _client, _data, mid, reason_codes, _properties):
        self._answer(mid, reason_codes)

    def _answer(self, mid, answer):
        with self._changed:
            self._answers[mid] = answer
            self._changed.notify_all()

    def _await_answer(self, mid, what):
        def is_over():
            return mid in self._answers or self._closed.is_set()

        with self._changed:
            if not self._changed.wait_for(is_over, WAIT_S) or mid not in self._answers:
                state = f"closed: {self.disconnect_reason}" if self._closed.is_set() else "open"
                raise AssertionError(f"{self.client_id}: no {what} (connection {state})")
            return self._answers.pop(mid)

    def try_connect(self):
        """Connects, and waits for CONNACK or the end of the connection."""
        options = {"clean_start": self._clean} if self.version == V5 else {}
        if self.version == V5:
            options["properties"] = packet_properties(
                PacketTypes.CONNECT, self._connect_properties)
        self.paho.connect(self.endpoint.host, self.endpoint.port, self.keepalive, **options)
        self.paho.loop_start()
        assert self._connected.wait(WAIT_S), f"{self.client_id}: no CONNACK"
        return self

    def connect(self):
        self.try_connect()
        accepted = self.reason_code is not None and not self.reason_code.is_failure
        assert accepted, f"{self.client_id}: refused: {self.reason_code}"
        return self

    def subscribe(self, filters, qos=0, identifier=None, **options):
        """Subscribes to one filter or several; returns the numbers of SUBACK."""
        filters = [filters] if isinstance(filters, str) else filters
        properties = None
        if self.version == V5:
            topics = [(f, SubscribeOptions(qos, **options)) for f in filters]
            properties = packet_properties(
                PacketTypes.SUBSCRIBE, identifier and {"SubscriptionIdentifier": identifier})
        else:
            topics = [(f, qos) for f in filters]
        result, mid = self.paho.subscribe(topics, properties=properties)
        assert result == paho.MQTT_ERR_SUCCESS, f"{self.client_id}: {paho.error_string(result)}"
        return [code.value for code in self._await_answer(mid, "SUBACK")]

    def unsubscribe(self, filters):
        _result, mid = self.paho.unsubscribe(filters)
        return [code.value for code in self._await_answer(mid, "UNSUBACK")]

    def send(self, topic, payload=b"", qos=0, retain=False, **properties):
        """Publishes without waiting; returns the packet identifier."""
        info = self.paho.publish(topic, payload, qos, retain,
                                 packet_properties(PacketTypes.PUBLISH, properties))
        assert info.rc == paho.MQTT_ERR_SUCCESS, f"{self.client_id}: {paho.error_string(info.rc)}"
        return info.mid

    def publish(self, topic, payload=b"", qos=0, retain=False, **properties):
        """Publishes, and waits for the last acknowledgement; returns its reason code."""
        mid = self.send(topic, payload, qos, retain, **properties)
        return self._await_answer(mid, "acknowledgement").value

    def acknowledged(self, mid):
        return self._await_answer(mid, "acknowledgement").value

    def receive(self, timeout_s=WAIT_S):
        try:
            return self.messages.get(timeout=timeout_s)
        except queue.Empty:
            state = f"closed: {self.disconnect_reason}" if self._closed.is_set() else "open"
            raise AssertionError(f"{self.client_id}: no message (connection {state})") from None

    def receive_texts(self, count):
        return [self.receive().text for _ in range(count)]

    def expect(self, *texts):
        """The next messages, and no others between them."""
        got = self.receive_texts(len(texts))
        assert got == list(texts), f"{self.client_id}: {got} in place of {list(texts)}"

    def acknowledge(self, message):
        self.paho.ack(message.mid, message.qos)

    def drop(self):
        """Ends the connection as a broken network would: no DISCONNECT."""
        with socket.socket(fileno=os.dup(self.paho.socket().fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        assert self._closed.wait(WAIT_S), "paho did not notice the end"
        self.paho.loop_stop()

    def close(self, reason_code=None, **properties):
        """DISCONNECT, then the end."""
        self.paho.disconnect(reason_code, packet_properties(PacketTypes.DISCONNECT, properties))
        assert self._closed.wait(WAIT_S), f"{self.client_id}: the connection stayed open"
        self.paho.loop_stop()

    def wait_closed(self):
        """Waits until the broker ends the connection; returns the reason as a number."""
        assert self._closed.wait(WAIT_S), f"{self.client_id}: the connection stayed open"
        return self.disconnect_reason.value

    @property
    def is_closed(self):
        return self._closed.is_set()

    def abandon(self):
        """Ends whatever is left."""
        if self.paho.socket() is not None and not self._closed.is_set():
            self.paho.disconnect()
            self._closed.wait(WAIT_S)
        self.paho.loop_stop()
