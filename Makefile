# make demo   environment, then a real photo coloured by the weights in the box -> demo/before_after.png
# make test   environment, then the whole test suite
# Needs only Python 3.10 to 3.13 (with venv) and git. COMFYUI_PATH=... runs the node tests in a real host, and with
# PLAYWRIGHT_NODE_MODULES=... and Chromium the canvas in a browser (COMFYUI_PYTHON=... where the host has its own Python).

SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c "$(SUITABLE)" >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/.demo
	$(BIN)/python docs/demo.py demo/before_after.png

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q

clean:
	rm -rf $(VENV) demo build *.egg-info

$(VENV)/.%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 with venv is needed and was not found."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@
