# The same commands that CI calls. `make run` and `make test` do all the set-up they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DATA_DIR ?= $(CURDIR)/.data

.PHONY: run setup setup-dev test test-pipes test-postgres16 test-distributed test-failures simulate bench-relay bench-outbox bench-saga bench-http bench-saga-history bench-ledger check lock clean services services-stop

setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lastro needs Python 3.11 or later.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: setup
	@exec $(BIN)/python -m config.run

# Tests start a hundred processes of ours: without bytecode each of them, and each worker, compiles the whole project again.
test test-pipes test-postgres16 test-distributed test-failures: export PYTHONDONTWRITEBYTECODE :=
# One a core that is ours: three on two cores took a tenth longer.
WORKERS = $$($(CURDIR)/$(BIN)/python $(CURDIR)/tests/cores.py)

# A test that takes longer than five minutes is stuck, not slow, also where a machine has little time for us.
test: setup-dev test-pipes
	EMBEDDED_POSTGRES_DIR=postgres-test $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

# The stand-alone package of steps in other services, as far as it needs no server.
test-pipes: setup-dev
	cd pipes && $(CURDIR)/$(BIN)/python -m pytest -q -n $(WORKERS)

# The same suite on PostgreSQL 16, without the tests of pages and processes, which a server's version does not change.
test-postgres16: setup-dev
	PGSERVER_POSTGRES_VERSION=16 EMBEDDED_POSTGRES_DIR=postgres16-test \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not browser and not process" $(PYTEST_ARGS)

# On real servers, which are started and stopped here: the brokers' tests, and the flows over Kafka. They mostly wait, so they
# run beside each other: one group of brokers' tests a server, which it may restart; a flow has topics and a database of its own.
PYTEST_SERVERS := $(BIN)/python -m pytest -W "ignore:unclosed <socket:ResourceWarning" --timeout=600
test-distributed: setup-dev
	@$(BIN)/python -m config.services start kafka redis rabbitmq apicurio
	set -a; . $(DATA_DIR)/services/env; set +a; export EMBEDDED_POSTGRES_DIR=postgres-test; \
		registry=$$SCHEMA_REGISTRY_URL; unset CELERY_BROKER_URL SCHEMA_REGISTRY_URL; \
		MESSAGING_TRANSPORT=local $(PYTEST_SERVERS) -n 3 --dist loadgroup tests/brokers $(PYTEST_ARGS) && \
		SCHEMA_REGISTRY_URL=$$registry MESSAGING_TRANSPORT=local $(PYTEST_SERVERS) tests/brokers/test_registry.py $(PYTEST_ARGS) && \
		MESSAGING_TRANSPORT=kafka $(PYTEST_SERVERS) -n 3 tests/flows -m "not process" $(PYTEST_ARGS) && \
		MESSAGING_TRANSPORT=local $(PYTEST_SERVERS) tests/pipes -m "kafka or rabbitmq" $(PYTEST_ARGS) && \
		(cd pipes && $(CURDIR)/$(PYTEST_SERVERS) -m "kafka or kafka_secured or rabbitmq"); \
		status=$$?; $(BIN)/python -m config.services stop; exit $$status

# A deployment of many processes that are killed in the middle: once on PostgreSQL alone, once on Kafka and Redis of its own,
# once on a RabbitMQ that is Celery's broker too (the kill points; the rest of them there: MESSAGING_TRANSPORT=rabbitmq).
# On PostgreSQL alone only those that `make test` leaves out. One deployment, and beside it what needs none.
test-failures: setup-dev
	MESSAGING_TRANSPORT=local $(PYTEST_SERVERS) -n 2 --dist loadgroup tests/failures -m distributed $(PYTEST_ARGS)
	MESSAGING_TRANSPORT=kafka $(PYTEST_SERVERS) -n 2 --dist loadgroup tests/failures \
		--ignore=tests/failures/test_kill.py --ignore=tests/failures/test_webhooks.py $(PYTEST_ARGS)
	MESSAGING_TRANSPORT=rabbitmq $(PYTEST_SERVERS) tests/failures -m distributed \
		-k "TestKilled and not AtEveryPoint" $(PYTEST_ARGS)

# Seeded schedules of the saga engine: SEEDS=20000 searches on all cores, FIRST=500 begins there; SEED=123 replays one.
SEEDS ?= 20000
FIRST ?= 0
simulate: setup-dev
	EMBEDDED_POSTGRES_DIR=postgres-test $(BIN)/python -m tests.simulation.search \
		$(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

# Prints one JSON object as its last line: ratios to bare kafka-python in the same run.
bench-relay: setup
	@$(BIN)/python -m config.services start kafka
	@set -a; . $(DATA_DIR)/services/env; set +a; $(BIN)/python -m benchmarks.relay; \
		status=$$?; $(BIN)/python -m config.services stop kafka; exit $$status

# How the outbox's tables were chosen.
bench-outbox: setup
	@$(BIN)/python -m benchmarks.outbox_layout

# What the saga's peers need, apart from ours.
$(VENV)/bench/.ready: requirements-bench.txt
	@test -x $(VENV)/bench/bin/python || $(PYTHON) -m venv $(VENV)/bench
	$(VENV)/bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

# A run of five local steps by our engine, by DBOS Transact and as bare writes. Prints JSON; takes some five minutes.
bench-saga: setup $(VENV)/bench/.ready
	@$(BIN)/python -m config.services start redis
	@set -a; . $(DATA_DIR)/services/env; set +a; $(BIN)/python -m benchmarks.saga; \
		status=$$?; $(BIN)/python -m config.services stop redis; exit $$status

# POST /orders under constant arrivals, with the processes of a server. Prints JSON; takes some ten minutes.
bench-http: setup
	@$(BIN)/python -m config.services start redis
	@set -a; . $(DATA_DIR)/services/env; set +a; $(BIN)/python -m benchmarks.http_orders; \
		status=$$?; $(BIN)/python -m config.services stop redis; exit $$status

# Whether history slows the present: 50 thousand finished runs against 5 million. Prints JSON; takes half an hour and 12 GB.
bench-saga-history: setup
	@$(BIN)/python -m benchmarks.saga_history

# The ledger against the seed's engine, COPY and django-hordak, which has an environment of its own. BENCH_HISTORY=10000000
# lines of history take some minutes and 6 GB; 0 leaves them out.
$(VENV)/bench/.ready-ledger: requirements.txt requirements-bench.txt
	@test -x $(VENV)/bench/bin/python || $(PYTHON) -m venv $(VENV)/bench
	$(VENV)/bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-bench.txt
	@touch $@

bench-ledger: $(VENV)/bench/.ready-ledger
	@$(VENV)/bench/bin/python -m benchmarks.ledger

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd pipes && $(CURDIR)/$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py verify_contracts
	$(BIN)/python -m config.check_deploy

# Kafka, Redis and RabbitMQ on loopback; `set -a; . .data/services/env` makes the project use them.
services: setup
	@$(BIN)/python -m config.services start

services-stop: setup
	@$(BIN)/python -m config.services stop

# Resolve requirements*.in again.
lock: setup-dev
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile -q --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --annotation-style=line -o requirements.txt requirements.in
	$(BIN)/pip-compile -q --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --annotation-style=line -c requirements.txt -o requirements-dev.txt requirements-dev.in
	$(BIN)/pip-compile -q --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --annotation-style=line -c requirements.txt -o requirements-bench.txt requirements-bench.in

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
