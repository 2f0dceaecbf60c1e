# The commands that people type. Each first makes the environment in .venv if it is missing, broken, or made from
# another lock, Python or folder. Folders and values reach the shell as variables: they may hold quotes, spaces or "$".

PYTHON ?=
PROFILE ?= quick
CORES ?= 2
CHAPTER ?=
CLAIM ?=
MINUTES ?=
TESTS ?=
VENV ?= .venv
RUN := $(VENV)/bin/python
export PYTHON PROFILE CORES CHAPTER CLAIM MINUTES

.ONESHELL:
.SHELLFLAGS := -ec
.PHONY: help book chapter page pages pdf record reproduce compare check serve doctor chapters matrix data
.PHONY: test zoo bench bench-kernels bench-int8 bench-sparse lint table lock environment clean FORCE

help:
	@echo "make book [PROFILE=quick|standard|full] [CORES=2]   run what changed, and build the pages in _build/html"
	echo "make serve                                          show the pages on 127.0.0.1"
	echo "make reproduce [PROFILE=...] [CLAIM=C2.3-06] [CHAPTER=pruning] [MINUTES=15]"
	echo "                                                    compare the held verdicts with this machine's"
	echo "make compare [PROFILE=...]                          list what differs from the committed results"
	echo "make doctor                                         check that this machine's kernels compute correctly"
	echo "make chapter CHAPTER=pruning [PROFILE=...]          run one chapter, or several: CHAPTER='pruning quantization'"
	echo "make page CHAPTER=pruning [PROFILE=...]             preview one chapter's page, in seconds"
	echo "make pages [PROFILE=...]                            build the pages from existing runs"
	echo "make pdf                                            print the last built pages into one PDF"
	echo "make check [PROFILE=...]                            run only the gates, on the last built pages"
	echo "make record [PROFILE=...] [CHAPTER=pruning]         run what changed, and write the records in results/"
	echo "make data [PROFILE=...]                             download the data sets that the chapters use"
	echo "make chapters | matrix [PROFILE=...]                list chapters and fingerprints | list the jobs for them"
	echo "make test [TESTS=-m\ 'not browser']                 run all tests, or those that pytest's options choose"
	echo "make zoo [MINUTES=3]                                try every technique on networks it was not written for,"
	echo "                                                    or repeat as many trials as fit, against the record"
	echo "make bench                                          compare our algorithms with other libraries' in time and result"
	echo "make bench-kernels                                  compare bit kernels with torch's floats and this core's peaks"
	echo "make bench-int8                                     compare float32, bfloat16 and int8: time, files, refusals"
	echo "make bench-sparse                                   compare sparse products and smaller networks with dense ones"
	echo "make lint                                           check style, format and types of the code"
	echo "make table                                          write README's table of techniques"
	echo "make lock | environment | clean                     remake the lock | make .venv | remove what was built"

book: environment
	@$(RUN) -m lib book --profile "$$PROFILE" --cores "$$CORES"

chapter: environment
	@test -n "$$CHAPTER" || { echo "name a chapter: make chapter CHAPTER=pruning (make chapters lists them)" >&2; exit 1; }
	for chapter in $$CHAPTER; do $(RUN) -m lib run "$$chapter" --profile "$$PROFILE"; done

page: environment
	@test -n "$$CHAPTER" || { echo "name a chapter: make page CHAPTER=pruning (make chapters lists them)" >&2; exit 1; }
	$(RUN) -m lib page "$$CHAPTER" --profile "$$PROFILE"

pages: environment
	@$(RUN) -m lib pages --profile "$$PROFILE"

pdf: environment
	@$(RUN) -m lib pdf

record: environment
	@$(RUN) -m lib record --profile "$$PROFILE" --cores "$$CORES" $(if $(CHAPTER),--chapter "$$CHAPTER")

reproduce: environment
	@$(RUN) -m lib reproduce --profile "$$PROFILE" --cores "$$CORES" $(if $(CLAIM),--claim "$$CLAIM") \
	    $(if $(CHAPTER),--chapter "$$CHAPTER") $(if $(MINUTES),--minutes "$$MINUTES")

compare: environment
	@$(RUN) -m lib compare --profile "$$PROFILE"

check: environment
	@$(RUN) -m lib check --profile "$$PROFILE"

serve: environment
	@$(RUN) -m lib serve

doctor: environment
	@$(RUN) -m lib doctor

chapters: environment
	@$(RUN) -m lib chapters --json --profile "$$PROFILE"

matrix: environment
	@$(RUN) -m lib.book.matrix "$$PROFILE"

