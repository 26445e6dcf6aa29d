# What a developer runs. The logic is in Rust; this file only names it.
SHELL := /bin/bash
CARGO ?= cargo
VECTORS ?= $(CURDIR)/../shared/vectors
STATIC_TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
ARGS ?=
SEEDS ?= 10000
FIRST ?= 0
RUNS ?= 20
PARALLEL ?= 2
SECONDS ?= 60
EXECUTIONS ?=
TARGET ?=
SANITIZER ?= none
CARGO_FUZZ := 0.13.2

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

.PHONY: protoc
protoc:
	@command -v $${PROTOC:-protoc} >/dev/null || { \
	  echo "protoc is missing: install it (Debian: apt-get install protobuf-compiler; macOS: brew install protobuf)"; exit 1; }

.PHONY: dev
dev: protoc ## Build in release mode and run a four-node consortium on this machine (ARGS="--nodes 3 --fresh")
	$(CARGO) build --release --locked -p quorate
	exec target/release/quorate dev $(ARGS)

.PHONY: build
build: protoc ## Build the release binary
	$(CARGO) build --release --locked -p quorate

.PHONY: test
test: protoc ## Run all tests (clients and containers are tested where their tools are installed)
	@if command -v cargo-nextest >/dev/null; then \
	  $(CARGO) nextest run --workspace --locked && \
	  $(CARGO) nextest run -p raft-adapter-sim --features planted-bugs --test planted --locked; \
	else \
	  $(CARGO) test --workspace --locked && \
	  $(CARGO) test -p raft-adapter-sim --features planted-bugs --test planted --locked; \
	fi

.PHONY: sim
sim: protoc ## Search for faults in ordering by simulation (SEEDS=10000 FIRST=0); one line replays a seed that fails
	$(CARGO) build --release --locked -p raft-adapter-sim
	target/release/sim --seeds $(SEEDS) --first $(FIRST)

.PHONY: fuzz
fuzz: protoc ## Try bad bytes on every decoder by libFuzzer, on the nightly toolchain (SECONDS=60 or EXECUTIONS=10000000 each, TARGET=name, SANITIZER=address)
	@test -x target/tools/bin/cargo-fuzz || \
	  $(CARGO) install --locked --version $(CARGO_FUZZ) cargo-fuzz --root target/tools --target-dir target/tools/build
	RUSTUP_TOOLCHAIN=nightly CARGO_PROFILE_RELEASE_LTO=off target/tools/bin/cargo-fuzz build --fuzz-dir node/fuzz \
	  --target-dir target/fuzz --sanitizer $(SANITIZER) --no-cfg-fuzzing --codegen-units 16 --features libfuzzer
	target/fuzz/$(STATIC_TARGET)/release/campaign $(if $(EXECUTIONS),--executions $(EXECUTIONS),--seconds $(SECONDS)) \
	  --target "$(TARGET)" --folder target/fuzz/campaign

.PHONY: chaos
chaos: protoc ## Faults on real processes under load, by seed (RUNS=20 FIRST=0 PARALLEL=2); one line repeats a run that fails
	$(CARGO) build --locked -p quorate --features fail-points
	mkdir -p target/chaos && cp target/debug/quorate target/chaos/quorate
	$(CARGO) build --locked -p quorate-chaos
	target/debug/chaos --runs $(RUNS) --first $(FIRST) --parallel $(PARALLEL) --binary target/chaos/quorate --out target/chaos/runs

.PHONY: chaos-containers
chaos-containers: protoc ## The same on the containers of deploy/docker-compose.yml, after `make static` (RUNS=20 FIRST=0); needs Docker
	$(CARGO) build --locked -p quorate-chaos
	target/debug/chaos --containers deploy --runs $(RUNS) --first $(FIRST) --out target/chaos/runs

.PHONY: test-vectors
test-vectors: protoc ## Run published Ethereum test vectors (VECTORS=DIR: any folder or archive folder with such files)
	$(CARGO) build --release --locked -p quorate-evm --example state-vectors
	@deploy/tests/vectors.sh "$(VECTORS)"

.PHONY: lint
lint: protoc ## Formatting, clippy with warnings as errors, licences and sources of dependencies
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@if ! command -v cargo-deny >/dev/null; then \
	  echo "cargo-deny is not installed: licences and sources were not checked (cargo install cargo-deny)"; \
	elif ! $(CARGO) fetch --locked; then \
	  echo "licences and sources were not checked: that takes the dependencies of all platforms, and they could not be fetched"; \
	else $(CARGO) deny --locked --offline check licenses bans sources; fi

.PHONY: advisories
advisories: ## Check dependencies against the RustSec database (needs the network)
	$(CARGO) deny --locked check advisories

.PHONY: fmt
fmt: ## Format
	$(CARGO) fmt --all

.PHONY: bench
bench: ## Load a running consortium (ARGS="--kind erc20 --rate 500 --duration 20s")
	$(CARGO) build --release --locked -p quorate
	target/release/quorate bench $(ARGS)

.PHONY: static
static: protoc ## Build the static binary for container images
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -p quorate \
	  --target $(STATIC_TARGET) --target-dir target/static
	mkdir -p deploy/out && cp target/static/$(STATIC_TARGET)/release/quorate deploy/out/quorate

.PHONY: image
image: static ## Build the container image quorate:latest from the static binary (no base image is pulled)
	docker build -t quorate:latest -f deploy/Dockerfile.prebuilt deploy/out

.PHONY: compose-up
compose-up: ## Start the four-node consortium of deploy/docker-compose.yml (after `make image`)
	deploy/compose up -d

.PHONY: compose-down
compose-down: ## Stop it and remove its volumes
	deploy/compose down -v

.PHONY: docs
docs: ## Build the API documentation of all rooms
	$(CARGO) doc --workspace --no-deps --locked

.PHONY: lines
lines: ## Count lines per room
	@for room in proto raft-adapter node/kv node/chain node/state node/evm node/pool node/enclave node/p2p node/engine node/rpc node/quorate node/chaos; do \
	  printf '%-16s %6d\n' $$room $$(find $$room -name '*.rs' -o -name '*.proto' | xargs cat | wc -l); done

.PHONY: clean
clean: ## Remove build results
	$(CARGO) clean
	rm -rf deploy/out
