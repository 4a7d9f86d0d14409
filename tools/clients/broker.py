"""A broker as a child process, its listeners on free ports."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import trustme

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
PROTOCOLS = ("mqtt", "mqtts", "ws", "wss")
WS_PATH = "/mqtt"

BOUND = re.compile(r"\b(mqtts?|wss?)\b.*?(127\.0\.0\.1|\[::1\]):(\d+)")
ADMIN = re.compile(r"admin interface: (http://\S+)")
READY = re.compile(r"\bready\b")


@dataclass(frozen=True)
class Endpoint:
    """Where a listener really is."""

    protocol: str
    host: str
    port: int

    @property
    def is_tls(self):
        return self.protocol in ("mqtts", "wss")

    @property
    def is_websocket(self):
        return self.protocol in ("ws", "wss")


class Certificates:
    """A throw-away authority, and a certificate of it for this machine."""

    def __init__(self, folder):
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1", "::1")
        self.ca = Path(folder) / "ca.pem"
        self.cert = Path(folder) / "server.pem"
        self.key = Path(folder) / "server.key"
        authority.cert_pem.write_to_path(self.ca)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        server.private_key_pem.write_to_path(self.key)

    def context(self):
        """What a client needs to trust the server."""
        return ssl.create_default_context(cafile=self.ca)


RECORD_LAYERS = {"mqtts": "compact", "wss": "rustls"}


class Broker:
    """Starts `binary`, waits until it says that it is ready, and stops it by SIGTERM."""

    def __init__(self, binary, folder, certificates, shards=1, runtime="auto", limits=None, control=None):
        self.binary = Path(binary)
        self.certificates = certificates
        self.tls = certificates.context()
        self.name = f"{shards} shard{'s' if shards > 1 else ''}, runtime {runtime}"
        self.endpoints = []
        self.lines = []
        self._is_ready = False
        self._ready = threading.Event()
        config = Path(folder) / "petrel.toml"
        config.write_text(self._config(shards, runtime, limits or {}, control))
        self._start([binary, "--config", config])

    def _config(self, shards, runtime, limits, control):
        lines = ["[engine]", f"shards = {shards}", f'runtime = "{runtime}"']
        lines += [f'control = "{control}"'] if control else []
        lines.append("")
        lines += ["[admin]", 'address = "127.0.0.1:0"', ""]
        addresses = [(protocol, "127.0.0.1:0") for protocol in PROTOCOLS]
        if has_ipv6():
            addresses.append(("mqtt", "[::1]:0"))
        for protocol, address in addresses:
            lines += ["[[listener]]", f'protocol = "{protocol}"', f'address = "{address}"']
            if protocol in ("mqtts", "wss"):
                cert, key = self.certificates.cert, self.certificates.key
                lines += [f'cert = "{cert}"', f'key = "{key}"']
                # Each suite meets both record layers.
                lines.append(f'record_layer = "{RECORD_LAYERS[protocol]}"')
            lines.append("")
        lines.append("[limits]")
        lines += [f"{key} = {value}" for key, value in limits.items()]
        self.listeners = len(addresses)
        return "\n".join(lines) + "\n"

    def _start(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(START_TIMEOUT_S)
        if not self._is_ready or len(self.endpoints) < self.listeners:
            self.kill()
            raise RuntimeError("the broker did not become ready:\n" + "".join(self.lines))

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if self._ready.is_set():
                continue
            if READY.search(line):
                self._set_ready()
            elif bound := BOUND.search(line):
                protocol, host, port = bound.groups()
                self.endpoints.append(Endpoint(protocol, host.strip("[]"), int(port)))
        self._ready.set()

    def _set_ready(self):
        self._is_ready = True
        self._ready.set()

    def endpoint(self, protocol, host="127.0.0.1"):
        """The listener of `protocol`; None if the machine has no IPv6 and it was asked for."""
        found = (e for e in self.endpoints if (e.protocol, e.host) == (protocol, host))
        return next(found, None)

    @property
    def admin(self):
        """Where the admin interface is; None if there is none."""
        found = (ADMIN.search(line) for line in self.lines)
        return next((match.group(1) for match in found if match), None)

    @property
    def pid(self):
        return self.process.pid

    def is_alive(self):
        return self.process.poll() is None

    def rss_bytes(self):
        """Memory of the process that is in RAM now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self):
        """SIGTERM, then the exit code; None if the process had to be killed."""
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self._reader.join(STOP_TIMEOUT_S)
        return code

    def kill(self):
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def log(self, lines_max=200):
        return "".join(self.lines[-lines_max:])


class Mosquitto(Broker):
    """Mosquitto in Petrel's place, to hold the checks against a second opinion."""

    def _config(self, shards, runtime, limits):
        self.name = "mosquitto"
        lines = ["user root", "allow_anonymous true", "max_queued_messages 1000", "max_packet_size 1048576",
                 "max_inflight_messages 1000"]
        self.endpoints = [Endpoint(p, "127.0.0.1", free_port()) for p in PROTOCOLS]
        for endpoint in self.endpoints:
            lines.append(f"listener {endpoint.port} 127.0.0.1")
            if endpoint.is_websocket:
                lines.append("protocol websockets")
            if endpoint.is_tls:
                cert, key = self.certificates.cert, self.certificates.key
                lines += [f"certfile {cert}", f"keyfile {key}"]
        self.listeners = len(self.endpoints)
        return "\n".join(lines) + "\n"

    def _start(self, command):
        mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        super()._start([mosquitto, "-c", command[-1]])

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if re.search(r"version \S+ running", line):
                self._set_ready()
        self._ready.set()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False
