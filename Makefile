# One line a target; the logic is in `python -m pipeline`. Settings: CONFIG=, RUN=, ARGS=.
PYTHON ?= python3
CONFIG ?= miniature
RUN    ?=
ARGS   ?=
BIN     = .venv/bin
OLDEST  = .venv-oldest/bin
# The shell sees paths as "$CONFIG" and "$RUN" alone, so that any character may be in them; ARGS is in its own language.
export CONFIG RUN
OPTIONS = --config "$$CONFIG" $${RUN:+--run "$$RUN"} $(ARGS)

# prints the command, runs it and explains its exit code; $$PPID is this make, whose row of targets goes on after code 3
STAGE = @$(BIN)/python -m pipeline.cli.make_target $$PPID "$(MAKECMDGOALS)" $@ $(1) $(OPTIONS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo convert prepare train-base saliency train-looker crops train-fusion evaluate predict timeline export table1 table2 table-box compare-saliency table-cache table-gate table-policies worth-it inspect report show status verify gc test test-oldest test-reliability benchmarks gpu-check scaling plan-outcome lint format plan doctor check-network

help: ## print this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'
	@echo "  CONFIG=$$CONFIG (miniature, miniature-single, table2-tiny, charades, charades-small, charades-released, own-videomae, own-r2plus1d or a TOML file), RUN=$$RUN (runs/<name of the config> by default), ARGS=\"--help\""

setup: .venv/.done ## make .venv and install into it

.venv/.done: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## everything, on generated videos: from nothing to a table of results
	$(call STAGE,demo)

convert: setup ## annotations of other data sets to labels.csv; ARGS="--from folders clips --out mine/labels.csv"
	$(BIN)/python -m pipeline convert $(ARGS)

prepare: setup ## probe the videos, fix the plan
	$(call STAGE,prepare)

train-base: setup ## fine-tune the network that says where to look
	$(call STAGE,train-base)

saliency: setup ## stage 1: logits, saliency maps, boxes, to Zarr
	$(call STAGE,saliency)

train-looker: setup ## a head that predicts the maps; boxes "looker" take no gradient
	$(call STAGE,train-looker)

crops: setup ## stage 2: context and focused volumes, to HDF5
	$(call STAGE,crops)

train-fusion: setup ## stage 3: late fusion and temporal concatenation
	$(call STAGE,train-fusion)

evaluate: setup ## score Base and all fusion models of the run
	$(call STAGE,evaluate)

predict: setup ## new videos: labels, times, boxes; RUN=runs/mine ARGS="holiday.mp4 kitchen/"
	$(call STAGE,predict)

timeline: setup ## tables of predictions with other thresholds; ARGS="predictions/ --threshold 0.4"
	$(BIN)/python -m pipeline timeline $(ARGS)

export: setup ## a trained experiment in one folder; RUN=runs/mine ARGS="--out mine --onnx"
	$(call STAGE,export)

table1: setup ## the paper's Table 1: Base at several clip lengths
	$(call STAGE,table1)

table2: setup ## the paper's Table 2 with intervals; ARGS="--seeds 3"
	$(call STAGE,table2)

table-box: setup ## box sizes compared on a part of the training videos
	$(call STAGE,table-box)

compare-saliency: setup ## boxes of all objectives and of Grad-CAM side by side
	$(call STAGE,compare-saliency)

table-cache: setup ## training on the fly and from caches side by side
	$(call STAGE,table-cache)

table-gate: setup ## a second look only where Base is unsure: accuracy against the share of clips
	$(call STAGE,table-gate)

table-policies: setup ## boxes of several policies and rules side by side, late fusion
	$(call STAGE,table-policies)

worth-it: setup ## whether a second look, and resolution, pay on these videos; ARGS="--share 0.3 --epochs 5"
	$(call STAGE,worth-it)

inspect: setup ## what a run holds; ARGS="--table classes", ARGS="--out index.csv"
	$(call STAGE,inspect)

report: setup ## one page about the run, from the caches: <run>/report/index.html
	$(call STAGE,report)

doctor: setup ## what is wrong with machine or data, and what to do
	$(call STAGE,doctor)

check-network: setup ## what the network takes, gives and costs here, and whether it keeps the contract
	$(call STAGE,check-network)

plan: setup ## what every stage will take, from a timed sample; ARGS="--seconds 120"
	$(call STAGE,plan)

show: setup ## a video as a strip and a film; ARGS=VIDEO_ID
	$(call STAGE,show)

status: setup ## count done, skipped and waiting rows
	$(call STAGE,status)

verify: setup ## check every committed file; ARGS="--fast" or "--repair"
	$(call STAGE,verify)

gc: setup ## delete what killed processes left, gather records of many units
	$(call STAGE,gc)

test-reliability: setup ## kills, full disks, bit flips, hostile files, in full numbers: more than half an hour
	$(BIN)/python -m pytest tests/reliability --full -n 2 $(ARGS)

scaling: setup ## units, bytes and metadata operations measured; benchmarks/scaling.md: 10 to 1,000 workers
	$(BIN)/python -m benchmarks.scaling $(ARGS)

benchmarks: setup ## speed as ratios, 25 minutes; ARGS="--rows 1,3 --out table.md"
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks $(ARGS)

gpu-check: setup ## one GPU: its tests, then a table of how fast everything is on it; at most 8 minutes
	$(BIN)/python -m benchmarks.gpu $(ARGS)

plan-outcome: setup ## what plan says of the miniature, and what then happens, side by side; 10 minutes
	$(BIN)/python -m benchmarks.plan_outcome --config "$$CONFIG" --run "$${RUN:-runs/miniature}-planned" $(ARGS)

test: setup ## run the test suite
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-oldest: .venv-oldest/.done ## run it with the oldest versions that setup.cfg declares, in .venv-oldest
	$(OLDEST)/python -m pytest -n 2 $(ARGS)

.venv-oldest/.done: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

lint: setup ## ruff and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
