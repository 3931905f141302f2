# `make reproduce` runs the notebooks on a profile, `make test` checks everything, `make lab` opens JupyterLab.
PROFILE ?= demo
DATA ?=
PYTHON ?= python3
BIN := .venv/bin

export PYTHONHASHSEED := 0
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))
EXECUTED := $(NOTEBOOKS:notebooks/%.ipynb=build/$(PROFILE)/%.ipynb)
CODE := $(wildcard dftlib/*.py dftlib/datasets/*.py)

.PHONY: reproduce tune install test lab notebooks clean
.DELETE_ON_ERROR:

reproduce: $(EXECUTED)
	@echo "Done: results/$(PROFILE), figures/$(PROFILE); executed notebooks in build/$(PROFILE)."

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

# papermill writes its output as it goes, so a killed run would leave a notebook that looks finished: it gets its name last.
# --log-level ERROR hides papermill's warnings of unknown parameters only: in the notebook an unknown one is an error.
build/$(PROFILE)/%.ipynb: notebooks/%.ipynb notebooks/profiles/$(PROFILE).yaml $(CODE) | .venv/installed
	@mkdir -p $(@D)
	@echo "== $* ($(PROFILE))"
	$(BIN)/papermill --log-level ERROR --progress-bar -f notebooks/profiles/$(PROFILE).yaml \
		$(if $(DATA),-p data_root '$(abspath $(DATA))') $< $(@D)/.running-$*.ipynb
	@mv $(@D)/.running-$*.ipynb $@

# Notebook 10 on your own pictures: make tune IMAGES=… LABELS=… MODEL=… BUDGET=… OUT=… [PIXELS=…] [YAML='options: {batch: 4}']
tune: .venv/installed
	$(foreach name,IMAGES LABELS MODEL BUDGET OUT,$(if $($(name)),,$(error Give $(name)=…, as notebooks/10_your_own_classifier.ipynb says)))
	@mkdir -p '$(OUT)/.running'
	$(BIN)/papermill --log-level ERROR --progress-bar -r images '$(IMAGES)' -r labels '$(LABELS)' -r model '$(MODEL)' -r out '$(OUT)' \
		-p budget $(BUDGET) $(if $(PIXELS),-p pixels $(PIXELS)) $(if $(YAML),-y '$(YAML)') \
		notebooks/10_your_own_classifier.ipynb '$(OUT)/.running/report.ipynb'
	@$(BIN)/jupyter nbconvert --log-level ERROR --to html '$(OUT)/.running/report.ipynb'
	@mv '$(OUT)'/.running/report.* '$(OUT)' && rmdir '$(OUT)/.running'
	@echo "Done: $(OUT)/report.html and, beside it, the perturbation and its tables."

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile
	OMP_NUM_THREADS=1 DFT_CACHE=$(CURDIR)/build/test/cache DFT_OUTPUT=$(CURDIR)/build/test \
		$(BIN)/pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=900 notebooks

# Accepts new numbers: writes results/demo anew, then stores in the notebooks the outputs that compare with them.
notebooks: .venv/installed
	rm -rf build/demo
	DFT_ACCEPT=1 $(MAKE) reproduce
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS)

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf build .cache
