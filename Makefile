# Every target works on a fresh clone. Requirements: Rust (rust-toolchain.toml), Python 3.11 or newer, and git.
CARGO ?= cargo
PYTHON ?= python3

.PHONY: add-repo update-repo remove-repo list-repos repo-logs sync-repos dev-with-repos dev-add-repo
.PHONY: help run codeloc prepare test test-images soak mutations lint bench clean-local

help:
	@echo "Run on this machine:"
	@echo "  make run             Build and run codeloc, localcloud and Dagster until Ctrl-C"
	@echo "  make dev-with-repos  Run with your configs: [REPOS=folder]"
	@echo "  make dev-add-repo    Add a local project to the running stack: REPO_PATH=project"
	@echo "  make clean-local     Delete .local/ with the state of make run"
	@echo ""
	@echo "Manage locations:"
	@echo "  make add-repo        Inspect a git repository and write its config: REPO_URL=https://... [REPO_NAME=] [REPO_BRANCH=]"
	@echo "  make update-repo     Change a config and reconcile the location: REPO_NAME= [SET='branch=next resources.cpu=512']"
	@echo "  make remove-repo     Remove a config and delete its location: REPO_NAME="
	@echo "  make list-repos      List all locations"
	@echo "  make repo-logs       Show the logs of a location: REPO_NAME= [FOLLOW=1]"
	@echo "  make sync-repos      Reconcile all locations now"
	@echo ""
	@echo "Develop codeloc:"
	@echo "  make prepare         Install uv, Dagster, moto, the sample repositories and the test tools in .local/"
	@echo "  make lint            Check formatting, clippy, dependencies and the style of texts"
	@echo "  make test            Run all tests, with cargo-nextest if it is installed"
	@echo "  make test-images     Run the tests of the Python code in the images (part of make test)"
	@echo "  make soak            Run many seeds of the simulation: [SEEDS=1000] [FROM=0], or shrink one seed: SEED=7; WIDE=1 adds runs; FAULTS=2 doubles the faults"
	@echo "  make mutations       Introduce bugs into the controller and check that the tests fail: [ONLY=word]"
	@echo "  make bench           Measure calls, time and memory of a fleet, compared with the minimum"

# Pass flags with RUN_FLAGS, for example: make run RUN_FLAGS='--web-port 3001'. deploy/local/run.py --help lists them.
run:
	$(CARGO) build --locked -p codeloc -p localcloud
	@exec $(PYTHON) deploy/local/run.py $(RUN_FLAGS)

# A target without its required variable fails while make reads this file, before any build.
require = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,$(error $(1) needs $(2), as in: make $(1) $(2)=$(3))))
$(call require,add-repo,REPO_URL,https://github.com/user/repo.git)
$(call require,update-repo,REPO_NAME,orders)
$(call require,remove-repo,REPO_NAME,orders)
$(call require,repo-logs,REPO_NAME,orders)
$(call require,dev-add-repo,REPO_PATH,~/projects/orders)

# Commands use the daemon and the configs of make run. To use another daemon, set CODELOC_FLAGS, for example:
# CODELOC_FLAGS='--server https://codeloc.example.com --token-file token'
CODELOC_FLAGS ?= --config .local/run/codeloc.yml
CODELOC = $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)/debug/codeloc

# Builds the same packages as `make run`, so that both builds use the same features. Only the first build shows its progress.
codeloc:
	@$(CARGO) build $(if $(wildcard $(CODELOC)),--quiet) --locked -p codeloc -p localcloud

add-repo: codeloc
	@$(CODELOC) add "$(REPO_URL)" $(if $(REPO_NAME),--name "$(REPO_NAME)") $(if $(REPO_BRANCH),--branch "$(REPO_BRANCH)") \
		$(foreach set,$(SET),--set "$(set)") $(CODELOC_FLAGS)

update-repo: codeloc
	@$(if $(SET),$(CODELOC) update "$(REPO_NAME)" $(foreach set,$(SET),--set "$(set)") $(CODELOC_FLAGS) &&) \
		$(CODELOC) sync "$(REPO_NAME)" $(CODELOC_FLAGS)

remove-repo: codeloc
	@$(CODELOC) remove "$(REPO_NAME)" $(CODELOC_FLAGS)

list-repos: codeloc
	@$(CODELOC) list $(CODELOC_FLAGS)

repo-logs: codeloc
	@$(CODELOC) logs "$(REPO_NAME)" $(if $(FOLLOW),--follow) $(CODELOC_FLAGS)

sync-repos: codeloc
	@$(CODELOC) sync $(CODELOC_FLAGS)

# Uses the sample configs in repos/ unless REPOS is set.
dev-with-repos:
	@$(MAKE) --no-print-directory run RUN_FLAGS='--repos "$(abspath $(or $(REPOS),repos))" $(RUN_FLAGS)'

dev-add-repo: codeloc
	@$(CODELOC) add "$(abspath $(REPO_PATH))" $(if $(REPO_NAME),--name "$(REPO_NAME)") \
		$(if $(REPO_BRANCH),--branch "$(REPO_BRANCH)") $(foreach set,$(SET),--set "$(set)") $(CODELOC_FLAGS)

prepare:
	$(PYTHON) deploy/local/prepare.py
	@$(PYTHON) tests/tools/prepare.py || test $$? -eq 3

# nextest does not run doc tests, so cargo test runs them.
test: prepare test-images
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; \
		$(CARGO) nextest run --locked --workspace && \
		$(CARGO) test --locked --workspace --doc; \
	else \
		set -x; \
		$(CARGO) test --locked --workspace; \
	fi

# Tests the package codeloc_dagster with the real Dagster and dagster-aws.
test-images: prepare
	.local/dagster/bin/python -B -W ignore -m unittest discover -s deploy/images/code-location/tests
	.local/dagster/bin/python -B -W ignore -m unittest discover -s deploy/images/build

# Uses the build of the tests, in which a seed takes a third of a second. SEED runs one seed and shrinks its history while it fails.
SEEDS ?= 1000
FROM ?= 0
soak:
	$(CARGO) run --locked --quiet --profile test -p codeloc-tests --example soak -- \
		$(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM)) $(if $(WIDE),--wide) $(if $(FAULTS),--faults $(FAULTS))

mutations:
	$(PYTHON) tests/mutations/run.py $(ONLY)

lint:
	$(PYTHON) -B tests/tools/style.py controller crds
	$(PYTHON) -B -m unittest discover -s tests/tools
	$(PYTHON) -B tests/mutations/run.py --check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		set -x; $(CARGO) deny check; \
	else \
		echo "skipping the checks of advisories, licenses and duplicates: cargo-deny is not installed"; \
	fi

bench:
	$(CARGO) run --locked --quiet --profile optimised -p codeloc-tests --example bench

clean-local:
	rm -rf .local
