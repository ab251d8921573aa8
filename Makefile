# Latent Scattering. `make help` lists what there is.
PYTHON ?= python3
RUN ?= digits
SEEDS ?= 0,1,2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE := build/_build/html
# All that the site is rendered from.
PAGES := $(shell find book notebooks runs src _config.yml _toc.yml README.md -type f \
  -not -path '*/__pycache__/*' -not -path '*/.*')
export PATH := $(CURDIR)/$(BIN):$(PATH)
export JUPYTER_PLATFORM_DIRS := 1
# glibc keeps the memory of large arrays instead of asking for it again each time:
# on virtual machines that takes longer than filling it.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 4294967296
# papermill looks for Jupyter's widgets, which the book does without.
export PYTHONWARNINGS := ignore:IProgress not found

.DEFAULT_GOAL := help
.PHONY: help book run sweep test site check bench lint lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

book: run  ## execute the run `digits` and render the site
	@$(MAKE) --no-print-directory site

run: $(READY)  ## execute all chapters of a run: make run RUN=mnist
	@snakemake --cores all --quiet all --config run=$(RUN)

sweep: $(READY)  ## execute a run with several seeds: make sweep RUN=digits SEEDS=0,1,2
	@snakemake --cores all --quiet all --rerun-incomplete \
	  --config run=$(RUN) seeds=$(SEEDS) -- sweep

site: build/.site  ## render the site from the records
	@echo "The book: $(CURDIR)/$(SITE)/index.html"
	@echo "To open it: python3 -m webbrowser file://$(CURDIR)/$(SITE)/index.html"

build/.site: $(READY) $(PAGES)
	@python -m latent_scattering.record refresh
	@python -m latent_scattering.pages
	@jupyter-book build . -q -W --keep-going --path-output build
	@touch $@

# Tests and chapters run side by side, one thread each.
test: $(READY) lint  ## lint, types, unit tests, nbval of the run `digits`, the site
	OMP_NUM_THREADS=1 pytest -n logical --dist worksteal --ignore=tests/test_site.py \
	  --jaxtyping-packages=latent_scattering,beartype.beartype
	python -m latent_scattering.record check --run digits
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 LATENT_SCATTERING_VERIFY=1 \
	  pytest -n logical --dist loadscope --nbval book/digits --nbval-cell-timeout=600
	$(MAKE) --no-print-directory site
	SITE=$(SITE) pytest tests/test_site.py

lint: $(READY)
	ruff check
	ruff format --check
	mypy

check: $(READY)  ## fail if a record no longer matches its source
	@python -m latent_scattering.record check

bench: $(READY)  ## compare with peers, side by side
	@python -m pip install -q --disable-pip-version-check --no-deps normflows==1.7.3
	for name in scattering whitening precision memory upsampling planar_flow compiled roofline; do \
	  python -m benchmarks.$$name --json book/benchmarks/$$name.json || exit 1; done

lock:  ## resolve requirements.lock anew from pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q 'torch==2.13.0' '.[book,test]'
	(sed -n '/^#/p' requirements.lock; build/lock/bin/pip freeze \
	  --exclude latent-scattering | sed 's/+cpu$$//') > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:  ## delete what was made, but not .venv nor downloaded data
	rm -rf build cache .snakemake

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
