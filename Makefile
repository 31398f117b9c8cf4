# make demo [TEXT="..."] [PROMPT="..."] [ARGS="..."]
#                                         watch the bundled checkpoints restore lines and write, or one of them with
#                                         yours; then see what their decodings saved; ARGS="--threads 2"
# make test [ARGS="..."]                  lint, every test, and `make contract`; with ARGS the tests they choose alone
# make contract [ARGS="..."]              the tests of the contract with transformers, on the oldest release supported
# make lint                               ruff: rules and format
# make docs                               the documentation as a site, build/site/index.html; a warning is an error
# make picture [ARGS="..."]               docs/images/*.svg: the decodings at work, restoring and writing, animated
# make browser                            Chromium, from Debian's packages, for the test of the page; needs root
# make clean                              remove the virtual environment and everything built
#
# Each target makes .venv with $(PYTHON) and installs what it needs, once; after that nothing needs the network.

PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
# The oldest transformers that setup.cfg allows. constraints.txt pins the newest, and everything else for both.
OLDEST := 5.23.0
OLDEST_VENV := $(VENV)-$(OLDEST)
ARGS ?=
# The files with tests of the contract: only they are imported for it. `=`: other targets do not look for them.
CONTRACT = $(shell grep -rl --include='*.py' 'pytest.mark.contract' tests)

# The texts are taken as they stand, dollar signs included, and reach the script through the environment, so that
# neither make nor the shell interprets them. A PROMPT or TEXT that the caller's shell happens to export is not ours.
ifeq ($(origin PROMPT),command line)
override export PROMPT := $(value PROMPT)
PROMPT_OPTION := $(if $(value PROMPT),--prompt="$$PROMPT")
endif
ifeq ($(origin TEXT),command line)
override export TEXT := $(value TEXT)
TEXT_OPTION := $(if $(value TEXT),--text="$$TEXT")
endif

.PHONY: demo test contract lint docs picture browser clean
.NOTPARALLEL:

demo: export HF_HUB_OFFLINE := 1
demo: $(VENV)/.installed-bench
	$(VENV)/bin/python examples/demo.py $(TEXT_OPTION) $(PROMPT_OPTION) $(ARGS)

# Each worker runs torch on one thread: several threads per worker only compete for the cores.
test contract: export HF_HUB_OFFLINE := 1
test contract: export OMP_NUM_THREADS := 1
test: $(VENV)/.installed-test $(OLDEST_VENV)/.installed lint
	@command -v chromium > /dev/null || echo "No Chromium: the page is not tested in a browser; make browser installs it."
	$(VENV)/bin/python -m pytest -n $(WORKERS) $(ARGS)
	$(if $(value ARGS),,$(OLDEST_VENV)/bin/python -m pytest -n $(WORKERS) -m contract $(CONTRACT))

contract: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -m pytest -n $(WORKERS) -m contract $(or $(ARGS),$(CONTRACT))

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

picture: export HF_HUB_OFFLINE := 1
picture: $(VENV)/.installed-bench
	$(VENV)/bin/python examples/animation.py $(or $(TEXT_OPTION),--text) $(ARGS)
	$(VENV)/bin/python examples/animation.py $(PROMPT_OPTION) $(ARGS)

browser:
	command -v chromium || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)

docs: export HF_HUB_OFFLINE := 1
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.installed-docs $(VENV)/.installed-train
	$(VENV)/bin/python -m mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) $(OLDEST_VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra of setup.cfg, written only when pip succeeded. --no-compile: Python compiles what it imports.
$(VENV)/.installed-%: $(VENV)/.created setup.cfg setup.py pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[$*]'
	touch $@

# --clear: what an interrupted run left behind is made anew.
$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FBLT needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# The packages of $(VENV), by their path, with another transformers before them.
$(OLDEST_VENV)/.installed: $(VENV)/.installed-test Makefile
	$(VENV)/bin/python -m venv --clear --without-pip $(OLDEST_VENV)
	$(VENV)/bin/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(OLDEST_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/newest.pth
	$(VENV)/bin/python -m pip --disable-pip-version-check --python $(OLDEST_VENV)/bin/python \
		install --no-compile --no-deps --ignore-installed transformers==$(OLDEST)
	touch $@
