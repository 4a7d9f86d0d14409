"""What an operator does to a running broker, seen by its clients."""

import signal
import ssl
import subprocess
import time
import urllib.request

import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lab import V5, V31, V311, WAIT_S, Suite, Will

SUITE = Suite()


@SUITE.check(versions=(V5,), transports=("mqtts", "wss"), alone=True)
def certificates_are_read_again_on_sighup(lab):
    """New connections see the new certificate, old ones go on, a bad file changes nothing."""
    certificates = lab.broker.certificates
    files = {path: path.read_bytes() for path in (certificates.cert, certificates.key)}
    staying = lab.client("staying")
    staying.subscribe(lab.topic("x"), 1)
    authority = trustme.CA()
    renewed = authority.issue_cert("localhost", "127.0.0.1")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    try:
        certificates.key.write_text("no key at all")
        lab.broker.process.send_signal(signal.SIGHUP)
        lab.client("undisturbed")
        certificates.cert.write_bytes(b"".join(b.bytes() for b in renewed.cert_chain_pems))
        certificates.key.write_bytes(renewed.private_key_pem.bytes())
        lab.broker.process.send_signal(signal.SIGHUP)
        newcomer = connected_once_trusted(lab, trust)
        newcomer.publish(lab.topic("x"), "still here", 1)
        staying.expect("still here")
    finally:
        for path, content in files.items():
            path.write_bytes(content)
        lab.broker.process.send_signal(signal.SIGHUP)
        # The next check trusts the old one.
        connected_once_trusted(lab, None)


def connected_once_trusted(lab, trust):
    """A client, connected when the broker uses a certificate of an authority; of its first for None."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            client = lab.new("newcomer")
            if trust:
                client.paho._ssl_context = trust
            client.connect()
            return client
        except ssl.SSLError:
            assert time.monotonic() < deadline, "the certificate is not used"


@SUITE.check(versions=(V5,), transports=("mqtt", "wss"), alone=True)
def a_probe_says_what_it_sees(lab):
    """Its page is OpenMetrics to the same parser, with every family and step."""
    endpoint = lab.broker.endpoint(lab.protocol)
    command = [lab.broker.binary.with_name("petrelctl"), "probe", "--serve", "0", "--interval", "0.1"]
    command += ["-h", endpoint.host, "-p", str(endpoint.port)]
    if endpoint.is_tls:
        command += ["--ws", "--cafile", lab.broker.certificates.ca]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        try:
            page, deadline = probe.stdout.readline().strip(), time.monotonic() + WAIT_S
            families = {}
            while not families or families["petrel_probe_rounds"].samples[0].value < 2:
                assert time.monotonic() < deadline, families
                families = {family.name: family for family in parsed(page)}
            steps = {"connect", "subscribe", "publish", "round_trip"}
            assert families["petrel_probe_success"].samples[0].value == 1, families
            for name in ("petrel_probe_duration_seconds", "petrel_probe_failures"):
                samples = families[name].samples
                assert {sample.labels["step"] for sample in samples} == steps, samples
            failures = families["petrel_probe_failures"].samples
            assert not any(sample.value for sample in failures), failures
        finally:
            probe.terminate()
    assert probe.returncode == 0, probe.returncode


@SUITE.check(versions=(V5,), transports=("mqtt",), alone=True)
def metrics_can_be_read_and_add_up(lab):
    """After all other checks: the format is OpenMetrics, names follow its conventions, and what is held by
    the ledger is what a walk over all sessions finds."""
    if not lab.broker.admin:
        return
    lab.client("shown").publish(lab.topic("x"), "counted", 1)
    families, deadline = scraped(lab), time.monotonic() + WAIT_S
    while True:
        numbers = {}
        for family in families:
            for sample in family.samples:
                numbers[sample.name] = numbers.get(sample.name, 0) + sample.value
        number = lambda name: numbers[f"petrel_{name}"]
        found = number("queued_messages") + number("inflight_messages")
        # Each shard makes known what it has counted at a time of its own.
        if number("copies_held") == found and number("messages_received_total") > 0:
            break
        assert time.monotonic() < deadline, (found, numbers)
        families = scraped(lab)
    for family in families:
        assert family.name.startswith(("petrel_", "process_")), family.name
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        series = {
            tuple((name, value) for name, value in sample.labels.items() if name != "le")
            for sample in family.samples
        }
        assert len(series) <= 64, f"{family.name} has {len(series)} series"


def scraped(lab):
    """All families of metrics of the broker."""
    return parsed(f"{lab.broker.admin}/metrics")


def parsed(page):
    """All families of metrics of a page, by a parser that takes nothing that is not in the standard."""
    with urllib.request.urlopen(page, timeout=WAIT_S) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    return list(text_string_to_metric_families(text))


@SUITE.check(versions=(V5,), transports=("mqtt",), alone=True)
def sigterm_says_goodbye(lab):
    """The last check: MQTT 5 clients are told why, the others are closed, the exit code is 0."""
    modern = [lab.client(protocol, protocol=protocol) for protocol in ("mqtt", "wss")]
    old = [lab.client(f"old{version}", version=version) for version in (V31, V311)]
    lab.client("willing", will=Will(lab.topic("will"), b"stopped", 1))
    code = lab.broker.stop()
    assert code == 0, f"exit code {code}"
    assert [client.wait_closed() for client in modern] == [0x8B, 0x8B]
    for client in old:
        client.wait_closed()
