"""What operators cost a broker with many sessions: a scrape of its metrics, and a list of all clients.

    make bench-operate            (SESSIONS=1000000 ARGS="--shards 2 --scrapes 20")

The sessions are made as `bench/restart.py` makes them. Then all clients are listed page by page, 1,000 to a page, while
`petrel_shard_turn_seconds` says how long the turns of the shards were; beside it the same for as long a time in which nobody asks.
Turns are counted by the clock of the wall, so whatever else takes a core from a shard counts as well: the machine should be at rest.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request

import broker
import restart

BUCKET = re.compile(r'petrel_shard_turn_seconds_bucket\{le="([^"]+)",shard="(\d+)"\} (\d+)')


class Admin:
    """The admin interface, by the token in the control folder."""

    def __init__(self, folder):
        cookie = json.loads((pathlib.Path(folder) / "data/admin.json").read_text())
        self.url, self.token = cookie["url"], cookie["token"]

    def get(self, path):
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def turns(self):
        """How many turns of all shards were at most so long, by bound in seconds."""
        counts = {}
        for bound, _, count in BUCKET.findall(self.get("/metrics").decode()):
            counts[float(bound)] = counts.get(float(bound), 0) + int(count)
        return counts

    def clients(self):
        """Lists all clients. How many there were, how many pages, and what each took, in milliseconds."""
        cursor, count, times = "", 0, []
        while cursor is not None:
            begun = time.monotonic()
            page = json.loads(self.get(f"/api/v1/clients?limit=1000{cursor}"))
            times.append((time.monotonic() - begun) * 1000)
            count += len(page["clients"])
            cursor = f"&cursor={page['next']}" if page["next"] else None
        return count, times


def long_turns(admin, what):
    """What was done meanwhile gave, and how many turns there were, and how many of them were longer than a millisecond."""
    time.sleep(1)
    before = admin.turns()
    result = what()
    # Shards make known four times a second what they have counted.
    time.sleep(1)
    after = admin.turns()
    more = {bound: after[bound] - before[bound] for bound in after}
    return result, more[float("inf")], more[float("inf")] - more[0.001]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--scrapes", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(restart.FILL), "--dir", f"{folder}/data", "--sessions", str(options.sessions)]
        command += ["--messages", "1", "--payload", "100", "--lanes", str(options.lanes)]
        subprocess.run(command, check=True)
        start = restart.Start(folder, options, "[admin]\naddress = \"127.0.0.1:0\"\n")
        try:
            start.answered()
            deadline = time.monotonic() + restart.LONGEST_S
            while start.read is None:
                assert time.monotonic() < deadline, "what waits is not counted"
                time.sleep(0.25)
            time.sleep(5)
            measure(Admin(folder), options)
        finally:
            start.stop()


def measure(admin, options):
    scrapes = []
    for _ in range(options.scrapes):
        begun = time.monotonic()
        size = len(admin.get("/metrics"))
        scrapes.append((time.monotonic() - begun) * 1000)
    print(f"{options.sessions} sessions, {options.shards} shards")
    print(f"scrape: median {statistics.median(scrapes):.1f} ms, most {max(scrapes):.1f} ms, {size} bytes")
    begun = time.monotonic()
    (count, pages), turns, longer = long_turns(admin, admin.clients)
    took = time.monotonic() - begun
    print(f"list: {count} clients in {len(pages)} pages, {sum(pages) / 1000:.1f} s; "
          f"a page median {statistics.median(pages):.1f} ms, most {max(pages):.1f} ms")
    print(f"turns meanwhile: {turns}, longer than 1 ms: {longer}")
    _, turns, longer = long_turns(admin, lambda: time.sleep(took))
    print(f"turns in as long a time without: {turns}, longer than 1 ms: {longer}")


if __name__ == "__main__":
    main()
