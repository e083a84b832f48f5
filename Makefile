# `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench install chromium clean

demo: $(STAMP)
	$(BIN)/rtl demo $(ARGS)

# The tests of one Ray cluster, which mostly wait, run beside all others; those in a terminal come
# last, when a person's waiting times mean something. (A shell's background job ignores Ctrl-C, and
# so would what it starts: tests that type or send one run in the foreground.)
CHOSEN := not slow and not gpu
test: $(STAMP) chromium
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	@shared=$$(mktemp); \
	$(BIN)/pytest -m "$(CHOSEN) and ray" >$$shared 2>&1 & ray=$$!; \
	$(BIN)/pytest -m "$(CHOSEN) and not ray and not terminal"; first=$$?; \
	wait $$ray; second=$$?; cat $$shared; rm $$shared; \
	$(BIN)/pytest -m "$(CHOSEN) and terminal"; third=$$?; \
	exit $$((first | second | third))
endif

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python cluster/audit.py

# One benchmark: `make bench THEME=serve ARGS="--seconds 30"`; benchmarks/README.md lists them.
THEMES := $(filter-out table,$(basename $(notdir $(wildcard benchmarks/*.py))))
bench: $(STAMP)
	@test -n "$(THEME)" || { echo "Name one with THEME: $(THEMES)."; exit 1; }
	$(BIN)/python benchmarks/$(THEME).py $(ARGS)
	$(BIN)/python benchmarks/table.py

install: $(STAMP)

# For the tests that drive a browser; they are skipped where there is none and no way to get one.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null; } || \
	echo "No Chromium: the browser's tests will be skipped."

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
