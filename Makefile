# The commands that people type. Each makes .venv first, where it is missing or older than requirements.lock.

PYTHON ?= python3.11
PROFILE ?= quick
CORES ?= 2
TESTS ?=
RUN := .venv/bin/python

.PHONY: help book test bench bench-kernels serve check compare lint lock clean

help:
	@echo "make book [PROFILE=quick|standard|full] [CORES=2]   run what changed, build the pages in _build/html"
	@echo "make test [TESTS=-m\ 'not browser']                 all tests, or those that pytest's options choose"
	@echo "make bench                                          our algorithms against other libraries': time and result"
	@echo "make bench-kernels                                  bit kernels against torch's floats and this core's peaks"
	@echo "make serve                                          show the pages on 127.0.0.1"
	@echo "make check [PROFILE=...]                            the gates alone, on the pages built last"
	@echo "make compare [PROFILE=...]                          which results moved against the committed ones"
	@echo "make lint | lock | clean                            read the code | remake the lock | drop what was built"

book: .venv/.complete
	@$(RUN) -m lib book --profile $(PROFILE) --cores $(CORES)

test: .venv/.complete
	@$(RUN) -m pytest $(TESTS)

bench: .venv/.complete
	@$(RUN) -m benchmarks.kmeans
	@$(RUN) -m benchmarks.coding
	@$(RUN) -m benchmarks.filters

bench-kernels: .venv/.complete
	@$(RUN) -m benchmarks.kernels

serve: .venv/.complete
	@$(RUN) -m lib serve

check: .venv/.complete
	@$(RUN) -m lib check --profile $(PROFILE)

compare: .venv/.complete
	@$(RUN) -m lib compare --profile $(PROFILE)

lint: .venv/.complete
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

# The lock names no CPU-only build ("+cpu"): the public index does not have it.
lock: .venv/.complete
	$(RUN) -m piptools compile --quiet --strip-extras --no-header --no-annotate \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host --output-file requirements.lock requirements.in
	sed -i 's/+cpu$$//' requirements.lock

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache .hypothesis

# The stamp is written last: an interrupted installation is made anew.
.venv/.complete: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 is needed, and '$(PYTHON)' is not that: install it, or name it with make PYTHON=..." >&2; exit 1; }
	@echo "Making .venv from requirements.lock: once, and for some minutes"
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(RUN) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "survey.pth").write_text("$(CURDIR)\n")'
	@touch $@
