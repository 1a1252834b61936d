"""Readers of recipes and of words on the command line."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fuzzing.table import MODELS, Files, reader, takes

RECIPE = b"""schema = 1
[recipe]
name = "small"
regime = "convergent"
[data]
source = "gmm"
image_size = 1
channels = 2
[potential]
network = "toy"
width = 8
energy_scale = "langevin"
[mcmc]
init = "persistent"
bank_size = 32
steps = 3
step_size = 0.1
[train]
updates = 4
positives = 8
negatives = 8
[optimizer]
name = "adam"
learning_rate = 0.001
stages = [{from_update = 3, name = "sgd", learning_rate = 0.00001, momentum = 0.5}]
[log]
samples_every = 0
checkpoint_every = 2
keep_last = 2
[provenance]
"train.updates" = "few, for tests"
"""


def _recipes() -> list[Files]:
    from ebmcli.recipe import load, names, read

    written = [RECIPE, *(read(name).encode() for name in names()[:6])]
    return [{"recipe.toml": text} for text in (*written, load(names()[0]).dumps().encode())]


@reader("recipe", _recipes, share=3)
def read_recipe(folder: Path) -> None:
    """A recipe from a file; what is taken can be written and read again, and costed."""
    from ebmcli.recipe import load, loads
    from ebmcli.training import cost

    recipe = load(folder / "recipe.toml")
    again = loads(recipe.dumps())
    assert again.hash() == recipe.hash(), "a recipe's own text is another recipe"
    cost.in_words(cost.seconds(recipe))


def _overrides() -> list[Files]:
    sets = (
        "train.updates=100\nmcmc.step_size=0.02\ndata.source=fashion-1k",
        "optimizer.stages[0].from_update=7\noptimizer.betas=[0.8, 0.9]\ntrain.seed=3",
        "mcmc.init=uniform\nmcmc.bank_size=\nprovenance.data=by hand\nrecipe.name=x-y",
        "potential.network=vanilla\npotential.width=8\ndata.source=emoji-1k\ndata.image_size=16\ndata.channels=3",
    )
    return [{"set.words": words.encode(), "recipe.toml": RECIPE} for words in sets]


@reader("overrides", _overrides, damaged=(".words",), share=2)
def read_overrides(folder: Path) -> None:
    """`--set KEY=VALUE`."""
    from ebmcli.recipe import load, loads

    recipe = load(folder / "recipe.toml", typed(folder / "set.words"))
    loads(recipe.dumps())


def typed(path: Path) -> list[str]:
    """Words of a command line: no NUL can be in one, and what is not UTF-8 arrives as lone surrogates."""
    return path.read_bytes().replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")


def _names() -> list[Files]:
    words = (
        "mnist-shortrun\nmnist_shortrun\nmodels/gmm.safetensors",
        "user/model\nuser/model@main\nuser/model@" + "a" * 40,
        "https://huggingface.co/user/model/tree/main\nhf://user/model\nuser/model/",
        "runs/a\n~/x\npackage.module:factory\nmnist\nylecun/mnist@main",
    )
    return [{"names.words": text.encode()} for text in words]


@reader("names", _names, share=2)
def read_names(folder: Path) -> None:
    """What names of models, data, recipes and code are taken for, without network."""
    from ebmcli import data, hub, recipe
    from ebmcli.data.remote import address_of
    from ebmcli.errors import EBMError
    from ebmcli.models import foreign, lookup

    for word in typed(folder / "names.words"):
        for look in (
            hub.parse,
            foreign.is_spec,
            lookup.is_model,
            lookup.look_up,
            lookup.label,
            address_of,
            recipe.find,
        ):
            with contextlib.suppress(EBMError):
                look(word)
        with contextlib.suppress(EBMError):
            data.load(word, image_size=4, channels=1, limit=1)


def _numbers() -> list[Files]:
    base = "sample\ngmm.safetensors\n--steps\n2\n--count\n4"
    film = "chain-video\ngmm.safetensors\n--steps\n4\n--count\n4\n--pace\nlog\n--out\na.gif"
    lines = (
        f"{base}\n--seed\n3\n--step-size\n0.1\n--noise\n1\n--temperature\n0.5\n--batch-size\n2",
        f"{base}\n--threads\n1\n--energy-scale\n2.5",
        "train\nrecipe.toml\n--dry-run\n--set\ntrain.positives=4\n--set\ntrain.negatives=4\n--threads\n1",
        "longrun\ngmm.safetensors\n--steps\n2\n--chains\n4\n--moments\n2\n--compared\n20\n--seed\n1\n--step-size\n0.01",
        "data\nshow\nmnist-10k\n--count\n4\n--size\n8",
        "interpolate\ngmm.safetensors\n--steps\n3\n--count\n2",
        f"{film}\n--seconds\n0.2\n--fps\n5\n--size\n200x200\n--step-size\n0.1",
        f"{film}\n--seconds\n0.4\n--fps\n5\n--size\n240x200\n--temperature\n1.5\n--noise\n1",
    )
    model = (MODELS / "gmm_shortrun.safetensors").read_bytes()
    return [{"line.words": line.encode(), "gmm.safetensors": model, "recipe.toml": RECIPE} for line in lines]


@reader("numbers", _numbers, damaged=(".words",), share=0.25, patience=1.0, group="work")
def read_numbers(folder: Path) -> bool:
    """Numbers on the command line."""
    words = [word for word in typed(folder / "line.words") if word not in ("-h", "--help")]
    return takes(*words)
