"""Figures with their aims: lines for people while they are measured, JSON for machines."""

import json
import os
import statistics
import sys

import broker

RESULTS = broker.ROOT / "bench/results"


class Table:
    """What was found."""

    def __init__(self):
        self.figures = []

    def ratio(self, name, above, below, aim=None, at_least=False, key="cpu_us"):
        """Neighbouring runs of two contenders."""
        ratios = [one[key] / two[key] for one, two in zip(above, below)]
        self.add(name, ratios, "", aim, at_least)

    def cost(self, name, found, aim=None, key="cpu_us", unit="us"):
        """A figure of one contender."""
        self.add(name, [one[key] for one in found], unit, aim)

    def add(self, name, values, unit, aim=None, at_least=False):
        """The median of some values, with the extremes."""
        value = statistics.median(values)
        met = None if aim is None else (value >= aim if at_least else value <= aim)
        self.figures.append({
            "name": name, "value": value, "least": min(values), "most": max(values), "unit": unit,
            "rounds": len(values), "aim": aim, "at_least": at_least, "met": met,
        })
        word = {None: "", True: "met", False: "MISSED"}[met]
        limit = "" if aim is None else f"{'>=' if at_least else '<='} {aim:g}"
        spread = f"({short(min(values))}-{short(max(values))})"
        print(f"{name:64} {short(value):>9} {unit:3} {spread:20} {limit:9} {word}", flush=True)

    def missed(self):
        """How many aims were."""
        return sum(one["met"] is False for one in self.figures)

    def write(self, name):
        """Writes them to bench/results, with how busy the machine was."""
        RESULTS.mkdir(exist_ok=True)
        whole = {"load_average": os.getloadavg(), "figures": self.figures}
        (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def take_turns(label, rounds, contenders):
    """Figures of each contender by name, one of each in every round."""
    found = {name: [] for name in contenders}
    for turn in range(rounds):
        progress(f"{label}, round {turn + 1} of {rounds}")
        for name, run in contenders.items():
            found[name].append(run())
    progress("")
    return found


def short(value):
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def progress(text):
    """Shows what is under way, to people only."""
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)
