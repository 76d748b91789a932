# make demo   set up, then check a healthy and a broken setup on a small model made on the spot
# make test   set up, then run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: docs traces setup demo check rule test test-oldest lint gpu gallery screenshot schema bench clean help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  -/'

# torch first and alone: a range that is met later never pulls a second, larger build.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q torch==2.13.0
	$(PIP) install -q -e '.[probe,trl,dev]'
	$(BIN)/python -m compileall -q qlora_doctor
	touch $@

setup: $(VENV)/.ready ## Make .venv with everything that is tested

demo: setup ## Check a healthy and a broken setup end to end on this machine
	$(BIN)/qlora-doctor demo

# Two workers: the models are a few megabytes, one thread each keeps them out of each other's way.
test: setup ## Run the tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadfile

# What a change needs while it is being made: style, types, every rule page, and the tests that import no torch.
LIGHT := tests/core tests/engine tests/rules tests/setup tests/tables tests/writing tests/reporters tests/editor tests/probes/config \
	$(wildcard tests/reading/test_*.py) tests/run/test_settings.py tests/packaging/test_imports.py tests/docsite/test_pages.py \
	tests/reading/dialects/test_defaults.py tests/reading/dialects/test_readers.py
check: lint ## Check style, types and rules, and run the tests that need no torch
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not torch" $(LIGHT)

rule: setup ## Check one rule's page and its examples: make rule ID=QD301
	$(BIN)/python -m pytest tests/rules -k '$(ID)'
	$(BIN)/qlora-doctor explain $(ID)

OLDEST := .venv-oldest
$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt .ci/oldest.sh .ci/stand_ins.py
	.ci/oldest.sh $(OLDEST)
	touch $@

# Every stage on nine architectures, the command, the rules' language and every format. What is left out holds for newer
# packages alone: schemas are written by the newest pydantic, peft 0.15 does not refuse a fused Mamba, trl 0.17 drops no
# sample, and Ctrl-C is sent at a moment of torch's import that is another one here. The demo is `make demo`'s, on the newest.
test-oldest: $(OLDEST)/.ready ## Run the tests that hold for every supported version, on the oldest ones
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(OLDEST)/bin/python -m pytest -n 2 --dist loadfile \
		tests/faults/test_healthy.py tests/pipeline tests/probes/test_structure.py tests/memory/test_trace.py \
		tests/engine tests/cli tests/reporters/test_report_formats.py tests/reporters/test_report_text.py \
		--deselect 'tests/probes/test_structure.py::test_refusals_have_a_word[mamba-lora5-mamba-fused]' \
		--ignore tests/cli/test_cli_demo.py \
		--deselect tests/cli/test_cli_commands.py::test_schema \
		--deselect tests/pipeline/test_run.py::test_a_trainer_that_keeps_no_sample_says_so \
		--deselect tests/cli/test_cli_processes.py::test_ctrl_c_ends_the_child_and_keeps_the_report

lint: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu: setup ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gallery: setup ## Write reports/examples again from the recorded facts (tools/gallery.py --record looks anew)
	$(BIN)/python tools/gallery.py

screenshot: gallery ## Write docs/report.png again (needs chromium)
	$(BIN)/python tools/screenshot.py

schema: setup ## Write the JSON schemas and the compiled refusals again
	$(BIN)/python -m qlora_doctor.reporters.schema
	$(BIN)/python -m qlora_doctor.tables.refusals
	$(BIN)/qlora-doctor schema config > reports/schema/config-v1.schema.json

traces: setup ## Write the traces that come with the package (most of an hour), and hold a fifth of them against the live prediction
	$(BIN)/python tools/traces.py
	$(BIN)/python tools/traces.py --hold 5

docs: setup ## Build the docs site into build/site, strictly: every link is checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q

clean: ## Remove what make made
	rm -rf $(VENV) $(OLDEST) build dist demo
