# Two commands are all a fresh machine needs: `make sweep` and `make test`. Each creates .venv when it is missing
# or older than the lock, installs the tested versions into it, and runs. `make` alone lists the targets.
#
#   PYTHON        the interpreter that .venv is made from; 3.11 or 3.12
#   TORCH_INDEX   a package index to take torch from; https://download.pytorch.org/whl/cpu avoids the CUDA packages
#   SYSTEM_TORCH  1 keeps the host's own torch (2.11 or newer), .venv then sees the host's packages
#   ARGS          more arguments for the command behind a target: make sweep ARGS="--spec quick"

VENV ?= .venv
TORCH_INDEX ?=
SYSTEM_TORCH ?= 0
ARGS ?=
# All of a module in one process: its kernels are compiled, and its executor is started, once.
PYTEST_ARGS ?= -n 2 --dist loadfile -q
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(SYSTEM_TORCH)
ROOMS := kernels harness sweeps results
TORCH := $(shell grep -m1 '^torch==' requirements.lock)

# What torch brings along for CUDA. torch pins these to exact versions itself, so a lock without them is as
# reproducible, and on a machine where torch comes without CUDA they must not be installed.
NOT_LOCKED := cuda-toolkit nvidia-cublas nvidia-cuda-cccl nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton

.DEFAULT_GOAL := help
.PHONY: help install sweep test lint format plot report export bench status lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(SUPPORTED)'; then \
		echo "error: this needs Python 3.11 or 3.12, found $(or $(PYTHON),neither under its usual names):" \
			"install one, or name it with PYTHON=/path/to/python3.12" >&2; exit 1; fi
	$(PYTHON) -m venv $(if $(filter 1,$(SYSTEM_TORCH)),--system-site-packages) $(VENV)
ifeq ($(SYSTEM_TORCH),1)
	@$(BIN)/python -c 'import torch; v = torch.__version__.split("."); assert (int(v[0]), int(v[1])) >= (2, 11), v' \
		|| { echo "error: SYSTEM_TORCH=1 needs a torch of 2.11 or newer on the host" >&2; exit 1; }
	grep -v '^torch==' requirements.lock > $(VENV)/requirements.lock
	$(BIN)/python -m pip install -r $(VENV)/requirements.lock
else
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --no-deps --index-url $(TORCH_INDEX) $(TORCH))
	$(BIN)/python -m pip install -r requirements.lock
endif
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

install: $(INSTALLED) ## create .venv and install the tested versions

sweep: $(INSTALLED) ## tune: compile, check, time and record candidates (resumes where it stopped)
	$(BIN)/routertune sweep $(ARGS)

plot: $(INSTALLED) ## pictures of the last sweep's results
	$(BIN)/routertune plot $(ARGS)

report: $(INSTALLED) ## a report of the last sweep that a person can read
	$(BIN)/routertune report $(ARGS)

export: $(INSTALLED) ## the best config per M as JSON, installed where the public wrapper finds it
	$(BIN)/routertune export --install $(ARGS)

status: $(INSTALLED) ## where the sweep stands
	$(BIN)/routertune status $(ARGS)

bench: $(INSTALLED) ## overhead per trial, the simulator's cost per candidate, quantization on a GPU
	$(BIN)/routertune bench $(ARGS)

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff format and check, mypy on the four rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(foreach room,$(ROOMS),-p $(room))

format: $(INSTALLED) ## rewrite the code as the linter wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml into requirements.lock anew, for Python 3.11 and 3.12 (keeps torch's version)
	$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	echo '$(TORCH)' > build/lock/constraints.txt
	build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
		--constraint build/lock/constraints.txt --no-annotate --no-header \
		$(addprefix --no-emit-package ,$(NOT_LOCKED)) pyproject.toml --output-file build/lock/out.txt
	{ echo '# The tested versions, for Python 3.11 and 3.12. Written by "make lock"; torch is bumped by hand.'; \
		cat build/lock/out.txt; } > requirements.lock

clean: ## remove .venv and caches; runs/ (results and compiled artifacts) stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
