# `make demo` and `make test` need Python 3.11+, make and pip; each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo demo-bridge demo-regression demo-pix2pix test lint docs mutants bench soak fuzz coverage clean

help:
	@echo "make demo     train a small bridge, a regression and Pix2pix on real photos and compare them -> runs/demo/report/index.html"
	@echo "make test     run the tests"
	@echo "make lint     ruff format and check, mypy"
	@echo "make docs     build the documentation site -> build/docs/index.html"
	@echo "make mutants  plant each known mistake and show that the tests catch it"
	@echo "make bench    time sampling, training and operators beside other libraries -> runs/bench (a quarter of an hour)"
	@echo "make soak     the long reliability tests: faults, kills, flipped bits, ranks, leaks (docs/reliability.md)"
	@echo "make coverage branch coverage of what writes, resumes, imports, reads data and joins processes; about 5 minutes"
	@echo "make fuzz     220,000 mutated images, checkpoints, recipes, cards and evaluations; some minutes of one core"
	@echo "make clean    remove .venv and runs/demo"

# The set-up runs again only when a pinned version or a dependency changes.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

# Three methods on the same photos, side by side and on one thread each: on two processors that takes two thirds of the
# time of one after another. A step of Pix2pix takes a sixth of a bridge's, so it has two thirds of the others' processor
# time; its other two settings did better on the held-out photos than the paper's.
demo: $(READY)
	rm -rf runs/demo
	mkdir -p runs/demo
	@echo "trains side by side: the bridge, whose progress is shown, a regression and Pix2pix; their texts: runs/demo/*.txt"
	$(MAKE) --no-print-directory -j 3 demo-bridge demo-regression demo-pix2pix
	$(BIN)/i2i-bridge compare runs/demo/bridge runs/demo/regression runs/demo/pix2pix --nfe 1 2 5 --out runs/demo/report
	@echo "open runs/demo/report/index.html"

ONE_THREAD := OMP_NUM_THREADS=1 $(BIN)/i2i-bridge

demo-bridge:
	$(ONE_THREAD) train demo/denoise --out runs/demo/bridge

# Their lines are shown when they fail.
demo-regression:
	@$(ONE_THREAD) train demo/denoise --method regression --out runs/demo/regression >runs/demo/regression.txt 2>&1 \
		|| { cat runs/demo/regression.txt; exit 1; }

demo-pix2pix:
	@$(ONE_THREAD) train demo/denoise --method pix2pix --out runs/demo/pix2pix train.steps=3200 train.lr=8e-4 method.inference=eval >runs/demo/pix2pix.txt 2>&1 \
		|| { cat runs/demo/pix2pix.txt; exit 1; }

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable silences an advertisement of the theme, which is no warning about the pages.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "open build/docs/index.html"

# Its rows are checked there alone: a change of layout fails no test.
mutants: $(READY)
	$(BIN)/python tests/mutants.py

soak: $(READY)
	$(BIN)/python tests/soak.py

# Of what writes, resumes, imports, reads data and joins processes: every branch.
LIFELINES := storage/files storage/names storage/tensors storage/pt_reader storage/toml storage/archive distributed device images/files images/pixels \
	runs/checkpoint runs/imports training/checkpointer training/guard training/log training/identity
COVERED := $(LIFELINES:%=i2i_bridge/%.py) i2i_bridge/data/* i2i_bridge/data/sources/*
empty :=
comma := ,
TOUCHING := files checkpoint ranks saving skipping resuming training stepping selftest \
	importing hostile weights unpacking images zoo degrading refusals \
	data docs_data pairs lists hub index lmdb_store tar_shards vision cards registering checking fetching \
	alignment augmented_pairs contract_dataset best trackers starting spandrel checkpoint_choice \
	names toml_file links metadata outputs unusable mean \
	compiling precision sizes tiff noise_size direction latent condition docs_scaling

coverage: $(READY)
	mkdir -p .venv/coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses auto --dist loadfile $(foreach name,$(TOUCHING),$(wildcard tests/*/test_$(name).py))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include "$(subst $(empty) $(empty),$(comma),$(COVERED))" --show-missing --skip-covered --fail-under 100

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py

# Beside diffusers, which nothing else needs.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench,openvino]"
	$(BIN)/python tests/benchmarks/sampling.py
	$(BIN)/python tests/benchmarks/backends.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/parallel.py
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/operators.py
	$(BIN)/python tests/benchmarks/cdsb.py
	$(BIN)/python tests/benchmarks/gpu.py --dry-run
	$(BIN)/python tests/benchmarks/gpu_evidence.py --dry-run

clean:
	rm -rf .venv runs/demo
