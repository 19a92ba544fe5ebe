# Every target works on a fresh clone: Rust (rust-toolchain.toml), Python 3.11 or newer, and git are all it takes.
CARGO ?= cargo
PYTHON ?= python3

.PHONY: add-repo update-repo remove-repo list-repos repo-logs sync-repos dev-with-repos dev-add-repo
.PHONY: help run codeloc prepare test test-images soak mutations lint bench clean-local

help:
	@echo "make run          build, then run codeloc, localcloud and Dagster on this machine until Ctrl-C"
	@echo "make add-repo     REPO_URL=https://... [REPO_NAME=] [REPO_BRANCH=]: looks into the repository and writes its config"
	@echo "make update-repo  REPO_NAME= [SET='branch=next resources.cpu=512']: changes its config, or looks at it now"
	@echo "make remove-repo  REPO_NAME=: removes its config, and so the location"
	@echo "make list-repos   every location on one line; make repo-logs REPO_NAME= [FOLLOW=1]; make sync-repos: look at all of them now"
	@echo "make dev-with-repos [REPOS=folder]: make run with these configs, or with the samples in repos/"
	@echo "make dev-add-repo REPO_PATH=project: add a local project to the running stack"
	@echo "make test         every test, with cargo-nextest where it is installed"
	@echo "make test-images  the tests of the Python package in the images, which make test runs too"
	@echo "make lint         formatting, clippy, dependencies, style of texts"
	@echo "make soak         many seeds of the simulation: SEEDS=1000 FROM=0, or one and its shortest history: SEED=7"
	@echo "make mutations    breaks the controller on purpose, and checks that the tests notice"
	@echo "make bench        what a fleet costs in calls, time and memory, beside the least there could be"
	@echo "make prepare      make .local/: uv, Dagster, moto, the sample repositories, a registry and its tools"
	@echo "make clean-local  remove .local/ with everything that make run made"

# RUN_FLAGS passes flags on: make run RUN_FLAGS='--web-port 3001'. deploy/local/run.py --help lists them.
run:
	$(CARGO) build --locked -p codeloc -p localcloud
	@exec $(PYTHON) deploy/local/run.py $(RUN_FLAGS)

# A target with a missing variable fails while make reads this file, before anything compiles.
require = $(if $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,$(error $(1) needs $(2), as in: make $(1) $(2)=$(3))))
$(call require,add-repo,REPO_URL,https://github.com/user/repo.git)
$(call require,update-repo,REPO_NAME,orders)
$(call require,remove-repo,REPO_NAME,orders)
$(call require,repo-logs,REPO_NAME,orders)
$(call require,dev-add-repo,REPO_PATH,~/projects/orders)

# Commands go to the daemon of make run, and to its folder of configs, unless CODELOC_FLAGS says otherwise, as in
# CODELOC_FLAGS='--server https://codeloc.example.com --token-file token'.
CODELOC_FLAGS ?= --config .local/run/codeloc.yml
CODELOC = $(or $(CARGO_TARGET_DIR),target)/debug/codeloc

# The same packages as `make run`, so that neither build undoes the other's choice of features. Only the first shows its progress.
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

# Without REPOS, the sample configs in repos/.
dev-with-repos:
	@$(MAKE) --no-print-directory run RUN_FLAGS='--repos "$(abspath $(or $(REPOS),repos))" $(RUN_FLAGS)'

dev-add-repo: codeloc
	@$(CODELOC) add "$(abspath $(REPO_PATH))" $(if $(REPO_NAME),--name "$(REPO_NAME)") \
		$(if $(REPO_BRANCH),--branch "$(REPO_BRANCH)") $(foreach set,$(SET),--set "$(set)") $(CODELOC_FLAGS)

prepare:
	$(PYTHON) deploy/local/prepare.py
	@$(PYTHON) tests/tools/prepare.py || test $$? -eq 3

# The tests without AWS take seconds, and compiling them takes longer: that build is not optimised.
WITHOUT_AWS = -p codeloc --no-default-features --config profile.dev.package.codeloc.opt-level=0

# nextest runs no doc tests; cargo test does.
test: prepare test-images
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; \
		$(CARGO) nextest run --locked --workspace && \
		$(CARGO) test --locked --workspace --doc && \
		$(CARGO) nextest run --locked $(WITHOUT_AWS); \
	else \
		set -x; \
		$(CARGO) test --locked --workspace && \
		$(CARGO) test --locked $(WITHOUT_AWS); \
	fi

# Dagster's side of codeloc, with the real Dagster and dagster-aws.
test-images: prepare
	.local/dagster/bin/python -B -W ignore -m unittest discover -s deploy/images/code-location/tests

# The build of the tests does: a seed takes a third of a second. SEED shows one seed, and makes its history as short as it still fails.
SEEDS ?= 1000
FROM ?= 0
soak:
	$(CARGO) run --locked --quiet -p codeloc-tests --example soak -- \
		$(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM))

mutations:
	$(PYTHON) tests/mutations/run.py $(ONLY)

lint:
	$(PYTHON) -B tests/tools/style.py
	$(PYTHON) -B -m unittest discover -s tests/tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p codeloc --no-default-features --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		set -x; $(CARGO) deny check; \
	else \
		echo "cargo-deny is not installed: advisories, licenses and duplicates are not checked"; \
	fi

bench:
	$(CARGO) run --locked --quiet --profile optimised -p codeloc-tests --example bench

clean-local:
	rm -rf .local
