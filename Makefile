# Every target sets up what it needs by itself on Debian 12 and 13 (scripts/setup), says so, and does it once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

ARGS ?=
CAPTURES ?= ../shared/captures
CONFORMANCE ?= accounting=1,flows=0.98,tcp=0.98,dns=1.0,tls=1.0,http1=1.0,http2=1.0

python := .venv/bin/python

.PHONY: help run test lint format bench kernels conformance images collector clean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do
		printf '  make %-12s %s\n' "$$name" "$$text"
	done

run: ## watch this host: a collector on loopback unless OTEL_EXPORTER_OTLP_ENDPOINT is set, the agent, a live summary (root; ARGS=...)
	@scripts/setup run
	exec $(python) -m scripts.run $(ARGS)

test: lint ## lint, conformance where there are captures, then all tests with coverage (root)
	@scripts/setup test
	scripts/require-root test
	scripts/build-otelcol
	scripts/get-promtool
	if [[ -f $(CAPTURES)/check.py ]]; then
		$(MAKE) conformance
	else
		echo 'test: no captures at $(CAPTURES): conformance is not checked (CAPTURES=DIR names them)' >&2
	fi
	rm -rf .cache/coverage
	mkdir -p .cache/coverage
	chmod 1777 .cache/coverage # some tests run the agent as nobody, and its coverage counts too
	PATH="$(CURDIR)/.cache/bin:$$PATH" $(python) -m pytest --cov --cov-report=term-missing:skip-covered --timeout=600 $(ARGS)

lint: ## ruff, mypy --strict, import-linter, clang-format: nothing is changed
	@scripts/setup lint
	scripts/lint

format: ## let ruff and clang-format lay out the sources
	@scripts/setup lint
	.venv/bin/ruff check --quiet --fix --select I,F401
	.venv/bin/ruff format
	.venv/bin/clang-format -i bpf/*.c bpf/include/*.h

bench: ## what a packet and a second cost, and who else is how fast (root; ARGS=...)
	@scripts/setup test
	scripts/require-root bench
	exec $(python) tests/bench/run.py $(ARGS)

kernels: ## the shipped images on Debian's other kernels, under qemu (root, minutes; ARGS=...)
	@scripts/setup test
	scripts/require-root kernels
	exec $(python) scripts/kernels/run.py $(ARGS)

conformance: ## replay the captures of CAPTURES=DIR and compare with their known answers
	@scripts/setup run
	if [[ ! -f $(CAPTURES)/check.py ]]; then
		echo 'conformance: no captures: $(CAPTURES)/check.py is not there' >&2
		echo 'conformance: remedy: make conformance CAPTURES=DIR, a folder with check.py, pcaps/ and expected/' >&2
		exit 1
	fi
	scripts/require-root conformance
	only=$$(sed 's/=[^,]*//g' <<<'$(CONFORMANCE)')
	exec $(python) $(CAPTURES)/check.py --only "$$only" --threshold '$(CONFORMANCE)' \
		--replay-cmd '$(CURDIR)/.venv/bin/otel-netmon replay {pcap} --output json' $(ARGS)

images: ## compile bpf/*.c afresh into the program images that ship (root)
	@scripts/setup run
	scripts/require-root images
	exec $(python) -m otel_netmon.kernel.images_build $(ARGS)

collector: ## build the OpenTelemetry Collector of the tests into .cache/otelcol
	@scripts/build-otelcol

clean: ## remove all that make made: .venv, .cache, dist
	@rm -rf .venv .cache dist .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
