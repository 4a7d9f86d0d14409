"""What every version of MQTT has, over every transport: paho-mqtt against the broker."""

import threading

from paho.mqtt.client import topic_matches_sub

from lab import V5, V31, V311, Suite, Will

SUITE = Suite()
MESSAGES = 100
LARGE_BYTES = 900_000


@SUITE.check()
def qos_0_1_and_2_arrive_once_and_in_order(lab):
    for qos in (0, 1, 2):
        subscriber = lab.client(f"sub{qos}")
        assert subscriber.subscribe(lab.topic(f"{qos}/+"), qos) == [qos]
        publisher = lab.client(f"pub{qos}")
        sent = [f"{number}" for number in range(MESSAGES)]
        mids = [publisher.send(lab.topic(f"{qos}/x"), text, qos) for text in sent]
        if qos > 0:
            for mid in mids:
                assert publisher.acknowledged(mid) == 0
        got = [subscriber.receive() for _ in sent]
        assert [message.text for message in got] == sent
        assert {(m.qos, m.retain, m.dup) for m in got} == {(qos, False, False)}


@SUITE.check(transports=("mqtt",))
def delivered_qos_is_the_lower_of_both(lab):
    publisher = lab.client("pub")
    for granted in (0, 1, 2):
        subscriber = lab.client(f"sub{granted}")
        assert subscriber.subscribe(lab.topic("x"), granted) == [granted]
    for published in (0, 1, 2):
        publisher.publish(lab.topic("x"), f"{published}", published)
    for granted, subscriber in enumerate(lab._clients[1:]):
        got = [subscriber.receive() for _ in range(3)]
        assert [m.text for m in got] == ["0", "1", "2"]
        assert [m.qos for m in got] == [min(granted, published) for published in (0, 1, 2)]


@SUITE.check()
def large_and_empty_payloads(lab):
    subscriber, publisher = lab.pair(lab.topic("#"))
    large = bytes(range(256)) * (LARGE_BYTES // 256)
    for qos in (0, 1, 2):
        publisher.publish(lab.topic("large"), large, qos)
        publisher.publish(lab.topic("empty"), b"", qos)
        for payload in (large, b""):
            message = subscriber.receive()
            assert message.qos == qos and message.payload == payload


@SUITE.check()
def many_sizes_around_the_borders_of_the_length_field(lab):
    subscriber, publisher = lab.pair(lab.topic("#"))
    sizes = [0, 1, 100, 125, 126, 127, 128, 129, 16_000, 16_383, 16_384, 65_535, 65_536]
    for size in sizes:
        publisher.send(lab.topic("x"), b"s" * size)
    assert [len(subscriber.receive().payload) for _ in sizes] == sizes


@SUITE.check()
def retained_is_set_replaced_and_cleared(lab):
    publisher = lab.client("pub")
    for qos, text in ((0, "first"), (1, "second"), (2, "third")):
        publisher.publish(lab.topic("r/a"), text, qos, retain=True)
    publisher.publish(lab.topic("r/b"), "other", 1, retain=True)
    publisher.publish(lab.topic("r/b"), "not kept", 1)
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("r/+"), 1)
    got = sorted((subscriber.receive() for _ in range(2)), key=lambda m: m.topic)
    assert [(m.text, m.qos, m.retain) for m in got] == [("third", 1, True), ("other", 1, True)]
    publisher.publish(lab.topic("r/a"), b"", 1, retain=True)
    message = subscriber.receive()
    assert (message.payload, message.retain) == (b"", False)
    late = lab.client("late")
    late.subscribe(lab.topic("r/#"), 2)
    assert late.receive().text == "other"
    publisher.publish(lab.topic("r/end"), "end", 1)
    late.expect("end")
    publisher.publish(lab.topic("r/b"), b"", 1, retain=True)


@SUITE.check(transports=("mqtt", "ws"))
def subscribing_again_brings_retained_again(lab):
    publisher = lab.client("pub")
    publisher.publish(lab.topic("r"), "kept", 1, retain=True)
    subscriber = lab.client("sub")
    for _ in range(3):
        subscriber.subscribe(lab.topic("r"), 1)
        message = subscriber.receive()
        assert (message.text, message.retain) == ("kept", True)
    publisher.publish(lab.topic("r"), b"", 1, retain=True)


