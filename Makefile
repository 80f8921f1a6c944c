# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv. `make setup` makes it and keeps it up to date.

.PHONY: help setup setup-serve setup-tests demo test soak fleet console-load simulate mutants \
	generate docs lint colcon clean

# The ROS 2 wheels mark an environment that they have prepared. A mark of another one would mislead
# ours.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

# Where ROS 2 is sourced, it looks for the libraries of our messages here. (The wheels find them.)
lib := $(CURDIR)/.venv/lib
WITH_MESSAGES = LD_LIBRARY_PATH="$(lib)$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" \
	DYLD_LIBRARY_PATH="$(lib)$${DYLD_LIBRARY_PATH:+:$$DYLD_LIBRARY_PATH}"

help:
	@echo 'make setup      make .venv: ROS 2 (unless one is sourced), PyTorch, this package, its commands'
	@echo '                make setup ROS=kilted: Kilted in place of Jazzy'
	@echo '                make setup ROS=none: without ROS, for vla_bench, vla_replay, Python, also on a Mac'
	@echo 'make setup-serve  make .venv-serve: vla_serve for a machine with GPUs, without ROS 2'
	@echo 'make demo       a simulated arm follows an instruction: make demo DEMO_EPISODES=20'
	@echo 'make test       run the tests; some of them: make test ARGS="-k slot"'
	@echo 'make soak       run the node with a 30 Hz camera and faults: make soak ARGS="--seconds 1800"'
	@echo 'make fleet      run 8 robots on a server whose replicas die and stop: make fleet ARGS="--seconds 600"'
	@echo 'make console-load  measure what pages and hostile requests cost a node'
	@echo 'make simulate   run the whole node in a deterministic simulation: make simulate SEEDS=0-999'
	@echo 'make mutants    plant mistakes into the node; does the simulation find them?'
	@echo '                make mutants ARGS=--planted, make mutants ARGS="--count 200"'
	@echo 'make generate   write config/vla.yaml and docs/parameters.md'
	@echo '                from vla_ros/parameters/definition.py, and docs/messages.md'
	@echo '                and docs/reasons.md from the messages'
	@echo 'make docs       build the documentation site, check its links and spelling'
	@echo 'make lint       run ruff, mypy, and the linters of ROS 2'
	@echo 'make colcon     build with colcon, check what is installed, run some of the tests with it'
	@echo 'make clean      remove .venv and everything built'
	@echo 'Each command does the set-up that it needs. Another Python: make setup PYTHON=python3.11'

setup:
	@python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" tools/setup_venv.py

setup-serve:
	@python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" tools/setup_serve.py

# Ray, rerun, foreign clients and a browser, beside what the node needs.
setup-tests: setup
	@.venv/bin/python tools/setup_serve.py --for-tests
	@sh tools/install_chromium.sh

demo: setup
	@$(WITH_MESSAGES) .venv/bin/vla_demo $(if $(DEMO_EPISODES),--episodes $(DEMO_EPISODES)) $(ARGS)

# The Python of the source tree (-m pytest puts this folder first) with the messages of .venv.
# More than there are cores, since many tests wait for a node or a time-out. A process that died
# (pyproject.toml: a test that hangs) is not started again: it would run the same test again.
TEST_PROCESSES = 4
test: setup-tests
	@$(WITH_MESSAGES) .venv/bin/python -m pytest -n $(TEST_PROCESSES) --max-worker-restart=0 \
		--dist loadfile --no-loadscope-reorder $(ARGS)

soak: setup
	@$(WITH_MESSAGES) .venv/bin/python test/soak.py $(ARGS)

fleet: setup-tests
	@$(WITH_MESSAGES) .venv/bin/python test/fleet.py $(ARGS)

console-load: setup-tests
	@$(WITH_MESSAGES) .venv/bin/python test/console_load.py $(ARGS)

SEEDS = 0-99
simulate: setup
	@$(WITH_MESSAGES) PYTHONPATH=test .venv/bin/python -m simulate.run $(SEEDS) $(ARGS)

mutants: setup
	@$(WITH_MESSAGES) PYTHONPATH=test .venv/bin/python -m simulate.mutants $(ARGS)

# Standard library only: any Python works.
generate:
	@python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" -m vla_ros.parameters.generate && \
		"$$python" tools/generate_reference.py

# An environment of its own, .venv-docs, without ROS 2 and PyTorch.
docs:
	@python=$$(sh tools/find_python.sh $(PYTHON)) && "$$python" tools/make_docs.py

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/python tools/lint_ament.py

colcon: setup
	@.venv/bin/python tools/check_colcon.py

clean:
	rm -rf .venv .venv-docs .venv-serve build install log .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
