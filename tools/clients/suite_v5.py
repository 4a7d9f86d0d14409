"""What MQTT 5 brought: paho-mqtt against the broker."""

from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.packettypes import PacketTypes

from lab import V5, V311, Suite, Will

SUITE = Suite()
TIMED = ("mqtt",)


def check(transports=("mqtt", "wss")):
    return SUITE.check((V5,), transports)


@check()
def connack_tells_the_limits(lab):
    connack = lab.client(properties={"RequestResponseInformation": 1}).connack
    assert connack.get("MaximumPacketSize", 0) >= 1_000_000
    assert 0 < connack.get("ReceiveMaximum", 65_535) <= 65_535
    assert connack.get("TopicAliasMaximum", 0) > 0


@check()
def properties_travel_unaltered_and_in_order(lab):
    subscriber, publisher = lab.pair(lab.topic("x"))
    sent = {
        "PayloadFormatIndicator": 1,
        "ContentType": "text/plain; charset=utf-8",
        "ResponseTopic": lab.topic("answer"),
        "CorrelationData": b"\x00\xff\x10",
        "UserProperty": [("a", "1"), ("b", ""), ("a", "2"), ("é", "🐦")],
    }
    for qos in (0, 1, 2):
        publisher.publish(lab.topic("x"), "text", qos, **sent)
        got = subscriber.receive().properties
        got.pop("TopicAlias", None)
        assert got == sent, got


@check()
def requests_find_their_answers(lab):
    server, client = lab.client("server"), lab.client("client")
    server.subscribe(lab.topic("service/+"), 1)
    client.subscribe(lab.topic("answers/me"), 1)
    for number in range(20):
        client.send(lab.topic("service/add"), f"{number}", 1,
                    ResponseTopic=lab.topic("answers/me"), CorrelationData=b"%d" % number)
    for _ in range(20):
        request = server.receive()
        server.send(request.properties["ResponseTopic"], str(int(request.text) + 1), 1,
                    CorrelationData=request.properties["CorrelationData"])
    for _ in range(20):
        answer = client.receive()
        assert int(answer.text) == int(answer.properties["CorrelationData"]) + 1