@SUITE.check(transports=("mqtt", "mqtts"))
def many_retained_messages_meet_one_wildcard(lab):
    publisher, count = lab.client("pub"), 300
    topics = {lab.topic(f"many/{number}/{number % 7}") for number in range(count)}
    for mid in [publisher.send(topic, topic, 1, retain=True) for topic in topics]:
        publisher.acknowledged(mid)
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("many/#"), 1)
    got = [subscriber.receive() for _ in topics]
    assert {m.topic for m in got} == topics and all(m.retain for m in got)
    for mid in [publisher.send(topic, b"", 1, retain=True) for topic in topics]:
        publisher.acknowledged(mid)


@SUITE.check()
def will_is_published_when_the_network_breaks(lab):
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("will"), 2)
    for qos in (0, 1, 2):
        dying = lab.client("dying", will=Will(lab.topic("will"), b"gone %d" % qos, qos))
        dying.drop()
        message = subscriber.receive()
        assert (message.text, message.qos, message.retain) == (f"gone {qos}", qos, False)


@SUITE.check(transports=("mqtt", "wss"))
def will_is_not_published_after_disconnect(lab):
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("will/+"), 1)
    lab.client("calm", will=Will(lab.topic("will/calm"), b"never", 1)).close()
    lab.client("dying", will=Will(lab.topic("will/dying"), b"gone", 1)).drop()
    subscriber.expect("gone")


