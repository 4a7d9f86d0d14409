#!/usr/bin/env python3
"""Runs clients that other people wrote against the broker, on several numbers of shards.

For each setting a broker is started on free ports and stopped by SIGTERM. The exit code is 0 only
if every check passed and every broker ended with 0.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import suite_cli
import suite_core
import suite_hostile
import suite_node
import suite_operator
import suite_v5
from broker import Broker, Certificates, Mosquitto
from lab import V5, VERSION_NAMES, Lab

ROOT = Path(__file__).resolve().parents[2]
PAHO_SUITES = (("paho", suite_core.SUITE), ("paho 5", suite_v5.SUITE))


class Report:
    """Counts, and what went wrong."""

    def __init__(self, verbose):
        self.verbose = verbose
        self.passed = self.failed = 0

    def passes(self, name, seconds):
        self.passed += 1
        if self.verbose:
            print(f"    ok   {seconds:6.2f} s  {name}", flush=True)

    def fails(self, name, detail):
        self.failed += 1
        print(f"    FAIL {name}\n{indent(detail)}", flush=True)

    def suite(self, name, before, seconds):
        passed, failed = self.passed - before[0], self.failed - before[1]
        print(f"  {name:12} {passed:4} passed {failed:3} failed  {seconds:5.1f} s", flush=True)

    @property
    def counts(self):
        return self.passed, self.failed


def indent(text):
    return "".join(f"        {line}\n" for line in text.rstrip().splitlines())


def run_paho(report, broker, name, suite, options, program=None):
    """All checks of a suite: most beside each other, some alone after them."""

    def run(job):
        check, version, protocol = job
        title = f"{check.title} [{VERSION_NAMES[version]}, {protocol}]"
        if options.only not in title:
            return
        lab, started = Lab(broker, protocol, version), time.monotonic()
        lab.program = program
        try:
            check.run(lab)
        except Exception:
            report.fails(title, traceback.format_exc(limit=-4))
        else:
            report.passes(title, time.monotonic() - started)
        finally:
            lab.close()

    started, before = time.monotonic(), report.counts
    jobs = [(c, v, t) for c in suite for v in c.versions for t in c.transports]
    if program is not None and not program.has_websocket:
        jobs = [job for job in jobs if not job[2].startswith("ws")]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, (job for job in jobs if not job[0].alone)))
    for job in jobs:
        if job[0].alone:
            run(job)
    report.suite(name, before, time.monotonic() - started)


def programs(options):
    """The command-line clients that there are."""
    ctl = options.petrel.with_name("petrelctl")
    yield suite_cli.Program("petrelctl", [ctl, "pub"], [ctl, "sub"], websocket=True)
    pub, sub = shutil.which("mosquitto_pub"), shutil.which("mosquitto_sub")
    if pub and sub:
        yield suite_cli.Program("mosquitto", [pub], [sub], websocket=False)
    else:
        print("  skipped: mosquitto clients are not installed", flush=True)


def run_friendly(report, broker, options):
    """Every client that means well."""
    for name, suite in PAHO_SUITES:
        run_paho(report, broker, name, suite, options)
    before, started = report.counts, time.monotonic()
    suite_node.run(report, broker, options.node, options.only, options.jobs)
    report.suite("mqtt.js", before, time.monotonic() - started)
    for program in programs(options):
        run_paho(report, broker, program.name, suite_cli.SUITE, options, program)
    run_paho(report, broker, "operator", suite_operator.SUITE, options)


def run_hostile(report, broker, options):
    """The hostile suite beside an honest pair that must not notice it."""
    lab = Lab(broker, "mqtt", V5)
    pair = suite_hostile.HonestPair(lab)
    pair.start()
    run_paho(report, broker, "hostile", suite_hostile.SUITE, options)
    try:
        pair.expect_progress()
        pair.stop()
        print(f"    the honest pair exchanged {pair.rounds} pairs of messages meanwhile")
    except AssertionError as error:
        report.fails("the honest pair", str(error))
    lab.close()


def run_setting(report, options, certificates, shards, runtime):
    """One number of shards on one runtime: a broker with defaults, one with narrow limits."""
    with tempfile.TemporaryDirectory(prefix="petrel-clients-") as folder:
        def start(limits=None):
            kind = Mosquitto if options.mosquitto else Broker
            return kind(options.petrel, folder, certificates, shards, runtime, limits)

        print(f"{shards} shard{'s' if shards > 1 else ''}, runtime {runtime}", flush=True)
        with_broker(report, start, run_friendly, options)
        with_broker(report, lambda: start(suite_hostile.LIMITS), run_hostile, options)


def with_broker(report, start, suites, options):
    """Starts a broker, runs suites against it and sees that it ends well."""
    failed_before, broker = report.failed, start()
    try:
        suites(report, broker, options)
        if (code := broker.stop()) != 0:
            report.fails("the broker", f"exit code {code} after SIGTERM")
    finally:
        if broker.is_alive():
            broker.kill()
    if report.failed > failed_before:
        print(indent("log of the broker:\n" + broker.log()), flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--petrel", type=Path, default=ROOT / "target/release/petrel")
    parser.add_argument("--node", type=Path, default=ROOT / "target/node", help="where mqtt.js is")
    parser.add_argument("--settings", default="auto:1,auto:2,auto:8,epoll:2",
                        help="runtime and number of shards of each broker, default %(default)s")
    parser.add_argument("--only", default="", help="checks whose title contains this")
    parser.add_argument("--jobs", type=int, default=8, help="checks at a time, default 8")
    parser.add_argument("--mosquitto", action="store_true", help="hold the checks against it")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser.parse_args()


def main():
    options = parse_options()
    report, started = Report(options.verbose), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="petrel-clients-") as folder:
        certificates = Certificates(folder)
        for setting in options.settings.split(","):
            runtime, shards = setting.split(":")
            run_setting(report, options, certificates, int(shards), runtime)
    seconds = time.monotonic() - started
    print(f"clients: {report.passed} passed, {report.failed} failed in {seconds:.0f} s")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
