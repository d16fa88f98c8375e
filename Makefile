# `make` alone says what there is.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check bench sim fuzz fmt clean-data prerequisites gates doc deny torture controls faults compose-test

# Where rustup puts cargo, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin
# CI builds what Cargo.lock says or fails.
LOCKED := $(if $(CI),--locked)

help: ## Show this
	@echo 'usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Serve on this machine for development: embedded store under ./data, loopback targets allowed
	cargo run $(LOCKED) -- serve --dev

test: prerequisites $(if $(ARGS),,gates controls) ## Everything CI runs: format, clippy, all tests on a real PostgreSQL and Redis that it starts; ARGS='--test store postgres' runs only these tests
	@tests/with-services.sh cargo test $(LOCKED) --workspace --no-fail-fast $(ARGS)
	@$(if $(ARGS),,tests/compose/run.sh)

compose-test: ## Build the image, run docker-compose.yml and check what it promises; `make test` does so at its end
	@tests/compose/run.sh

check: prerequisites gates doc deny test ## Before a pull request: `make test`, and the docs and the dependencies' licences and advisories

bench: prerequisites ## Measure throughput and latency (release build, PostgreSQL and Redis of its own); ARGS go to the bench
	cargo build $(LOCKED) --release --workspace
	@tests/with-services.sh target/release/hookpost-bench $(ARGS)

sim: ## Simulate crashes and faults: SEEDS says how many worlds (default 10000), FROM the first, SEED=17 shows one
	@$(if $(SEED),SEED=$(SEED),FROM=$(FROM) SEEDS=$(or $(SEEDS),10000)) \
	cargo test $(LOCKED) --test sim every_world_keeps_every_promise -- --exact --nocapture

# Rounds of at most 100 kills, each on a new store; TORTURE_SEED=N repeats what the round that printed it drew.
torture: KILLS ?= 1000
torture: prerequisites controls ## Kill the service, PostgreSQL and Redis under load, KILLS times on each store (default 1000), and check that nothing is lost
	TORTURE_KILLS=$(KILLS) cargo test $(LOCKED) --test torture -- --nocapture --test-threads=1 $(ARGS)

controls: ## Build the program with its promises broken on purpose: tests that run it must fail, which others check
	cargo build $(LOCKED) --bin hookpost-negative-controls --features negative-controls

# Most of them wait for something; those that measure time or memory keep the others off by themselves. So the bounds are
# those of the table here, where `make test` leaves a margin.
faults: prerequisites controls ## Produce every fault of docs/reliability.md, and print the table; LONG=1 for the long forms, ARGS=NAME for one
	@rm -rf target/faults
	@FAULTS_STRICT=1 cargo test $(LOCKED) --test faults -- --test-threads=8 $(ARGS); status=$$?; \
	echo '| # | scenario | expected | measured |'; echo '|---|---|---|---|'; cat target/faults/*.row; \
	if grep -h SKIPPED target/faults/*.row >/dev/null; then echo "skipped: $$(grep -l SKIPPED target/faults/*.row | wc -l), see above"; fi; \
	exit $$status

# libFuzzer wants unstable flags of the compiler, which RUSTC_BOOTSTRAP lets the stable one take. What a run finds goes to
# fuzz/target/found; fuzz/corpus is written by hand.
fuzz: TARGET ?= target_url
fuzz: SECONDS ?= 60
fuzz: ## Fuzz one parser: TARGET is a folder of fuzz/corpus (default target_url), SECONDS how long (default 60)
	@if cargo fuzz --version >/dev/null 2>&1; then set -ex; mkdir -p fuzz/target/found/$(TARGET); \
	RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $(TARGET) fuzz/target/found/$(TARGET) fuzz/corpus/$(TARGET) \
	-- -max_total_time=$(SECONDS) -max_len=8192 -timeout=10; \
	else echo 'SKIPPED: fuzzing. `cargo install --locked cargo-fuzz` adds what it needs (and a C++ compiler).'; fi

fmt: ## Format the code
	cargo fmt --all

clean-data: ## Delete ./data, the embedded store that `make run` leaves behind
	rm -rf data

prerequisites:
	@tests/prerequisites.sh

# The fast ones first. A toolchain may lack these components, and still run the tests.
gates:
	@if cargo fmt --version >/dev/null 2>&1; then set -x; cargo fmt --all --check; \
	else echo 'SKIPPED: format. `rustup component add rustfmt` adds what it needs.'; fi
	@if cargo clippy --version >/dev/null 2>&1; then \
	set -ex; cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings; \
	cargo clippy $(LOCKED) --bin hookpost-negative-controls --features negative-controls -- -D warnings; \
	else echo 'SKIPPED: clippy. `rustup component add clippy` adds what it needs.'; fi

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc $(LOCKED) --workspace --no-deps

# Advisories come from a repository elsewhere; the other checks need nothing.
deny:
	@if cargo deny --version >/dev/null 2>&1; then set -ex; cargo deny --workspace check --hide-inclusion-graph bans licenses sources; \
	if cargo deny --workspace fetch db; then cargo deny --workspace check --disable-fetch advisories; \
	else echo 'SKIPPED: advisories. Their database cannot be fetched from here.'; fi; \
	else echo 'SKIPPED: dependencies. `cargo install --locked cargo-deny` adds what it needs.'; fi
