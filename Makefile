# Every target does its own set-up (tools/setup_env.sh): a few seconds when it is done already.
SHELL := /bin/bash

# Which line of the OpenMMLab packages: openmmlab (2D and 3D), or onedl (maintained, 2D).
STACK ?= openmmlab
# An active virtual environment, or an active one of conda's that is not its base; else our own.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENVIRONMENT := $(or $(ACTIVE),$(if $(filter onedl,$(STACK)),.venv-onedl,.venv))
PYTHON := "$(ENVIRONMENT)/bin/python"
SET_UP := tools/setup_env.sh --stack $(STACK)
CONSTRAINTS := requirements/constraints$(if $(filter onedl,$(STACK)),-onedl).txt

SEEDS ?= 1
DATA ?=
PAGE ?=
OUT ?= work_dirs/demo
OUT3D ?= work_dirs/demo3d
OUT_ROOMS ?= work_dirs/demo_rooms
OUT_REGRESSION ?= work_dirs/demo_regression
DEMO_OPTIONS = --seeds $(SEEDS) $(if $(PAGE),--page)

TESTS ?= tests ops/tests
FAST_TESTS := tests/ebm_mmdet ops/tests
# Two workers of one thread each are faster than one worker of two threads.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTHON) -m pytest --durations=15
PARALLEL = -n $(WORKERS) --dist worksteal

# What has to be installed for TESTS: the operators' need torch alone, those of 2D no mmdet3d.
BEYOND_OPS := $(filter-out ops ops/%,$(TESTS))
BEYOND_2D := $(filter-out tests/ebm_mmdet tests/ebm_mmdet/% tests/ebm_mmdet:% tests/packaging \
	tests/packaging/% tests/tools tests/tools/%,$(BEYOND_OPS))
TEST_LEVEL := $(if $(BEYOND_2D),$(if $(filter onedl,$(STACK)),,--with-3d),$(if $(BEYOND_OPS),,--ops-only))

.PHONY: help install install3d demo demo3d demo-rooms demo-regression test test-fast lint bench docs clean

help:
	@echo "make demo           train a small detector and its energy head, refine, evaluate, draw"
	@echo "make demo SEEDS=3   the same over three seeds, with the spread (PAGE=1: into docs/results.md)"
	@echo "make demo DATA=dir  the same on your own folder in COCO format"
	@echo "make demo3d         the same in 3D: LiDAR-like scenes, oriented boxes (mmdet3d, 2 GB more)"
	@echo "make demo-rooms     ROCK: detection that learns from scene, depth and normals, on generated rooms"
	@echo "make demo-regression  numbers from images: three methods on generated ones, densities, pictures"
	@echo "make test           the whole test suite (TESTS=ops/tests for a part: installs what it needs)"
	@echo "make test-fast      2D and the operators, without what is marked slow"
	@echo "make lint           ruff: errors and formatting"
	@echo "make bench          the benchmarks of the operators and of refinement"
	@echo "make docs           the pages of docs/ as HTML, in build/docs; warnings are errors"
	@echo "make install        only the set-up: virtual environment, dependencies, C++ operators"
	@echo "make install3d      the set-up with mmdet3d, as make test and make demo3d do it"
	@echo "make clean          remove what was built here (not .venv, not work_dirs)"
	@echo "STACK=onedl         with any of them but 3D: OneDL's maintained line, in .venv-onedl"

install:
	@$(SET_UP)

install3d:
	@$(SET_UP) --with-3d

demo: install
	$(PYTHON) tools/demo.py $(DEMO_OPTIONS) $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

demo3d: install3d
	$(PYTHON) tools/demo3d.py $(DEMO_OPTIONS) --out "$(OUT3D)"

demo-rooms: install
	$(PYTHON) tools/demo_rooms.py $(DEMO_OPTIONS) --out "$(OUT_ROOMS)"

demo-regression: install
	$(PYTHON) tools/demo_regression.py --out "$(OUT_REGRESSION)"

test:
	@$(SET_UP) $(TEST_LEVEL)
	$(PYTEST) $(if $(BEYOND_OPS),$(PARALLEL)) $(TESTS)

test-fast: install
	$(PYTEST) $(PARALLEL) -m "not slow" $(FAST_TESTS)

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# Those that need a trained model or a GPU are called by hand; docs/speed.md says how.
BY_HAND := acceleration fit_gain gpu
BENCHMARKS := $(filter-out $(BY_HAND:%=tools/lab/benchmarks/%.py),\
	$(wildcard ops/benchmarks/[!_]*.py tools/lab/benchmarks/[!_]*.py))

bench: install3d
	@set -e; for script in $(BENCHMARKS); do \
		echo "== $$script"; $(PYTHON) "$$script"; done

docs: install3d
	$(PYTHON) -m pip install --quiet -c $(CONSTRAINTS) -r requirements/docs.txt
	$(PYTHON) -m sphinx -W --keep-going docs build/docs

clean:
	rm -rf {.,ops}/{build,dist,*.egg-info,.pytest_cache,.ruff_cache,.hypothesis} ebm_mmdet/.mim
	find ops -name '*.so' -delete
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	rm -f "$(ENVIRONMENT)"/.ebm-mmdet-{,ops-,3d-}ready
