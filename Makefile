.DEFAULT_GOAL := help
.PHONY: help style types test slow docs quality

help: ## list what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

style: ## put files in order (ruff)
	ruff check --fix . && ruff format .

types: ## check the types (mypy)
	mypy

test: ## run the tests (minutes)
	pytest

slow: ## run the long tests
	pytest -m slow

docs: ## write docs/cli.md anew from the commands
	python tools/cli_reference.py --write docs/cli.md

quality: ## all that CI asks for, but the fresh environment
	ruff check . && ruff format --check . && mypy
	python tools/cli_reference.py --check docs/cli.md
	for recipe in recipes/*.toml; do ebm recipe check "$$recipe" || exit 1; done
	pytest
