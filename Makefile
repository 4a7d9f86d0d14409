# Petrel: `make run` starts the broker, `make test` proves it, `make check` is the short loop.

CARGO ?= cargo
PYTHON ?= python3
NPM ?= npm
VENV := target/venv
NODE_DIR := target/node
# What is run is what has just been built, whatever the environment says.
export CARGO_TARGET_DIR := $(CURDIR)/target
SEEDS ?= 1000
SIM_JOBS ?= 2
N ?= 15000
SESSIONS ?= 1000000
MESSAGES ?= 10
TLS ?= 0

.PHONY: run test check format clippy tidy unit integration sim sim-storm clients ledger openapi conformance bench-idle bench-cpu bench-hot bench-memory bench-density bench-restart bench-operate bench-storm bench-overload bench-tls bench-durable bench-logins bench-malformed fuzz-live bench-tuning bench-retained bench-match bench bench-gate bench-baseline deb package-check

## Builds in release and starts the broker with its defaults: mqtt 127.0.0.1:1883, ws 127.0.0.1:8083.
run:
	$(CARGO) build --release --locked -p petrel-engine -p petrel-tools
	target/release/petrel $(ARGS)

## Everything that proves the broker. No root, nothing beyond loopback.
test: check integration sim clients bench-gate
	@echo "make test: all passed"

## The short loop: format, lints as errors, the rules of the tree, unit tests.
check: format clippy tidy unit

format:
	$(CARGO) fmt --all -- --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

tidy:
	$(CARGO) test --locked -q -p petrel-tidy

unit:
	$(CARGO) test --locked -q -p petrel-proto -p petrel-shard -p petrel-net -p petrel-mesh -p petrel-storage -p petrel-access -p petrel-conformance
	$(CARGO) test --locked -q -p petrel-engine --lib --bins -p petrel-tools

## Real sockets, several shards, both runtimes.
integration:
	$(CARGO) test --locked -q -p petrel-engine -p petrel-tools --test '*'
	$(CARGO) test --locked -q -p petrel-bench

## The deterministic simulator: SEEDS seeds, and the proof that it bites.
sim:
	$(CARGO) test --locked --release -q -p petrel-sim --features sabotage
	$(CARGO) run --locked --release -q -p petrel-sim -- --seeds $(SEEDS) --jobs $(SIM_JOBS)
	$(CARGO) run --locked --release -q -p petrel-sim -- crash --seeds $(SEEDS) --jobs $(SIM_JOBS)

## Storms larger than this machine, by policy: a million and ten million clients on 16 cores.
sim-storm:
	$(CARGO) run --locked --release -q -p petrel-sim -- storm --clients 1000000,10000000 --patience 5,10,30 --sample 2 $(ARGS)

$(VENV)/ready: tools/clients/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

$(NODE_DIR)/ready: tools/clients/package.json tools/clients/package-lock.json
	@mkdir -p $(NODE_DIR)
	cp $^ $(NODE_DIR)/
	cd $(NODE_DIR) && $(NPM) ci --silent --no-audit --no-fund
	@touch $@

## Clients that other people wrote: Python paho-mqtt, mqtt.js over TCP and WebSocket, our own.
clients: $(VENV)/ready $(NODE_DIR)/ready
	$(CARGO) build --locked --release -p petrel-engine -p petrel-tools
	$(VENV)/bin/python tools/clients/run.py
	$(VENV)/bin/python tools/clients/ledger.py --seconds 10
	$(VENV)/bin/python tools/clients/openapi.py
	$(PYTHON) tools/packaging/pages.py target/release

## The ledger against what clients have counted, in a mixed run of five minutes: ARGS="--seconds 300 --shards 2".
ledger: $(VENV)/ready
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-tools
	$(VENV)/bin/python tools/clients/ledger.py $(ARGS)

## What the admin interface answers to questions that nobody would think of: ARGS="--examples 200 --seed 7".
openapi: $(VENV)/ready
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-tools
	$(VENV)/bin/python tools/clients/openapi.py $(ARGS)

## Writes docs/CONFORMANCE.md again from the tags in the tree.
conformance:
	$(CARGO) run --locked -q -p petrel-conformance

## 15,000 idle connections: user memory each.
bench-idle:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/idle.py $(ARGS)

## Memory per connection and session, by state, as a slope: eight minutes.
bench-memory:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/memory.py $(ARGS)

## A start over SESSIONS sessions that are away, with MESSAGES messages for each: seconds, memory, disk.
bench-restart:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(CARGO) build --locked --release -p petrel-storage --example fill
	$(PYTHON) bench/restart.py --sessions $(SESSIONS) --messages $(MESSAGES) $(ARGS)