@SUITE.check(transports=("mqtt",))
def will_can_be_retained(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will"), 1)
    lab.client("dying", will=Will(lab.topic("will"), b"gone", 1, retain=True)).drop()
    watcher.expect("gone")
    late = lab.client("late")
    late.subscribe(lab.topic("will"), 1)
    message = late.receive()
    assert (message.text, message.retain) == ("gone", True)
    late.publish(lab.topic("will"), b"", 1, retain=True)


@SUITE.check(transports=("mqtt",))
def will_is_published_when_keep_alive_runs_out(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will"), 1)
    silent = lab.new("silent", will=Will(lab.topic("will"), b"silent", 1), keepalive=1)
    silent.paho._check_keepalive = lambda: None
    silent.connect()
    watcher.expect("silent")


def persistent(lab, name):
    """A client whose session outlives its connection."""
    if lab.version == V5:
        return lab.client(name, clean=False, expiry=300)
    return lab.client(name, clean=False)


@SUITE.check()
def session_keeps_subscriptions_and_queue_in_order(lab):
    subscriber = persistent(lab, "sub")
    assert not subscriber.session_present
    subscriber.subscribe([lab.topic("q/1"), lab.topic("q/2")], 2)
    subscriber.close()
    publisher = lab.client("pub")
    for number in range(MESSAGES):
        publisher.publish(lab.topic(f"q/{1 + number % 2}"), f"{number}", 1 + number % 2)
    resumed = persistent(lab, "sub")
    assert resumed.session_present or lab.version == V31
    got = [resumed.receive() for _ in range(MESSAGES)]
    for qos in (1, 2):
        numbers = [int(m.text) for m in got if m.qos == qos]
        assert numbers == list(range(qos - 1, MESSAGES, 2)), f"QoS {qos}: {numbers}"
    publisher.publish(lab.topic("q/1"), "live", 1)
    resumed.expect("live")


@SUITE.check(transports=("mqtt", "wss"))
def unacknowledged_messages_come_again_on_resume(lab):
    options = {"clean": False, "manual_ack": True}
    if lab.version == V5:
        options["expiry"] = 300
    subscriber = lab.mortal("sub", **options)
    subscriber.subscribe(lab.topic("x"), 1)
    publisher = lab.client("pub")
    for text in ("a", "b", "c"):
        publisher.publish(lab.topic("x"), text, 1)
    first = [subscriber.receive() for _ in range(3)]
    subscriber.acknowledge(first[0])
    # The answer to this comes after the broker has read the acknowledgement.
    subscriber.subscribe(lab.topic("barrier"), 0)
    lab.vanish(subscriber)
    publisher.publish(lab.topic("x"), "d", 1)
    resumed = lab.client("sub", **options)
    again = [resumed.receive() for _ in range(3)]
    got = [(m.text, m.dup) for m in again]
    assert got == [("b", True), ("c", True), ("d", False)], got
    assert [m.mid for m in again[:2]] == [m.mid for m in first[1:]]
    for message in again:
        resumed.acknowledge(message)


@SUITE.check(transports=("mqtt", "ws"))
def clean_session_forgets_the_old_one(lab):
    subscriber = persistent(lab, "sub")
    subscriber.subscribe(lab.topic("x"), 1)
    subscriber.close()
    fresh = lab.client("sub")
    assert not fresh.session_present
    fresh.close()
    again = persistent(lab, "sub")
    assert not again.session_present
    publisher = lab.client("pub")
    publisher.publish(lab.topic("x"), "lost", 1)
    again.subscribe(lab.topic("y"), 1)
    publisher.publish(lab.topic("y"), "found", 1)
    again.expect("found")


@SUITE.check()
def the_second_connection_of_a_client_ends_the_first(lab):
    subscriber = persistent(lab, "twin")
    subscriber.subscribe(lab.topic("x"), 1)
    second = persistent(lab, "twin")
    assert second.session_present or lab.version == V31
    reason = subscriber.wait_closed()
    assert lab.version != V5 or reason == 0x8E
    lab.client("pub").publish(lab.topic("x"), "to the second", 1)
    second.expect("to the second")


@SUITE.check(transports=("mqtt",))
def of_many_connections_at_once_one_remains(lab):
    rivals = [lab.new("rival") for _ in range(12)]
    threads = [threading.Thread(target=rival.try_connect) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Only one of them can have its subscription answered and keep the connection.
    last = lab.client("rival")
    for rival in rivals:
        rival.wait_closed()
    last.subscribe(lab.topic("x"), 1)
    lab.client("pub").publish(lab.topic("x"), "last", 1)
    last.expect("last")


@SUITE.check()
def wildcards_meet_what_they_should(lab):
    subscriber, publisher = lab.client("sub"), lab.client("pub")
    filters = ["a/+/c", "a/#", "+/b", "+/+/c", "/b", "a/b", "+", "#", "a/+", "+/", "/+"]
    topics = ["a", "a/b", "a/b/c", "a//c", "a/b/c/d", "/b", "a/", "x", "a/c", "A/b", "aa/b/c"]
    end = f"{lab.prefix}-end"
    for filter_ in filters:
        wanted = [topic for topic in topics if topic_matches_sub(filter_, topic)]
        subscriber.subscribe([lab.topic(filter_), end], 1)
        for topic in topics:
            publisher.send(lab.topic(topic), topic, 1)
        publisher.publish(end, "end", 1)
        got = []
        while (message := subscriber.receive()).text != "end":
            got.append(message.text)
        assert got == wanted, f"{filter_}: {got}"
        subscriber.unsubscribe([lab.topic(filter_)])


@SUITE.check(transports=("mqtt",), alone=True)
def wildcards_at_the_front_leave_dollar_topics_alone(lab):
    name = lab.prefix
    everything = lab.client("everything")
    everything.subscribe(["#", f"+/{name}", f"+/{name}/#"], 1)
    dollar = lab.client("dollar")
    dollar.subscribe(f"$petrel/{name}", 1)
    publisher = lab.client("pub")
    publisher.publish(f"$petrel/{name}", "hidden", 1)
    dollar.expect("hidden")
    publisher.publish(f"plain/{name}", "end", 1)
    while (message := everything.receive()).text != "end":
        assert not message.topic.startswith("$"), message.topic
    if lab.version == V5:
        assert publisher.publish(f"$SYS/{name}", "forged", 1) >= 0x80


@SUITE.check()
def unsubscribe_ends_the_flow(lab):
    subscriber, publisher = lab.pair(lab.topic("+"), 1)
    subscriber.subscribe(lab.topic("keep/x"), 1)
    publisher.publish(lab.topic("x"), "before", 1)
    subscriber.expect("before")
    subscriber.unsubscribe([lab.topic("+")])
    publisher.publish(lab.topic("x"), "after", 1)
    publisher.publish(lab.topic("keep/x"), "end", 1)
    subscriber.expect("end")


@SUITE.check()
def topics_and_client_ids_may_be_any_text(lab):
    name = lab.client_id("Ω≈ç√ 日本語 🐦")
    subscriber = lab.client(client_id=name)
    topics = ["räksmörgås/日本語/🐦", "with space", "\ufefftopic", "a\u0301", "á", "/", "//"]
    publisher = lab.client("pub")
    for topic in topics:
        assert subscriber.subscribe(lab.topic(topic), 1) == [1]
    for topic in topics:
        publisher.publish(lab.topic(topic), topic, 1)
        message = subscriber.receive()
        assert (message.topic, message.text) == (lab.topic(topic), topic)


@SUITE.check(versions=(V311, V5))
def a_client_may_come_without_identifier(lab):
    first, second = lab.client(client_id=""), lab.client(client_id="")
    if lab.version == V5:
        names = {c.connack["AssignedClientIdentifier"] for c in (first, second)}
        assert len(names) == 2 and "" not in names
    first.subscribe(lab.topic("x"), 1)
    second.publish(lab.topic("x"), "hello", 1)
    first.expect("hello")


@SUITE.check(transports=("mqtt",))
def shared_subscription_gives_each_message_to_one_member(lab):
    if lab.version == V31:
        return
    members = [lab.client(f"member{number}") for number in range(6)]
    for member in members:
        assert member.subscribe("$share/group/" + lab.topic("jobs/#"), 1) == [1]
    other = lab.client("other")
    other.subscribe(lab.topic("jobs/+"), 1)
    publisher, count = lab.client("pub"), 240
    for mid in [publisher.send(lab.topic(f"jobs/{n % 5}"), f"{n}", 1) for n in range(count)]:
        publisher.acknowledged(mid)
    assert other.receive_texts(count) == [f"{n}" for n in range(count)]
    got = []
    for member in members:
        member.subscribe(lab.topic("end"), 1)
    publisher.publish(lab.topic("end"), "end", 1)
    shares = []
    for member in members:
        mine = []
        while (message := member.receive()).text != "end":
            mine.append(message.text)
        shares.append(len(mine))
        got += mine
    missing = count - len(got)
    for member in members:
        got += [member.receive().text for _ in range(member.messages.qsize())]
    assert sorted(got, key=int) == [f"{n}" for n in range(count)], (missing, shares)
    assert all(shares), f"somebody got nothing: {shares}"


@SUITE.check(transports=("mqtt",))
def many_publishers_and_subscribers_lose_nothing(lab):
    subscribers = [lab.client(f"sub{number}") for number in range(8)]
    for subscriber in subscribers:
        subscriber.subscribe(lab.topic("#"), 2)
    publishers = [lab.client(f"pub{number}") for number in range(8)]
    rounds = 40
    for number in range(rounds):
        for at, publisher in enumerate(publishers):
            publisher.send(lab.topic(f"{at}"), f"{number}", 1 + number % 2)
    for subscriber in subscribers:
        got = {}
        for _ in range(rounds * len(publishers)):
            message = subscriber.receive()
            got.setdefault((message.topic, message.qos), []).append(int(message.text))
        for (topic, qos), numbers in got.items():
            assert numbers == list(range(qos - 1, rounds, 2)), f"{topic} QoS {qos}: {numbers}"
        assert len(got) == 2 * len(publishers)


@SUITE.check(versions=(V311,), transports=("mqtt",))
def ipv6_works_too(lab):
    lab.host = "::1"
    if lab.broker.endpoint("mqtt", "::1") is None:
        return
    subscriber, publisher = lab.pair(lab.topic("x"))
    publisher.publish(lab.topic("x"), "six", 2)
    subscriber.expect("six")


@SUITE.check(transports=("mqtt",))
def versions_and_transports_meet(lab):
    kinds = [(v, p) for v in (V31, V311, V5) for p in ("mqtt", "mqtts", "ws", "wss")]
    clients = [lab.client(f"{p}{v}", version=v, protocol=p) for v, p in kinds]
    for client in clients:
        client.subscribe(lab.topic("all"), 2)
    for at, client in enumerate(clients):
        client.publish(lab.topic("all"), f"{at}", at % 3)
    for client in clients:
        got = [client.receive() for _ in clients]
        assert sorted(int(m.text) for m in got) == list(range(len(clients)))
        assert all(m.qos == int(m.text) % 3 for m in got)
