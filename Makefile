# Everything a newcomer needs: `make pretrain` and `make test`. Each makes the virtual environment when it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= $(CURDIR)/runs
VIDEOS ?=
ARGS ?=

.PHONY: pretrain test lint test-slow test-gpu test-services test-ui sweep long clean

pretrain: $(VENV)/installed
ifeq ($(VIDEOS),)
	$(BIN)/python pipelines/make_videos.py $(RESULTS)/videos/synthetic
	$(BIN)/python pipelines/index_videos.py $(RESULTS)/videos/synthetic --out $(RESULTS)/videos/synthetic.parquet
	$(BIN)/python pipelines/pretrain.py results=$(RESULTS) data.manifest=$(RESULTS)/videos/synthetic.parquet $(ARGS)
else
	$(BIN)/python pipelines/index_videos.py "$(VIDEOS)" --out "$(RESULTS)/videos/own.parquet"
	$(BIN)/python pipelines/pretrain.py results=$(RESULTS) name=own data.manifest=$(RESULTS)/videos/own.parquet $(ARGS)
endif

test: $(VENV)/installed lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not services and not ui"

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/installed
	$(BIN)/python -m pytest -m gpu

test-services: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[services]"
	sh tests/services/install.sh
	$(BIN)/python -m pytest -m services tests/services

test-ui: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ui]"
	$(BIN)/python -m pytest -m ui tests/ui

sweep: $(VENV)/installed
	$(BIN)/python tune_spaces/sweep_mask_ratio.py results=$(RESULTS)

LONG := data.manifest=$(RESULTS)/videos/synthetic.parquet cluster.num_workers=0
long: $(VENV)/installed
	$(BIN)/python pipelines/make_videos.py $(RESULTS)/videos/synthetic
	$(BIN)/python pipelines/index_videos.py $(RESULTS)/videos/synthetic --out $(RESULTS)/videos/synthetic.parquet
	$(BIN)/python pipelines/train_tokenizer.py results=$(RESULTS) $(LONG)
	rm -rf "$(RESULTS)/long/codes"
	$(BIN)/python pipelines/encode_clips.py --checkpoint $(RESULTS)/tokenizer-tiny --out $(RESULTS)/long/codes data.num_frames=64 data.short_videos=loop $(LONG)
	$(BIN)/python pipelines/pretrain.py --recipe lvmae-tiny results=$(RESULTS) data.codes=$(RESULTS)/long/codes data.flip=false model.prediction.kind=codes masking.importance.kind=codes training.steps=200 $(LONG)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
