#!/usr/bin/env python3
"""Asks a broker all that its description in OpenAPI says it can be asked, in ways that nobody would think of.

Whatever is asked, no answer is a server error, each has a status, a type and a form that the description names, and nothing is
done for those without a token. The broker still serves its clients at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from broker import Broker, Certificates

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "ignored_auth", "unsupported_method",
)
REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    arguments = options()
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control"
        broker = Broker(arguments.broker, folder, Certificates(folder), shards=2, control=control)
        try:
            cookie = json.loads((control / "admin.json").read_text())
            furnish(arguments, broker)
            code = schemathesis(arguments, cookie, folder)
            reset(cookie)
            serves(arguments, broker)
        finally:
            stopped = broker.stop()
        assert stopped == 0, f"the broker ended with {stopped}"
    return code


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", default=REPOSITORY / "target/release/petrel")
    parser.add_argument("--examples", type=int, default=20, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def furnish(arguments, broker):
    """What the examples of the description name: a client with a session, and a retained message."""
    port = str(broker.endpoint("mqtt").port)
    program = Path(arguments.broker).with_name("petrelctl")
    for words in (["sub", "-i", "sensor-7", "-c", "-q", "1", "-t", "plant/#", "-E"],
                  ["pub", "-r", "-q", "1", "-t", "plant/1", "-m", "kept"]):
        subprocess.run([program, words[0], "-p", port, *words[1:]], check=True, timeout=60)


def schemathesis(arguments, cookie, folder):
    """Its exit code: 0 if nothing was found."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        program, "run", cookie["url"] + "/api/openapi.json",
        "--header", f"Authorization: Bearer {cookie['token']}",
        "--checks", ",".join(CHECKS), "--max-examples", str(arguments.examples), "--seed", str(arguments.seed),
        "--request-timeout", "20", "--workers", "1", "--phases", "examples,coverage,fuzzing", "--no-color",
    ]
    environment = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder) / "hypothesis")}
    return subprocess.run(command, cwd=folder, env=environment, timeout=900).returncode


def reset(cookie):
    """Takes back what keeps clients away: some question was a drain, or stopped a listener."""
    def ask(method, path):
        headers = {"Authorization": f"Bearer {cookie['token']}"}
        request = urllib.request.Request(cookie["url"] + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
    ask("DELETE", "/api/v1/drain")
    for listener in ask("GET", "/api/v1/listeners")["listeners"]:
        ask("POST", f"/api/v1/listeners/{urllib.parse.quote(listener['name'], safe='')}/start")


def serves(arguments, broker):
    """A client can publish."""
    endpoint = broker.endpoint("mqtt")
    program = Path(arguments.broker).with_name("petrelctl")
    command = [program, "pub", "-p", str(endpoint.port), "-q", "1", "-t", "after/all", "-m", "it serves"]
    subprocess.run(command, check=True, timeout=60)


if __name__ == "__main__":
    sys.exit(main())
