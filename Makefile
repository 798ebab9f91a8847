# Walpost's errands. Each installs what it misses on Debian and Ubuntu; elsewhere it says what to install.
.DEFAULT_GOAL := help
.PHONY: help build test test-versions faults soak bench fuzz demo lint lint-deploy static docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

build: ## the release binary, target/release/walpost
	scripts/install build
	scripts/install rust
	cargo build --release --locked

test: ## every test, against real PostgreSQL and Apache Kafka
	scripts/install test
	@# Most of a test against servers is waiting, so twice as many as there are processors.
	RUST_TEST_THREADS=$$(( 2 * $$(nproc) )) cargo test --locked --all-features

test-versions: ## the tests' core on each PostgreSQL and on an older Kafka; VERSIONS="16 kafka-3.9.2"
	scripts/test-versions $(VERSIONS)

fuzz: ## each fuzz target under libFuzzer, on nightly; SECONDS=600 for each
	scripts/install build
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { \
	  echo "make fuzz: install what it needs: rustup toolchain install nightly; cargo install cargo-fuzz --locked" >&2; exit 1; }
	@# No sanitizer: nothing that is fuzzed is unsafe, and what is C can't be built under one by its own scripts.
	@# What is new goes into a folder that git passes over; the kept inputs are read and stay as they are.
	for target in frames pgoutput authentication configuration; do \
	  mkdir -p fuzz/grown/$$target && \
	  cargo +nightly fuzz run --sanitizer none --debug-assertions $$target fuzz/grown/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(or $(SECONDS),600) -max_len=8192 -timeout=10 -rss_limit_mb=1024 || exit 1; \
	done

faults: ## minutes of real faults with figures (docs/faults.md); SCENARIO=relay-kill SEED=7
	scripts/install test
	@mkdir -p target
	@rm -f target/faults.txt
	cargo test --locked --all-features --test faults -- checker:: ledger::
	@WALPOST_FAULTS_TABLE="$(CURDIR)/target/faults.txt" WALPOST_FAULTS_SEED="$(SEED)" \
	  cargo test --locked --all-features --test faults -- --nocapture --test-threads=4 \
	  --skip checker:: --skip ledger:: --skip support:: $(subst -,_,$(SCENARIO)); \
	  status=$$?; cat target/faults.txt && exit $$status

soak: ## the same for hours: SCENARIO=relay-kill HOURS=2, or DURATION=30m
	@WALPOST_FAULTS_DURATION="$(or $(DURATION),$(or $(HOURS),1)h)" $(MAKE) --no-print-directory faults

bench: ## figures beside pg_recvlogical and a plain producer; ARGS="--only drain-100 --rows 100000", ARGS="--debezium", ARGS="--list"
	scripts/install bench
	$(if $(findstring --debezium,$(ARGS)),scripts/install debezium)
	cargo build --release --locked
	@# Cargo builds a second one for benchmarks, with other features of the crates below; measured is what users run.
	@mkdir -p target/measured && cp target/release/walpost target/measured/
	@WALPOST_TEST_LOCAL=1 cargo bench --locked --features cli --bench pipeline -- \
	  --relay "$(CURDIR)/target/measured/walpost" $(ARGS)

demo: ## the main job on this machine, nothing left behind; ARGS="--for 10s"
	@scripts/install demo
	@# Built first and aloud: the first build takes minutes, and silence looks like a fault.
	@cargo build --release --locked
	@cargo run --release --locked --quiet -- demo $(ARGS)

lint: ## format, clippy, documentation; warnings are errors
	scripts/install build
	cargo fmt --check
	for example in examples/rust-*; do cargo fmt --check --manifest-path $$example/Cargo.toml || exit 1; done
	cargo clippy --locked --all-features --all-targets -- -D warnings
	@# Not among all targets, since plain `cargo test` leaves it out.
	cargo clippy --locked --all-features --test faults -- -D warnings
	@# A service that only writes to the outbox builds the library alone, without C.
	cargo clippy --locked --no-default-features --lib -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --all-features --no-deps

lint-deploy: ## Dockerfile, compose.yaml, Kubernetes, systemd, workflows and licences, each by its own linter
	scripts/lint-deploy

static: ## the binary that needs nothing of the machine, target/<processor>-unknown-linux-musl/release/walpost
	scripts/install build
	scripts/install rust
	scripts/static-binary

docs: ## docs/configuration.md and docs/commands.md, from the command line's definition
	scripts/install build
	WALPOST_WRITE_DOCS=1 cargo test --locked --all-features --lib reference

clean: ## what cargo built; the servers fetched for the tests stay in the cache
	cargo clean