@check(TIMED)
def will_waits_for_its_delay(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will/+"), 1)
    for name, delay in (("late", 2), ("soon", 1), ("at once", 0)):
        will = Will(lab.topic(f"will/{name}"), name.encode(), 1,
                    properties={"WillDelayInterval": delay, "UserProperty": [("k", "v")]})
        lab.client(name, will=will, expiry=100).drop()
    got = [watcher.receive() for _ in range(3)]
    assert [m.text for m in got] == ["at once", "soon", "late"]
    assert all(m.properties["UserProperty"] == [("k", "v")] for m in got)


@check(TIMED)
def coming_back_in_time_cancels_a_delayed_will(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will/+"), 1)
    will = Will(lab.topic("will/short"), b"never", 1, properties={"WillDelayInterval": 1})
    lab.client("short", will=will, expiry=100).drop()
    lab.client("short", clean=False, expiry=100)
    will = Will(lab.topic("will/bell"), b"bell", 1, properties={"WillDelayInterval": 2})
    lab.client("bell", will=will, expiry=100).drop()
    watcher.expect("bell")


@check(TIMED)
def will_comes_at_the_latest_when_the_session_ends(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will"), 1)
    will = Will(lab.topic("will"), b"session over", 1, properties={"WillDelayInterval": 1000})
    lab.client("mortal", clean=False, will=will, expiry=1).drop()
    watcher.expect("session over")
    again = lab.client("mortal", clean=False, expiry=1)
    assert not again.session_present


@check(TIMED)
def a_clean_start_publishes_the_waiting_will(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will"), 1)
    will = Will(lab.topic("will"), b"old session", 1, properties={"WillDelayInterval": 1000})
    lab.client("reborn", will=will, expiry=1000).drop()
    lab.client("reborn", clean=True)
    watcher.expect("old session")


@check()
def disconnect_with_0x04_publishes_the_will(lab):
    watcher = lab.client("watcher")
    watcher.subscribe(lab.topic("will/+"), 1)
    lab.client("calm", will=Will(lab.topic("will/calm"), b"never", 1)).close()
    leaving = lab.client("leaving", will=Will(lab.topic("will/leaving"), b"bye", 1))
    leaving.close(ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
    watcher.expect("bye")


@check(TIMED)
def session_ends_after_its_expiry(lab):
    short = lab.client("short", clean=False, expiry=1)
    short.subscribe(lab.topic("x"), 1)
    short.close()
    long = lab.client("long", clean=False, expiry=0xFFFFFFFF)
    long.subscribe(lab.topic("x"), 1)
    long.close()
    now = lab.client("now", clean=False)
    now.close()
    lab.wait_for_broker_seconds(3)
    assert not lab.client("short", clean=False, expiry=1).session_present
    assert not lab.client("now", clean=False).session_present
    assert lab.client("long", clean=False, expiry=10).session_present


@check(TIMED)
def disconnect_may_change_the_session_expiry(lab):
    client = lab.client("c", clean=False, expiry=100)
    client.close(SessionExpiryInterval=0)
    assert not lab.client("c", clean=False, expiry=100).session_present


@check(TIMED)
def expired_messages_are_not_delivered(lab):
    subscriber = lab.mortal("sub", clean=False, expiry=100)
    subscriber.subscribe(lab.topic("x"), 1)
    # What has been sent never expires, so nothing may be sent any more.
    lab.vanish(subscriber)
    publisher = lab.client("pub")
    publisher.publish(lab.topic("x"), "short", 1, MessageExpiryInterval=1)
    publisher.publish(lab.topic("x"), "long", 1, MessageExpiryInterval=1000)
    publisher.publish(lab.topic("x"), "forever", 1)
    publisher.publish(lab.topic("r/short"), "short", 1, retain=True, MessageExpiryInterval=1)
    publisher.publish(lab.topic("r/long"), "long", 1, retain=True, MessageExpiryInterval=1000)
    lab.wait_for_broker_seconds(3)
    resumed = lab.client("sub", clean=False, expiry=100)
    long, forever = resumed.receive(), resumed.receive()
    assert (long.text, forever.text) == ("long", "forever"), (long, forever)
    assert 900 < long.properties["MessageExpiryInterval"] <= 998, long.properties
    assert "MessageExpiryInterval" not in forever.properties
    resumed.subscribe(lab.topic("r/+"), 1)
    kept = resumed.receive()
    assert kept.text == "long" and 900 < kept.properties["MessageExpiryInterval"] <= 998, kept
    publisher.publish(lab.topic("r/long"), b"", 1, retain=True)
    assert resumed.receive().payload == b""


@check()
def topic_aliases_of_the_client_work(lab):
    subscriber, publisher = lab.pair(lab.topic("+"), 1)
    publisher.publish(lab.topic("a"), "1", 1, TopicAlias=1)
    publisher.publish(lab.topic("b"), "2", 1, TopicAlias=2)
    publisher.publish("", "3", 1, TopicAlias=1)
    publisher.publish(lab.topic("c"), "4", 1, TopicAlias=1)
    publisher.publish("", "5", 1, TopicAlias=1)
    publisher.send("", "6", TopicAlias=2)
    got = [(m.topic, m.text) for m in (subscriber.receive() for _ in range(6))]
    wanted = zip("abaccb", "123456")
    assert got == [(lab.topic(topic), text) for topic, text in wanted], got


@check()
def topic_aliases_of_the_broker_stay_within_the_clients_maximum(lab):
    subscriber = lab.client("sub", properties={"TopicAliasMaximum": 3})
    subscriber.subscribe(lab.topic("#"), 1)
    none = lab.client("none")
    none.subscribe(lab.topic("#"), 1)
    publisher = lab.client("pub")
    topics = [lab.topic(f"{number % 5}") for number in range(40)]
    for topic in topics:
        publisher.send(topic, topic, 1)
    got = [subscriber.receive() for _ in topics]
    assert [m.topic for m in got] == topics and [m.text for m in got] == topics
    assert all(0 < m.properties.get("TopicAlias", 1) <= 3 for m in got)
    assert all("TopicAlias" not in none.receive().properties for _ in topics)


@check()
def receive_maximum_of_the_client_is_kept(lab):
    subscriber = lab.client("sub", manual_ack=True, properties={"ReceiveMaximum": 2})
    subscriber.subscribe(lab.topic("x"), 1)
    subscriber.subscribe(lab.topic("zero"), 0)
    publisher = lab.client("pub")
    for number in range(6):
        publisher.publish(lab.topic("x"), f"{number}", 1)
    publisher.publish(lab.topic("zero"), "passes", 1)
    got = [subscriber.receive() for _ in range(3)]
    assert sorted(m.text for m in got) == ["0", "1", "passes"]
    unacknowledged = [m for m in got if m.qos == 1]
    for number in range(2, 6):
        subscriber.acknowledge(unacknowledged.pop(0))
        unacknowledged.append(subscriber.receive())
        assert unacknowledged[-1].text == f"{number}"
        # The broker answers this after whatever else it would have sent.
        subscriber.subscribe(lab.topic("barrier"), 0)
        assert subscriber.messages.empty()


@check()
def maximum_packet_size_of_the_client_is_kept(lab):
    subscriber = lab.client("sub", properties={"MaximumPacketSize": 200, "ReceiveMaximum": 2})
    subscriber.subscribe(lab.topic("x"), 2)
    publisher = lab.client("pub")
    for qos in (0, 1, 2, 0, 1, 2, 1, 1):
        publisher.publish(lab.topic("x"), "y" * 300, qos)
    for qos in (0, 1, 2):
        publisher.publish(lab.topic("x"), f"small {qos}", qos)
    subscriber.expect("small 0", "small 1", "small 2")


@check()
def subscription_identifiers_come_with_the_messages(lab):
    subscriber, publisher = lab.client("sub"), lab.client("pub")
    subscriber.subscribe(lab.topic("a/+"), 1, identifier=1)
    subscriber.subscribe(lab.topic("a/b"), 2, identifier=268_435_455)
    subscriber.subscribe(lab.topic("a/#"), 0)
    publisher.publish(lab.topic("a/b"), "both", 2)
    got = subscriber.receive()
    publisher.publish(lab.topic("a/end"), "end", 2)
    rest = []
    while (message := subscriber.receive()).text != "end":
        rest.append(message)
    found = [i for m in [got, *rest] for i in m.properties.get("SubscriptionIdentifier", [])]
    assert sorted(found) == [1, 268_435_455]
    assert max(m.qos for m in [got, *rest]) == 2
    assert message.properties["SubscriptionIdentifier"] == [1]


@check()
def subscribing_again_replaces_options_and_identifier(lab):
    subscriber, publisher = lab.client("sub"), lab.client("pub")
    subscriber.subscribe(lab.topic("x"), 2, identifier=7)
    assert subscriber.subscribe(lab.topic("x"), 0, identifier=8) == [0]
    publisher.publish(lab.topic("x"), "once", 2)
    publisher.publish(lab.topic("x"), "end", 2)
    got = [subscriber.receive(), subscriber.receive()]
    assert [(m.text, m.qos) for m in got] == [("once", 0), ("end", 0)]
    assert got[0].properties["SubscriptionIdentifier"] == [8]


@check()
def no_local_keeps_own_messages_away(lab):
    client, other = lab.client("c"), lab.client("other")
    client.subscribe(lab.topic("x"), 1, noLocal=True)
    client.publish(lab.topic("x"), "own", 1)
    other.publish(lab.topic("x"), "foreign", 1)
    client.expect("foreign")


@check()
def retain_handling_and_retain_as_published(lab):
    publisher = lab.client("pub")
    publisher.publish(lab.topic("r"), "kept", 1, retain=True)
    client = lab.client("c")
    client.subscribe(lab.topic("r"), 1, retainHandling=1)
    client.expect("kept")
    client.subscribe(lab.topic("r"), 1, retainHandling=1)
    client.subscribe(lab.topic("r"), 1, retainHandling=2, retainAsPublished=True)
    publisher.publish(lab.topic("r"), "new", 1, retain=True)
    message = client.receive()
    assert (message.text, message.retain) == ("new", True)
    client.subscribe(lab.topic("r"), 1, retainHandling=2)
    publisher.publish(lab.topic("r"), "newer", 1, retain=True)
    message = client.receive()
    assert (message.text, message.retain) == ("newer", False)
    publisher.publish(lab.topic("r"), b"", 1, retain=True)


@check()
def retained_keeps_its_properties(lab):
    publisher = lab.client("pub")
    publisher.publish(lab.topic("r"), "kept", 1, retain=True, ContentType="x/y",
                      UserProperty=[("k", "v")])
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("r"), 1, identifier=5)
    got = subscriber.receive()
    assert got.retain and got.properties["ContentType"] == "x/y"
    assert got.properties["UserProperty"] == [("k", "v")]
    assert got.properties["SubscriptionIdentifier"] == [5]
    publisher.publish(lab.topic("r"), b"", 1, retain=True)


@check()
def shared_subscriptions_get_no_retained_messages(lab):
    publisher = lab.client("pub")
    publisher.publish(lab.topic("r"), "kept", 1, retain=True)
    member = lab.client("member")
    member.subscribe("$share/g/" + lab.topic("r"), 1)
    publisher.publish(lab.topic("r"), "live", 1)
    message = member.receive()
    assert (message.text, message.retain) == ("live", False)
    publisher.publish(lab.topic("r"), b"", 1, retain=True)


@check(TIMED)
def shared_messages_of_a_gone_member_reach_another(lab):
    filter_ = "$share/g/" + lab.topic("jobs")
    leaving = lab.client("leaving", manual_ack=True)
    leaving.subscribe(filter_, 1)
    publisher = lab.client("pub")
    for number in range(10):
        publisher.publish(lab.topic("jobs"), f"{number}", 1)
    assert leaving.receive_texts(10) == [f"{number}" for number in range(10)]
    staying = lab.client("staying")
    staying.subscribe(filter_, 1)
    leaving.drop()
    assert sorted(staying.receive_texts(10), key=int) == [f"{number}" for number in range(10)]


@check(TIMED)
def shared_messages_go_to_members_that_are_online(lab):
    filter_ = "$share/g/" + lab.topic("jobs")
    away = lab.mortal("away", clean=False, expiry=100)
    away.subscribe(filter_, 1)
    online = lab.client("online")
    online.subscribe(filter_, 1)
    lab.vanish(away)
    publisher = lab.client("pub")
    for number in range(20):
        publisher.publish(lab.topic("jobs"), f"{number}", 1)
    assert online.receive_texts(20) == [f"{number}" for number in range(20)]


@check()
def reason_codes_of_acknowledgements(lab):
    client = lab.client("c")
    assert client.publish(lab.topic("nobody"), "x", 1) == 0x10
    assert client.publish(lab.topic("nobody"), "x", 2) in (0x00, 0x10)
    assert client.unsubscribe([lab.topic("none"), lab.topic("none/#")]) == [0x11, 0x11]
    codes = client.subscribe([lab.topic("a"), lab.topic("b/+"), lab.topic("c/#")], 2)
    assert codes == [2, 2, 2]
    assert client.unsubscribe([lab.topic("a"), lab.topic("none")]) == [0x00, 0x11]


@check(TIMED)
def a_session_may_pass_between_versions(lab):
    modern = lab.client("c", clean=False, expiry=300)
    modern.subscribe(lab.topic("x"), 1, identifier=9)
    modern.close()
    publisher = lab.client("pub")
    publisher.publish(lab.topic("x"), "queued", 1, UserProperty=[("k", "v")])
    old = lab.client("c", version=V311, clean=False)
    assert old.session_present
    old.expect("queued")
    old.close()
    publisher.publish(lab.topic("x"), "again", 1, UserProperty=[("k", "v")])
    modern = lab.client("c", clean=False, expiry=300)
    message = modern.receive()
    assert message.text == "again" and message.properties["UserProperty"] == [("k", "v")]
