# `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check docs bench install chromium clean

demo: $(STAMP)
	$(BIN)/rtl demo $(ARGS)

# Two at once: the tests of one Ray cluster and then those of a person's view (terminals, browsers,
# clusters of several nodes), and all others. Deadlines are longer than when one runs alone, and
# threads that wait for each other sleep, as others need their core.
# (A shell's background job ignores Ctrl-C, and so would what it starts: tests that send it run in
# the foreground, or in a terminal of their own.)
CHOSEN := not slow and not gpu
LANE = $(BIN)/pytest -o timeout=900
test: $(STAMP) chromium
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	@out=$$(mktemp -d); \
	export RTL_TEST_SLOWER=3 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0; \
	{ $(LANE) -m "$(CHOSEN) and ray" --ignore=tests/e2e; ray=$$?; \
	  $(LANE) -m "$(CHOSEN)" tests/e2e; exit $$((ray | $$?)); } >$$out/log 2>&1 & other=$$!; \
	$(LANE) -m "$(CHOSEN) and not ray" --ignore=tests/e2e; first=$$?; \
	wait $$other; second=$$?; cat $$out/log; rm -r $$out; \
	exit $$((first | second))
endif

check: $(STAMP) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python cluster/audit.py

# Needs no network. Fails for a dead link, a page outside the navigation or an unknown name.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict

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
	rm -rf $(VENV) .site .mypy_cache .pytest_cache .ruff_cache
