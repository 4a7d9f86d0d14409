"""Runs suite.mjs, mqtt.js against the broker, and reads its verdicts."""

import json
import shutil
import subprocess
from pathlib import Path

from broker import PROTOCOLS, WS_PATH

TIMEOUT_S = 240


def run(report, broker, modules, only, jobs):
    """Reports each check; a Node that dies or hangs is a failure of its own."""
    node = shutil.which("node")
    if node is None or not (modules / "node_modules/mqtt").is_dir():
        report.fails("mqtt.js", f"needs node, and mqtt.js in {modules}: see `make clients`")
        return
    endpoints = [broker.endpoint(protocol) for protocol in PROTOCOLS]
    setting = {
        "modules": str(modules),
        "ca": str(broker.certificates.ca),
        "only": only,
        "jobs": jobs,
        "endpoints": [{"protocol": e.protocol, "host": e.host, "port": e.port,
                       "path": WS_PATH if e.is_websocket else ""} for e in endpoints],
    }
    script = Path(__file__).with_name("suite.mjs")
    try:
        done = subprocess.run([node, script, json.dumps(setting)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        report.fails("mqtt.js", f"did not end within {TIMEOUT_S} s")
        return
    for line in done.stdout.splitlines():
        verdict = json.loads(line)
        if "error" in verdict:
            report.fails(verdict["title"], verdict["error"])
        else:
            report.passes(verdict["title"], verdict["seconds"])
    if done.returncode != 0:
        report.fails("mqtt.js", f"node ended with {done.returncode}:\n{done.stderr}")
