"""What a start over many sessions costs whose clients are away.

    make bench-restart            (SESSIONS=1000000 MESSAGES=10 ARGS="--shards 2 --lanes 1 --runs 3")

A folder is made by a shard and its lanes without sockets (engine/storage/examples/fill.rs): each client
subscribes to a topic of its own and leaves, then each gets its messages. Then the broker is started
over it, as often as is asked for; the disk's pages are in the kernel's memory then, unless --cold
is given, which takes root.

`accepts` is from the start of the process to the first CONNACK; `read` to the line in the log that says
that everything kept has been read. CPU seconds are of all threads up to that moment. Memory is what is
private to the process.
"""

import argparse
import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

import broker

FILL = broker.ROOT / "target/release/examples/fill"
CONNECT = bytes([16, 17, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, 5]) + b"probe"
ALL_READ = "all that waits has been counted"
LONGEST_S = 600


def disk_bytes(folder):
    return sum(path.stat().st_blocks * 512 for path in pathlib.Path(folder).rglob("*"))


class Start:
    """A broker over a folder, from its first moment on."""

    def __init__(self, folder, options, more=""):
        self.port = broker.free_port()
        config = pathlib.Path(folder) / "petrel.toml"
        config.write_text(
            f"[engine]\nshards = {options.shards}\n"
            f'[[listener]]\nprotocol = "mqtt"\naddress = "127.0.0.1:{self.port}"\n'
            f'[storage]\npath = "{folder}/data"\nlanes = {options.lanes}\n{more}'
        )
        self.begun = time.monotonic()
        command = [str(broker.PETREL), "--config", str(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.read = None
        self.lanes = options.lanes
        self.lines = []
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self):
        left = self.lanes
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            left -= ALL_READ in line
            if left == 0 and self.read is None:
                self.read = self.figures()

    def figures(self):
        pid = self.process.pid
        return time.monotonic() - self.begun, broker.cpu_seconds(pid), broker.memory_bytes(pid)

    def answered(self):
        """Waits for the first CONNACK."""
        while time.monotonic() - self.begun < LONGEST_S:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as one:
                one.settimeout(LONGEST_S)
                one.sendall(CONNECT)
                if one.recv(4)[:1] == b"\x20":
                    return self.figures()
            if self.process.poll() is not None:
                raise SystemExit("Petrel did not start:\n" + "\n".join(self.lines))
            time.sleep(0.005)
        raise SystemExit("Petrel does not answer")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=broker.STOP_LONGEST_S)


def drop_caches():
    subprocess.run(["sync"], check=True)
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--payload", type=int, default=100)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--wait", type=float, default=120, help="seconds until everything is read")
    parser.add_argument("--cold", action="store_true", help="empty the kernel's caches before")
    parser.add_argument("--folder", help="where the data is made, or is already")
    parser.add_argument("--show", action="store_true", help="show what Petrel says")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        data = pathlib.Path(folder) / "data"
        if not data.exists():
            begun = time.monotonic()
            command = [str(FILL), "--dir", str(data), "--sessions", str(options.sessions)]
            command += ["--messages", str(options.messages), "--payload", str(options.payload)]
            subprocess.run(command + ["--lanes", str(options.lanes)], check=True)
            print(f"made in {time.monotonic() - begun:.0f} s", flush=True)
        before = disk_bytes(data)
        print(f"{options.sessions} sessions, {options.messages} messages of {options.payload} bytes each; "
              f"{before / 1e6:.0f} MB on disk; load {os.getloadavg()[0]:.1f}")
        print(f"{'':8} {'accepts s':>10} {'CPU s':>7} {'MB':>6} {'B each':>7}"
              f" {'read s':>8} {'CPU s':>7} {'MB':>6} {'B each':>7} {'10 s later MB':>14}", flush=True)
        each = lambda bytes_: f"{bytes_ / 1e6:6.0f} {bytes_ / options.sessions:7.0f}"
        for run in range(options.runs):
            if options.cold:
                drop_caches()
            start = Start(folder, options)
            seconds, cpu, memory = start.answered()
            row = f"run {run + 1:<4} {seconds:10.2f} {cpu:7.2f} {each(memory)}"
            while start.read is None and time.monotonic() - start.begun < options.wait:
                time.sleep(0.05)
            if start.read:
                row += f" {start.read[0]:8.2f} {start.read[1]:7.2f} {each(start.read[2])}"
            else:
                row += f" {'-':>8} {'-':>7} {'-':>6} {'-':>7}"
            time.sleep(10)
            row += f" {broker.memory_bytes(start.process.pid) / 1e6:14.0f}"
            print(row, flush=True)
            start.stop()
            if options.show:
                print("\n".join(start.lines))


if __name__ == "__main__":
    main()
