# make demo        environment, then a real photo colored by a bundled model -> demo/before_after.png
# make test        environment, then style, imports, types and the whole test suite, on all cores
# make test-host   COMFYUI_PATH=...: environment, then nodes, example workflows and release archive in that ComfyUI, on the CPU;
#                  with PLAYWRIGHT_NODE_MODULES=... and Chromium its front end as well. COMFYUI_PYTHON=...: the host's Python.
# make archive     what a user installs, of TREE (HEAD) -> dist/comfyui-colorist-VERSION.zip
# Needs only Python 3.10 to 3.13 (with venv) and git. CONTRIBUTING.md says more.

SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c "$(SUITABLE)" >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-host archive clean

demo: $(VENV)/.demo
	$(BIN)/python docs/demo.py demo/before_after.png

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	mkdir -p build/types && ln -sfn ../.. build/types/comfyui_colorist
	$(BIN)/pyrefly check --summary=none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

COMFYUI_PYTHON ?= $(firstword $(wildcard $(addprefix $(COMFYUI_PATH)/,.venv/bin/python venv/bin/python)) python3)

test-host: $(VENV)/.test
	@test -f "$(COMFYUI_PATH)/main.py" || { echo "COMFYUI_PATH=... must name a folder of ComfyUI."; exit 1; }
	COMFYUI_PATH="$(abspath $(COMFYUI_PATH))" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" $(BIN)/python -m pytest -q -rs tests/host

TREE ?= HEAD
DIST ?= dist
VERSION = $(shell git show $(TREE):__init__.py | sed -n 's/^__version__ = "\(.*\)"/\1/p')

archive:
	mkdir -p $(DIST)
	git archive --format=zip --prefix=comfyui-colorist/ --output=$(DIST)/comfyui-colorist-$(VERSION).zip $(TREE) -- . \
		$(shell sed 's/.*/":(exclude)&"/' .comfyignore)

clean:
	rm -rf $(VENV) demo build dist *.egg-info

$(VENV)/.%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 with venv is needed and was not found."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@
