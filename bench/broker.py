"""Starts brokers for measurements and reads what the kernel says of them."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PETREL = ROOT / "target/release/petrel"
BENCH = ROOT / "target/release/petrel-bench"
# A million connections are not closed in a moment.
STOP_LONGEST_S = 300
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def petrel(shards=1, runtime="auto", cpu=None, record_layer=None, more="", lines=None):
    """Runs Petrel; yields its process and its address: MQTT, or MQTT over TLS with a record layer.

    `more` goes into the configuration. What it says at its end is added to `lines`.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "petrel.toml"
        listener = '[[listener]]\nprotocol = "mqtt"\naddress = "127.0.0.1:0"\n'
        if record_layer:
            certificate(folder)
            listener = (
                '[[listener]]\nprotocol = "mqtts"\naddress = "127.0.0.1:0"\n'
                'cert = "server.pem"\nkey = "server.key"\n'
                f'record_layer = "{record_layer}"\n'
            )
        config.write_text(
            f'[engine]\nshards = {shards}\nruntime = "{runtime}"\n' + listener + more
        )
        command = pinned([str(PETREL), "--config", str(config)], cpu)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        address = None
        for line in process.stderr:
            found = re.search(r"(127\.0\.0\.1:\d+)", line)
            address = address or (found and found.group(1))
            if "ready" in line:
                break
        try:
            if address is None:
                raise RuntimeError("Petrel did not start")
            yield process, address
        finally:
            process.terminate()
            said = process.communicate(timeout=STOP_LONGEST_S)[1]
            if lines is not None:
                lines.extend(said.splitlines())


@contextlib.contextmanager
def mosquitto(cpu=None, tls=False, more=""):
    """Runs Mosquitto with the settings that let it show its best; None if it is not installed.

    `more` goes into the configuration.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "mosquitto.conf"
        files = ""
        if tls:
            certificate(folder)
            files = f"certfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
            # It gives up being root, and then may not read a folder of root's.
            files += "user root\n"
        if more:
            files += f"user root\n{more}"
        config.write_text(
            f"listener {port} 127.0.0.1\n{files}allow_anonymous true\nset_tcp_nodelay true\n"
            "max_queued_messages 0\nmax_inflight_messages 1000\nmax_connections -1\n"
            "log_dest none\n"
        )
        process = subprocess.Popen(pinned([program, "-c", str(config)], cpu))
        try:
            wait_for_port(port)
            yield process, f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=STOP_LONGEST_S)


@contextlib.contextmanager
def floor_tls(cpu=None):
    """Runs a server of TLS handshakes and nothing else; yields its process and its address."""
    with tempfile.TemporaryDirectory() as folder:
        certificate(folder)
        command = pinned([str(BENCH), "floor-tls", folder], cpu)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(timeout=STOP_LONGEST_S)


@contextlib.contextmanager
def floor_relay(cpu=None, tls=False):
    """Runs a relay of what publishers send and nothing else; yields its process and its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(BENCH), "floor-relay"]
        if tls:
            certificate(folder)
            command.append(folder)
        process = subprocess.Popen(pinned(command, cpu), stdout=subprocess.PIPE, text=True)
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(timeout=STOP_LONGEST_S)


def pair(running, cpu=None, **options):
    """One run of `petrel-bench pair` against a broker or a floor; what it prints, as numbers.

    An option is named as on the command line, and is True if it has no value. `cpu_us` is the CPU time
    of the broker for each message that has arrived, `sleeps_each` how often it went to sleep for each.
    """
    process, address = running
    command = [str(BENCH), "pair", "--address", address, "--broker-pid", str(process.pid)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    run = subprocess.run(pinned(command, cpu), stdout=subprocess.PIPE, text=True, timeout=300)
    if run.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    words = run.stdout.split()
    figures = {name: float(value) for name, value in zip(words[::2], words[1::2])}
    if figures["out_of_order"]:
        raise SystemExit(f"out of order: {figures}")
    figures["cpu_us"] = figures["broker_cpu_ns"] / figures["messages"] / 1000
    figures["sleeps_each"] = figures["broker_sleeps"] / figures["messages"]
    figures["per_read"] = figures["messages"] / max(figures["reads"], 1)
    figures["per_write"] = figures["sent"] / max(figures["writes"], 1)
    return figures


def certificate(folder):
    """Writes server.pem and server.key, ECDSA P-256."""
    subprocess.run([str(BENCH), "certificate", str(folder)], check=True)


def pinned(command, cpu):
    return command if cpu is None else ["taskset", "-c", str(cpu), *command]


def wait_for_port(port, longest_s=30):
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}")


def cpu_seconds(pid):
    """User and system time of a process, children not counted."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_ns(pid):
    """Time that the threads of a process have run, to the nanosecond."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def memory_bytes(pid):
    """Private memory of a process: what would be free without it."""
    total = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total
