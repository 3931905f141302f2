# `make reproduce` runs the notebooks on a profile, `make test` checks what is quick, `make lab` opens JupyterLab.
# TORCH_INDEX=… names a package index for torch alone, such as that of its builds without CUDA.
PROFILE ?= demo
DATA ?=
PYTHON ?= python3
JOBS ?= 2
TORCH_INDEX ?=
BIN := .venv/bin

# Recipes read what a user writes as "$$DATA": make pastes nothing into a command, so quotes, blanks and $ stay what they are.
export DATA PROFILE PYTHON TORCH_INDEX
PROFILES := $(patsubst notebooks/profiles/%.yaml,%,$(sort $(wildcard notebooks/profiles/*.yaml)))
ifneq ($(words $(PROFILE))$(filter $(PROFILE),$(PROFILES)),1$(PROFILE))
$(error There is no profile '$(PROFILE)': choose one of $(PROFILES), or write it in notebooks/profiles)
endif

# What other packages write for themselves goes to the cache, not to the user's home; kernels are those of .venv.
CACHE := $(or $(DFT_CACHE),$(CURDIR)/.cache)
export MPLCONFIGDIR := $(CACHE)/matplotlib
export IPYTHONDIR := $(CACHE)/ipython
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH
export ORT_DISABLE_TELEMETRY := 1
export PYTHONHASHSEED := 0
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))
# Longest first. 05 needs 02 and 03, and make comes back to what had to wait only when it has been through all the others: behind 00,
# which is short and begins as the second of those ends, it needn't wait.
LONGEST := $(foreach number,03 02 04 00 05 06,$(filter notebooks/$(number)_%,$(NOTEBOOKS)))
executed = $(1:notebooks/%.ipynb=build/$(PROFILE)/%.ipynb)
numbered = $(foreach number,$(1),$(filter build/$(PROFILE)/$(number)_%,$(EXECUTED)))
EXECUTED := $(call executed,$(LONGEST) $(filter-out $(LONGEST),$(NOTEBOOKS)))
CODE := $(shell find dftlib -name '*.py')

.PHONY: reproduce executed install test test-all lowest bench gpu report browser lab notebooks clean
.DELETE_ON_ERROR:

# The weights of a face identity network, 100 MB, only for a profile that needs them.
NEEDED := .venv/installed $(if $(shell grep -s '^[a-z]*: dlib_face' notebooks/profiles/$(PROFILE).yaml),.venv/face)

# JOBS notebooks at a time, each on its part of the cores: faster than one notebook on all of them. They share the cache.
reproduce: $(NEEDED)
	@threads=$$($(BIN)/python -c 'import os; print(max(1, (os.cpu_count() or 1) // $(JOBS)))'); \
		export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$threads}; \
		$(MAKE) --no-print-directory -j $(JOBS) $(if $(filter demo,$(PROFILE)),build/demo/glance) executed
	@echo "Done: results/$(PROFILE), figures/$(PROFILE); executed notebooks in build/$(PROFILE)."

executed: $(EXECUTED)

# What a notebook takes from the cache where another has put it; 99 reads the tables of all.
$(call numbered,05): | $(call numbered,02 03)
$(call numbered,08): | $(call numbered,07)
$(call numbered,09): | $(call numbered,08)
$(call numbered,99): $(filter-out $(call numbered,99),$(EXECUTED))

install: .venv/installed

PIP_INSTALL := install --quiet --no-compile --constraint requirements.lock

.venv/installed: pyproject.toml setup.py requirements.lock
	@"$$PYTHON" -c 'import sys; sys.exit("Python 3.11.4 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11, 4) else 0)'
	@if [ -e .venv/unfinished ]; then rm -rf .venv; fi  # a killed installation may lack anything
	@mkdir -p .venv && touch .venv/unfinished
	test -x $(BIN)/pip || "$$PYTHON" -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip $(PIP_INSTALL) --no-deps --index-url "$$TORCH_INDEX" torch torchvision)
	$(BIN)/pip $(PIP_INSTALL) setuptools
	$(BIN)/pip $(PIP_INSTALL) --no-build-isolation --editable '.[kit,blackbox,test]'
	@mv .venv/unfinished $@ && touch $@

.venv/face: pyproject.toml requirements.lock | .venv/installed
	$(BIN)/pip $(PIP_INSTALL) --no-build-isolation --editable '.[face]'
	@touch $@

# The README's figure, first of all: who has just installed the kit sees within a minute what it is about.
build/demo/glance: notebooks/profiles/demo.yaml $(CODE) | .venv/installed
	@DFT_PREFIX=glance $(BIN)/dft glance && mkdir -p $(@D) && touch $@

build/$(PROFILE)/%.ipynb: notebooks/%.ipynb $(wildcard notebooks/profiles/$(PROFILE).yaml) $(CODE) | $(NEEDED)
	@echo "$*: begun"
	@DFT_PREFIX="$*" $(BIN)/dft run $< --out $@ -f notebooks/profiles/$(PROFILE).yaml \
		$(if $(DATA),-r data_root "$$DATA")

# `make test`: what isn't marked slow, and those notebooks against their stored outputs whose work `make reproduce` has put into
# the cache. `make test-all`: everything, from nothing too.
QUICK = $(sort notebooks/00_data.ipynb $(patsubst build/demo/%,notebooks/%,$(wildcard build/demo/*.ipynb)))
test: TIER := -m "not slow"
test: COMPARED = $(filter $(QUICK),$(NOTEBOOKS))
test-all: COMPARED = $(NOTEBOOKS)

test test-all: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(TIER)
	OMP_NUM_THREADS=1 DFT_OUTPUT="$$PWD/build/test" $(BIN)/pytest -n 2 --dist loadfile \
		--nbval --nbval-current-env --nbval-cell-timeout=900 $(COMPARED)

# Notebook 03 as a processor with few vector instructions computes it: its checks must hold there too.
lowest: .venv/installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 DFT_CACHE=build/lowest/cache DFT_OUTPUT=build/lowest \
		$(BIN)/dft run $(filter notebooks/03_%,$(NOTEBOOKS)) --out build/lowest/03.ipynb -f notebooks/profiles/demo.yaml

# Measures this machine, on a GPU where there is one: results/benchmarks/MACHINE.csv and figures. Not with -j: it would measure that.
# The peers have an environment of their own; nothing else needs them.
PEERS := $(addprefix build/bench/,$(addsuffix .csv,universal single))
BENCHES := $(addprefix build/bench/,$(addsuffix .csv,fit_step throughput pass_score side_by_side scale growth)) $(PEERS)

bench: $(BENCHES)
	$(BIN)/python tests/benchmarks/report.py

build/bench/pass_score.csv: tests/test_similarity.py

build/bench/%.csv: tests/benchmarks/%.py tests/benchmarks/timing.py $(CODE) | .venv/installed
	@echo "== $*"
	$(if $(DATA),DFT_DATA="$$DATA") $(if $(filter $@,$(PEERS)),build/peers,.venv)/bin/python $< --csv $@

$(PEERS): | build/peers/installed

build/peers/installed: pyproject.toml requirements.lock tests/benchmarks/peers.txt | .venv/installed
	test -x build/peers/bin/python || "$$PYTHON" -m venv build/peers
	build/peers/bin/pip $(PIP_INSTALL) --editable '.[kit,blackbox]'
	build/peers/bin/pip install --quiet --no-compile --no-deps --requirement tests/benchmarks/peers.txt
	@touch $@

# On any machine with a CUDA card, in six minutes, offline: installs nothing, and takes the first python that has torch.
gpu:
	@for python in "$$PYTHON" $(BIN)/python; do \
		if "$$python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2>/dev/null; then \
			exec "$$python" tests/benchmarks/gpu.py --csv results/benchmarks/GPU.csv $(if $(DATA),--data "$$DATA"); fi; done; \
		echo "Neither $$PYTHON nor $(BIN)/python has torch: name one that has, as in make gpu PYTHON=python3.12." >&2; exit 2

# Accepts new numbers: writes results/demo anew, then stores in the notebooks the outputs that compare with them.
notebooks: .venv/installed
	rm -rf build/demo
	DFT_ACCEPT=1 $(MAKE) reproduce
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)

# Executed notebooks as pages that any browser shows from the disk, offline, and an index of them.
report: reproduce
	@$(BIN)/python -m dftlib.notebook.pages build/$(PROFILE)-report $(sort $(EXECUTED))

# Runs every notebook in a real JupyterLab, in headless Chromium (an installed one, else Playwright's), and takes screenshots.
browser: .venv/installed
	$(BIN)/pip $(PIP_INSTALL) --no-build-isolation --editable '.[browser]'
	$(BIN)/python tests/browser.py

# Without what JupyterLab does on its own account: asking for updates, news and extensions, and looking for language servers.
lab: .venv/installed
	$(BIN)/jupyter lab --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
		--LabApp.extension_manager=readonly --LanguageServerManager.autodetect=False notebooks

clean:
	rm -rf build .cache
