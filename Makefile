# Every verb of the project; `make help` lists them. Needs Python 3.11 or newer, make and git, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# The suite's processes are many and small: one worker per core.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-long check-deploy check lint types contracts migrations-check bench bench-check docs docs-check demo-failover demo-outage demo-keyvault lock clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: .venv/ready ## start the Primary, its worker, the four gateways and a local Azure here; Ctrl-C ends them
	@./mazevault up

test: .venv/ready-dev ## run the tests (a small share of the rounds)
	@$(BIN)/python -m pytest -n $(WORKERS)

test-fast: .venv/ready-dev ## run a part of every package's tests, in about a minute
	@$(BIN)/python -m pytest -n $(WORKERS) @tests/fast.txt

test-long: .venv/ready-dev ## run all tests with the full numbers of rounds and the real time constants
	@$(BIN)/python -m pytest -n $(WORKERS) -m ''

check-deploy: .venv/ready-dev ## check what deploys it: Terraform's files, formatted, valid, planned for every region and workspace
	@$(BIN)/python -m pytest -n $(WORKERS) -m 'not long' tests/deploy

check: lint types contracts migrations-check docs-check test check-deploy ## lint, types, import contracts, migrations, generated documents, tests, the Azure deployment

lint: .venv/ready-dev ## style and likely mistakes
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . && echo "lint: ok"

types: .venv/ready-dev ## static types
	@$(BIN)/mypy .

contracts: .venv/ready-dev ## who may import whom
	@$(BIN)/lint-imports

migrations-check: .venv/ready-dev ## every model change has its migration
	@DJANGO_SETTINGS_MODULE=orchestrator.settings.test $(BIN)/python manage.py makemigrations --check --dry-run

bench: .venv/ready-dev ## measure beside limits and peers; prints JSON, writes docs/performance.md and its chart
	@$(BIN)/python -m benchmarks --write

bench-check: .venv/ready-dev ## measure the ratios that are promised; fails when one is far below
	@$(BIN)/python -m benchmarks --check

docs: .venv/ready-dev ## write the generated documents anew: OpenAPI, the failover diagram, the naming convention for Terraform
	@$(BIN)/python -m cli.documents write

docs-check: .venv/ready-dev ## the generated documents are what the code says
	@$(BIN)/python -m cli.documents check

demo-failover: .venv/ready ## kill a gateway, move its environment to DR and back, with times
	@$(BIN)/python -m cli.demos.failover

demo-outage: .venv/ready ## kill the Primary under load, write on at the gateways, bring it back, count what became of each write
	@$(BIN)/python -m cli.demos.outage

demo-keyvault: .venv/ready ## sync a vault while its gateway is killed, refuse what would wipe it, freeze a gateway, count what was lost
	@$(BIN)/python -m cli.demos.keyvault

lock: .venv/ready-dev ## compile the requirement files with hashes
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate requirements.in -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate requirements-embedded.in -o requirements-embedded.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate requirements-dev.in -o requirements-dev.txt

clean: ## remove the environment and all local data
	@test ! -f var/postgres-is-elsewhere.txt || grep -o '/var/tmp/mazevault-[0-9a-f]*' var/postgres-is-elsewhere.txt | xargs rm -rf
	rm -rf .venv var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with PYTHON=/path/to/python3.11")'
	@echo "making the Python environment in .venv"
	@$(PYTHON) -m venv .venv && touch $@

.venv/ready: .venv/made requirements.txt requirements-embedded.txt
	@echo "installing what a node needs"
	@$(PIP) -r requirements.txt -r requirements-embedded.txt && touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	@echo "installing what the checks need"
	@$(PIP) -r requirements-dev.txt && touch $@
