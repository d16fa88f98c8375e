# `make` alone says what there is.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check bench fmt clean-data prerequisites gates doc deny

# Where rustup puts cargo, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin
# CI builds what Cargo.lock says or fails.
LOCKED := $(if $(CI),--locked)

help: ## Show this
	@echo 'usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Serve on this machine for development: embedded store under ./data, loopback targets allowed
	cargo run $(LOCKED) -- serve --dev

test: prerequisites $(if $(ARGS),,gates) ## Everything CI runs: format, clippy, all tests on a real PostgreSQL and Redis that it starts; ARGS='--test store postgres' runs only these tests
	@tests/with-services.sh cargo test $(LOCKED) --workspace --no-fail-fast $(ARGS)

check: prerequisites gates doc deny test ## Before a pull request: `make test`, and the docs and the dependencies' licences and advisories

bench: prerequisites ## Measure throughput and latency (release build, PostgreSQL and Redis of its own); ARGS go to the bench
	cargo build $(LOCKED) --release --workspace
	@tests/with-services.sh target/release/hookpost-bench $(ARGS)

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
	set -x; cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings; \
	else echo 'SKIPPED: clippy. `rustup component add clippy` adds what it needs.'; fi

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc $(LOCKED) --workspace --no-deps

deny:
	@if cargo deny --version >/dev/null 2>&1; then set -x; cargo deny --workspace check; \
	else echo 'SKIPPED: dependencies. `cargo install --locked cargo-deny` adds what it needs.'; fi
