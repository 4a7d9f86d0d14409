"""Programs that people type, petrelctl and Mosquitto's: they exchange messages with paho-mqtt.

Both know the same options, so the same checks run with both.
"""

import subprocess
import threading

from lab import V5, V311, Suite, Will

SUITE = Suite()
TIMEOUT_S = 20
NOBODY = 0x10  # No matching subscribers.
VERSION_OPTIONS = {V311: "311", V5: "5"}


class Program:
    """`pub` and `sub` of one family: the first words of their command lines."""

    def __init__(self, name, pub, sub, websocket):
        self.name = name
        self._pub = pub
        self._sub = sub
        self.has_websocket = websocket

    def _command(self, words, lab, options):
        endpoint = lab.broker.endpoint(lab.protocol)
        command = [*words, "-V", VERSION_OPTIONS[lab.version]]
        if endpoint.is_websocket:
            command += ["--ws"]
        command += ["-h", endpoint.host, "-p", str(endpoint.port)]
        if endpoint.is_tls:
            command += ["--cafile", str(lab.broker.certificates.ca)]
        return command + [str(option) for option in options]

    def pub(self, lab, *options, data=b""):
        """Runs to its end; returns its exit code and what it said."""
        done = subprocess.run(self._command(self._pub, lab, options), input=data,
                              capture_output=True, timeout=TIMEOUT_S)
        return done.returncode, (done.stdout + done.stderr).decode()

    def publish(self, lab, *options, data=b""):
        code, said = self.pub(lab, *options, data=data)
        assert code == 0, f"exit code {code}: {said}"

    def sub(self, lab, *options):
        return Listener(self._command(self._sub, lab, options))


class Listener:
    """A running `sub`, its lines as they come."""

    def __init__(self, command):
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._deadline = threading.Timer(TIMEOUT_S, self._process.kill)
        self._deadline.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._deadline.cancel()
        self._process.kill()
        self._process.communicate()

    def expect(self, *lines):
        got = [self._process.stdout.readline().decode().rstrip("\n") for _ in lines]
        if got != list(lines):
            self._process.kill()
            said = self._process.stderr.read().decode()
            raise AssertionError(f"{got} in place of {list(lines)}; {said}")

    def expect_end(self):
        code = self._process.wait(TIMEOUT_S)
        assert code == 0, f"exit code {code}: {self._process.stderr.read().decode()}"


def check(protocols=("mqtt",), versions=(V311, V5)):
    return SUITE.check(versions, protocols)


def announce(lab):
    """A retained message: whoever prints it has been subscribed."""
    hello = lab.topic("hello")
    lab.client("announcer").publish(hello, "hello", 1, retain=True)
    return hello


@check(("mqtt", "mqtts", "ws", "wss"))
def what_it_publishes_arrives(lab):
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("+"), 2)
    for qos in (0, 1, 2):
        lab.program.publish(lab, "-t", lab.topic("x"), "-m", f"text {qos} é", "-q", qos)
        message = subscriber.receive()
        assert (message.text, message.qos, message.retain) == (f"text {qos} é", qos, False)


@check(("mqtt", "mqtts", "ws", "wss"))
def it_prints_what_is_published(lab):
    hello, publisher = announce(lab), lab.client("pub")
    for qos in (0, 1, 2):
        options = ("-t", hello, "-t", lab.topic("x/#"), "-q", qos, "-C", 3)
        with lab.program.sub(lab, *options) as listener:
            listener.expect("hello")
            publisher.publish(lab.topic("x/1"), "one", qos)
            publisher.publish(lab.topic("x"), "two", qos)
            listener.expect("one", "two")
            listener.expect_end()


@check()
def both_ends_meet(lab):
    hello = announce(lab)
    with lab.program.sub(lab, "-v", "-t", hello, "-t", lab.topic("x"), "-q", 2) as listener:
        listener.expect(f"{hello} hello")
        lab.program.publish(lab, "-t", lab.topic("x"), "-m", "met", "-q", 2)
        listener.expect(f"{lab.topic('x')} met")


@check()
def retained_is_set_and_cleared(lab):
    lab.program.publish(lab, "-t", lab.topic("r"), "-m", "kept", "-r", "-q", 1)
    with lab.program.sub(lab, "-t", lab.topic("r"), "-C", 1) as listener:
        listener.expect("kept")
        listener.expect_end()
    lab.program.publish(lab, "-t", lab.topic("r"), "-n", "-r", "-q", 1)
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("+"), 1)
    lab.client("pub").publish(lab.topic("end"), "end", 1)
    subscriber.expect("end")


@check()
def standard_input_goes_line_by_line_or_whole(lab):
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("x"), 1)
    lab.program.publish(lab, "-t", lab.topic("x"), "-l", "-q", 1, data=b"one\ntwo\nthree\n")
    subscriber.expect("one", "two", "three")
    lab.program.publish(lab, "-t", lab.topic("x"), "-s", "-q", 1, data=b"one\ntwo\n")
    subscriber.expect("one\ntwo\n")


@check(versions=(V5,))
def properties_are_sent(lab):
    subscriber = lab.client("sub")
    subscriber.subscribe(lab.topic("x"), 1)
    lab.program.publish(lab, "-t", lab.topic("x"), "-m", "text", "-q", 1,
                        "-D", "publish", "user-property", "k", "v",
                        "-D", "publish", "content-type", "text/plain",
                        "-D", "publish", "message-expiry-interval", 100)
    got = subscriber.receive().properties
    assert got["UserProperty"] == [("k", "v")] and got["ContentType"] == "text/plain"
    assert 0 < got["MessageExpiryInterval"] <= 100


@check()
def a_shared_job_and_a_will_reach_it(lab):
    hello = announce(lab)
    filters = ("-t", "$share/g/" + lab.topic("jobs"), "-t", lab.topic("will"))
    with lab.program.sub(lab, *filters, "-t", hello, "-q", 1) as listener:
        listener.expect("hello")
        # A retained message may precede SUBACK, which waits for the owner of the group.
        publisher = lab.client("pub", version=V5)
        tries = range(10_000)
        assert any(publisher.publish(lab.topic("jobs"), "job", 1) != NOBODY for _ in tries)
        listener.expect("job")
        lab.client("dying", will=Will(lab.topic("will"), b"gone", 1)).drop()
        listener.expect("gone")


@check()
def failure_is_told_by_the_exit_code(lab):
    code, said = lab.program.pub(lab, "-t", lab.topic("a/#"), "-m", "x")
    assert code != 0 and said