## What a scrape and a list of all clients cost a broker with SESSIONS sessions: ten minutes, on a machine at rest.
bench-operate:
	$(CARGO) build --locked --release -q -p petrel-engine
	$(CARGO) build --locked --release -q -p petrel-storage --example fill
	$(PYTHON) bench/operate.py --sessions $(SESSIONS) $(ARGS)

## N connections held, over TLS with TLS=1; a message to each.
bench-density:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/large.py connect --count $(N) --tls "$(TLS)" -R 4000 -k 60 --time 60 $(ARGS)

## N persistent sessions cut at once, over TLS with TLS=1; all of them come back.
bench-storm:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/large.py storm --count $(N) --tls "$(TLS)" -R 4000 --pairs 50 -I 50 --nice 10 $(ARGS)

## Goodput when ten times as many want in as can be served; as root, for the broker gets a part of a core.
bench-overload:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/overload.py $(ARGS)

## CPU per forwarded message beside Mosquitto's, if mosquitto is installed.
bench-cpu:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/cpu.py $(ARGS)

## CPU of a message beside floor programs and Mosquitto, with the aims: ARGS="--rows 1 2 3 --rounds 9".
bench-hot:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench
	$(PYTHON) bench/hot.py $(ARGS)

## CPU per TLS connection above bare handshakes and beside Mosquitto's; storms beside it.
bench-tls:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/tls.py $(ARGS)

## What it costs to keep messages, beside the disk: see docs/PERFORMANCE.md.
bench-durable:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/durable.py $(ARGS)

## Logins by password, and what they do to others: N clients, each a user of its own.
bench-logins:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench -p petrel-tools
	$(PYTHON) bench/logins.py $(ARGS)

## 100,000 malformed packets on 200 connections, beside a quiet pair: two minutes.
bench-malformed:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench
	$(PYTHON) bench/malformed.py $(ARGS)

## Conversations with changed bytes against a running broker by every way in, three minutes: ARGS="--seconds 180 --seed 1".
fuzz-live:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench -p petrel-tools
	$(PYTHON) bench/fuzz.py $(ARGS)

## The standard set against bench/baselines, twelve minutes at most: exit code 1 on a regression.
bench:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench
	$(CARGO) build --locked --release -q -p petrel-micro
	red=0; target/release/petrel-micro gate || red=1; $(PYTHON) bench/standard.py $(ARGS) || red=1; exit $$red

## Its part that no machine's mood changes; and that it sees a regression that is built in.
bench-gate:
	$(CARGO) build --locked --release -q -p petrel-micro
	target/release/petrel-micro gate
	$(CARGO) test --locked -q -p petrel-micro
	$(CARGO) test --locked --release -q -p petrel-micro --features planted --test planted

## Writes bench/baselines anew: see docs/PERFORMANCE.md for when that is right.
bench-baseline:
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-bench
	$(CARGO) build --locked --release -q -p petrel-micro
	target/release/petrel-micro gate --write
	$(PYTHON) bench/standard.py --write $(ARGS)

## Memory of retained messages and what questions to them cost: ARGS="--topics 10000000" for more.
bench-retained:
	$(CARGO) build --locked --release -q -p petrel-micro
	target/release/petrel-micro retained $(ARGS)

## What filters take in memory and topics cost, against hostile filters too: ARGS="--filters 10000000" for more.
bench-match:
	$(CARGO) build --locked --release -q -p petrel-micro
	target/release/petrel-micro match $(ARGS)

## What settings of Linux change; sets them one by one, so only as root.
bench-tuning:
	$(CARGO) build --locked --release -p petrel-engine -p petrel-bench
	$(PYTHON) bench/tuning.py $(ARGS)

CARGO_DEB := target/cargo-deb/bin/cargo-deb

$(CARGO_DEB):
	$(CARGO) install cargo-deb --version 3.8.0 --locked --root target/cargo-deb --target-dir target/cargo-deb/build

## The Debian package, as target/deb/petrel_VERSION_ARCHITECTURE.deb.
deb: $(CARGO_DEB)
	$(CARGO) build --locked --release -q -p petrel-engine -p petrel-tools
	tools/packaging/extras.sh target/release target/packaging
	rm -rf target/deb
	$(CARGO_DEB) --manifest-path engine/Cargo.toml --no-build --locked --output target/deb/

## Installs, starts, upgrades, removes and purges it in an empty folder tree; checks container and Kubernetes files.
package-check: deb
	$(PYTHON) tools/packaging/check.py target/deb/*.deb
	$(PYTHON) tools/packaging/check_manifests.py target/release
