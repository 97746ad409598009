# `make` alone lists the targets. Each of them that runs code sets the environment up first.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
ARGS ?=
export TEST_THREADS ?= 1

# Any Python from 3.11 on will do (the lock was resolved on 3.11); `make setup PYTHON=...` names one for a new .venv.
# Each candidate is run, since a name on the PATH may be a shim for an interpreter that is not there.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3)
USABLE := -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo train compare cs285 test test-slow test-processors test-slurm check format clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the package and the locked tools into .venv (quick when up to date).

# A sound environment is updated in place; one that no longer runs, or whose installation was interrupted, is built afresh.
# An installation that merely fails (no network) leaves the environment to the next attempt.
$(STAMP): pyproject.toml constraints.txt
	@if test -e $(UNFINISHED) || ! { $(PY) $(USABLE) && $(PY) -m pip --version; } >/dev/null 2>&1; then \
		found=; \
		for python in $(CANDIDATES); do \
			if $$python $(USABLE) 2>/dev/null; then found=$$python; break; fi; \
		done; \
		test -n "$$found" || { echo "make: no Python 3.11 or later with venv among: $(CANDIDATES)" >&2; exit 1; }; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $$found -m venv $(VENV) || exit 1; \
	fi; \
	touch $(UNFINISHED)
	@trap 'exit 130' INT TERM; \
	echo "Installing what constraints.txt locks into $(VENV), some minutes the first time"; \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]" \
		|| { rm -f $(UNFINISHED); exit 1; }
	@rm $(UNFINISHED) && touch $@

demo: $(STAMP) ## Train and evaluate the CartPole planner in minutes, ARGS="..." as for train.
	$(PY) scripts/train.py name=demo $(ARGS)

train: $(STAMP) ## Train, e.g. make train ARGS="env=pendulum seed=1".
	$(PY) scripts/train.py $(ARGS)

compare: $(STAMP) ## Train mpc, mbpo and sac (or ddqn) and draw them together: ENV=pendulum SEEDS=3 STEPS= ARGS="...".
	$(PY) scripts/compare.py --env $(or $(ENV),pendulum) --seeds $(or $(SEEDS),3) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

# Its variables are explained in docs/cs285.md.
cs285: ENV := cheetah_cs285
cs285: PLANNER := random_shooting
cs285: MBPO_ENV = $(ENV)
cs285: ROLLOUT := 10
cs285: INIT_TEMPERATURE := 0.1
cs285: RUN_MBPO := 1
cs285: $(STAMP) ## Homework 4 of CS 285, MPC and then MBPO, e.g. make cs285 ENV=obstacles_cs285 PLANNER=cem RUN_MBPO=0.
	$(PY) scripts/train.py name=cs285 algo=mpc env=$(ENV) planner=$(PLANNER) \
		$(if $(filter cem,$(PLANNER)),planner.iterations=4) $(MPC_ARGS)
	$(if $(filter 0,$(RUN_MBPO)),,$(PY) scripts/train.py name=cs285 algo=mbpo env=$(MBPO_ENV) \
		'algo.rollouts.length=[$(ROLLOUT),$(ROLLOUT),0,1]' policy.temperature.alpha=$(INIT_TEMPERATURE) $(MBPO_ARGS))

test: $(STAMP) ## Run the quick tests.
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(STAMP) ## Run the slow tests (learning, whole runs).
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -n 2 --dist worksteal -m "slow and not slurm" $(ARGS)

test-processors: $(STAMP) ## Run the quick tests as on other processors, ARGS="--python .venv313/bin/python".
	$(PY) benchmarks/processors.py $(ARGS)

test-slurm: $(STAMP) ## Run the tests on a real SLURM; where none answers, as root on Debian, this machine becomes one.
	scripts/slurm_node.sh
	OMP_NUM_THREADS=$(TEST_THREADS) $(PY) -m pytest -n 0 -m slurm $(ARGS)

check: $(STAMP) ## Check formatting, lint and types.
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(STAMP) ## Format the code and fix what lint can.
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## Remove caches and build products; runs in outputs/ and .venv stay.
	rm -rf build dist .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache *.egg-info MUJOCO_LOG.TXT
	find . -path ./$(VENV) -prune -o -path ./outputs -prune -o -name __pycache__ -type d -exec rm -rf {} +