data: environment
	@$(RUN) -m lib.book.matrix "$$PROFILE" --load

test: environment
	@$(RUN) -m pytest $(TESTS)

zoo: environment
	@$(RUN) -m lib zoo --cores "$$CORES" $(if $(MINUTES),--minutes "$$MINUTES")

bench: environment
	@$(RUN) -m benchmarks.kmeans
	$(RUN) -m benchmarks.coding
	$(RUN) -m benchmarks.filters
	$(RUN) -m benchmarks.hashing
	$(RUN) -m benchmarks.search
	$(RUN) -m benchmarks.maps
	$(RUN) -m benchmarks.neuroevolution

bench-kernels: environment
	@$(RUN) -m benchmarks.kernels

bench-int8: environment
	@$(RUN) -m benchmarks.int8

bench-sparse: environment
	@$(RUN) -m benchmarks.sparse

lint: environment
	@$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

table: environment
	@$(RUN) -m lib.book.catalogue

# The lock must not name a CPU-only build ("+cpu"): the public index does not have one.
lock: environment
	@$(RUN) -m piptools compile --quiet --strip-extras --no-header --no-annotate \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host --output-file requirements.lock requirements.in
	sed -i 's/+cpu$$//' requirements.lock

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis

environment: $(VENV)/.complete

# .venv/.complete says what .venv was made from. It is written last, so an interrupted installation is repeated. The
# oldest suitable Python on the path is used: the committed results were measured with it, and an environment should not
# change because a newer one was installed. A link to another checkout's .venv is used as long as it fits, and is never
# changed.
$(VENV)/.complete: FORCE
	@version() { "$$1" -c 'import ensurepip, sys, venv; v = sys.version_info; print("%d.%d" % v[:2]) if (3, 11) <= v < (3, 14) else None' 2>/dev/null || true; }
	contents() { echo "$$1, requirements.lock $$(cksum < requirements.lock), $$(cd $(VENV) && pwd -P)"; }
	! command -v flock >/dev/null || { exec 9< requirements.lock; flock 9; }
	has="$$(version $(RUN))"
	wanted="$$has"
	if [ -n "$$PYTHON" ]; then
	    wanted="$$(version "$$PYTHON")"
	    if [ -z "$$wanted" ]; then
	        echo "Python 3.11, 3.12 or 3.13 with venv is needed, and '$$PYTHON' is not that: install one (README.md says how) or name another with make PYTHON=..." >&2
	        exit 1
	    fi
	fi
	if [ -n "$$has" ] && [ "$$has" = "$$wanted" ] && [ -e $@ ]; then
	    [ "$$(cat $@)" != "$$(contents "$$has")" ] || exit 0
	    python="$${PYTHON:-$(RUN)}" renew=--without-pip
	else
	    python="$$PYTHON" renew=--clear
	    for name in python3.11 python3.12 python3.13 python3; do
	        if [ -z "$$python" ] && [ -n "$$(version $$name)" ]; then python=$$name; fi
	    done
	    if [ -z "$$python" ]; then
	        echo "Python 3.11, 3.12 or 3.13 with venv is needed, and none is on the path: install one (README.md says how) or name it with make PYTHON=..." >&2
	        exit 1
	    fi
	fi
	echo "Making $(VENV) from requirements.lock: this takes some minutes, but only once" >&2
	if [ -L $(VENV) ]; then
	    python="$$(readlink -f "$$(command -v "$$python")")" renew=--clear
	    rm $(VENV)
	fi
	rm -f $@
	"$$python" -m venv $$renew $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(RUN) -c "$$RELOCATABLE"
	contents "$$(version "$$python")" > $(VENV)/.complete.new
	mv $(VENV)/.complete.new $@

# Make the path to lib, and the scripts' paths to Python, relative, so that a copied or moved folder runs its own code
# with its own Python.
define RELOCATABLE
import os, pathlib, re, sys, sysconfig
site = sysconfig.get_path("purelib")
pathlib.Path(site, "survey.pth").write_text(os.path.relpath(os.getcwd(), site) + "\n")
for script in pathlib.Path(sys.prefix, "bin").iterdir():
    text = b"" if script.is_symlink() or not script.is_file() else script.read_bytes()
    own = re.match(rb"#!/bin/sh\n'''exec' \"/.*\n' '''\n|#!/.*/python[0-9.]*\n", text)
    if own:
        with script.open("wb") as file:
            file.write(b"#!/bin/sh\n'''exec' \"$$(dirname \"$$0\")/python\" \"$$0\" \"$$@\"\n' '''\n" + text[own.end():])
endef
export RELOCATABLE
