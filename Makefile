# One virtual environment, .venv, made from requirements-cpu.txt and pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
TESTS := $(BIN)/python -m pytest

# Tests start hundreds of processes: no module is compiled twice, and memory that is freed is used again at once
# instead of being faulted in anew.
test quick versions: export PYTHONDONTWRITEBYTECODE =
test quick versions: export MALLOC_MMAP_THRESHOLD_ = 134217728
test quick versions: export MALLOC_TRIM_THRESHOLD_ = 536870912

.PHONY: setup demo check quick test lint bench coverage gpu gpu-dry versions

setup: .venv/ready

.venv/ready: pyproject.toml requirements-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements-cpu.txt -e '.[dev]'
	touch $@

# Triton, in whose interpreter kernels for GPUs are tested; it takes 1 GB
.venv/kernels-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements-cpu.txt -e '.[kernels]'
	touch $@

demo: setup
	$(BIN)/quarterdose fetch sample
	$(BIN)/quarterdose run configs/demo.yaml
	$(BIN)/quarterdose denoise runs/demo/data/LIDC-IDRI/LIDC-IDRI-0001.zarr --model runs/demo/model.safetensors --out runs/demo/denoised

test: setup .venv/kernels-ready
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then $(BIN)/quarterdose devcluster install; \
	which chromium dciodvfy dcmftest faketime pdflatex > /dev/null || \
	(apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium dicom3tools dcmtk faketime \
	texlive-latex-base texlive-latex-recommended > /dev/null); fi
	$(TESTS) -n 2

# after each change: all tests of at most a second that need no server, browser or compiler; three at a time, as many
# of them wait for other processes; lint and types beside them
check: setup
	$(MAKE) --no-print-directory --output-sync=recurse -j 2 lint quick

quick: setup .venv/kernels-ready
	$(TESTS) -n 3 -m "not slow and not slurm and not browser and not whole and not compiler"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# on a machine with a GPU, by any Python that has torch with CUDA and the project's packages: no set-up, no network
gpu:
	$(PYTHON) -m tests.gpu

gpu-dry: setup
	$(BIN)/python -m tests.gpu --dry

# how often the scaling study's intervals hold the truth, of 1,000 simulated studies: the table of docs/study.md
coverage: setup
	$(BIN)/python -m tests.coverage
	$(BIN)/python -m tests.quality_coverage

bench: setup
	$(BIN)/python -m tests.bench

# Networks, trainings and denoising on the lowest and the newest torch, each in a virtual environment that goes again.
# The interpreter of the lowest one's Triton takes no newer NumPy.
LOWEST_TORCH := $(shell sed -n 's/.*"torch>=\(.*\)",/\1/p' pyproject.toml)

versions:
	@set -e; for torch in "torch==$(LOWEST_TORCH) numpy<2.4" torch; do \
	venv=$$(mktemp -d); trap "rm -rf $$venv" EXIT; $(PYTHON) -m venv $$venv; \
	$$venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $$torch; \
	$$venv/bin/python -c "import sys, torch; print('Python', sys.version.split()[0], 'torch', torch.__version__)"; \
	$$venv/bin/python -m pytest -n 2 -m "not whole and not compiler and not browser" tests/pipeline; \
	rm -rf $$venv; done
