"""Recipes: those that ship, the mistakes that are found, overrides, and the commands around them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ebmcli
from ebmcli import recipe as recipes
from ebmcli.cli.recipe import app
from ebmcli.errors import EBMError, Exit, UsageError
from ebmcli.recipe import Recipe
from ebmcli.training import cost

ROOT = Path(ebmcli.__file__).resolve().parent.parent
GOOD = """
schema = 1
[recipe]
name = "small"
regime = "convergent"
[data]
source = "mnist-10k"
image_size = 16
channels = 1
[potential]
network = "vanilla"
energy_scale = "langevin"
[mcmc]
init = "persistent"
bank_size = 200
steps = 10
step_size = 0.02
[train]
updates = 5
[optimizer]
name = "adam"
learning_rate = 3e-4
"""


def changed(*changes: tuple[str, str]) -> str:
    """GOOD with pieces of its text replaced."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def fails(text: str) -> UsageError:
    """The error that `loads` raises."""
    with pytest.raises(UsageError) as caught:
        recipes.loads(text, "small")
    return caught.value


def line(text: str) -> str:
    """The only mistake found in a recipe."""
    error = fails(text)
    assert len(error.details) == 1, error.details
    return error.details[0]


def check_output(error: EBMError) -> None:
    """No error speaks of pydantic, URLs or Python."""
    whole = "\n".join([error.message, error.hint, *error.details])
    for word in ("pydantic", "http", "Traceback", "Input should", "type=", "None"):
        assert word not in whole


# --- what ships


SHIPPED = recipes.names()


def test_shipped_names() -> None:
    regimes = ("shortrun", "convergent")
    expected = {
        "digits_quickstart",
        *(f"{d}_{r}{cpu}" for d in ("mnist", "fashion") for r in regimes for cpu in ("", "_cpu")),
        "mnist_shortrun_release",
        "celeba_shortrun",
        "celeba_shortrun_cpu",
        *(f"{d}_{r}{form}" for d in ("gmm", "rings") for r in regimes for form in ("", "_release")),
        *(f"emoji_{r}{cpu}" for r in regimes for cpu in ("", "_cpu")),
        *(f"{d}_{r}" for d in ("celeba32", "celeba") for r in regimes),
        "cifar10_oscillation",
        "mnist_convergent_vanilla",
        "flowers_convergent_vanilla",
        "gmm_convergent_noise",
    }
    assert expected <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.recipe.name == name
    assert recipe.recipe.regime == ("convergent" if "convergent" in name or "quick" in name else "non-convergent")
    assert recipes.loads(recipe.dumps()) == recipe
    assert recipes.loads(recipe.dumps()).hash() == recipe.hash()
    text = recipes.read(name)
    header = text.partition("\nschema = 1")[0]
    assert all(part.startswith("#") for part in header.strip().splitlines())
    for needed in (f"ebm train recipes/{name}.toml", "# CPU ", "# GPU ", "# Expect "):
        assert needed in header
    assert "estimate" in header or "measured" in header
    assert recipe.provenance
    known = recipes.Recipe.json_schema()["properties"]
    for key in recipe.provenance:
        section = key.partition(".")[0]
        assert key == "cut" or section in known, key
        if "." in key:
            assert key.partition(".")[2] in getattr(recipe, section).model_dump(), key


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("_cpu")])
def test_cpu_recipe_says_what_it_cuts(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.recipe.source == "ours"
    assert recipe.provenance["cut"]


@pytest.mark.parametrize("name", [name for name in SHIPPED if "shortrun" not in name])
def test_data_noise_is_not_below_the_step(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.data.image_size == 1 or recipe.data.noise_std >= recipe.mcmc.step_size


def test_published_numbers() -> None:
    paper = recipes.load("mnist_shortrun")
    assert (paper.mcmc.step_size, paper.mcmc.noise, paper.mcmc.steps, paper.mcmc.init) == (
        1,
        0,
        100,
        "uniform",
    )
    assert (paper.optimizer.name, paper.optimizer.learning_rate) == ("adam", 1e-4)
    assert paper.energy_scale_value() == 1
    release = recipes.load("mnist_shortrun_release")
    assert (release.mcmc.step_size, release.mcmc.noise, release.mcmc.steps) == (0.01, 1, 150)
    assert (release.data.noise_std, release.train.positives, release.train.updates) == (0.03, 100, 100_000)
    assert release.energy_scale_value() == pytest.approx(20_000)
    convergent = recipes.load("mnist_convergent")
    assert (convergent.mcmc.step_size, convergent.data.noise_std, convergent.mcmc.steps) == (
        0.0075,
        0.015,
        500,
    )
    assert (convergent.optimizer.name, convergent.optimizer.learning_rate) == ("sgd", 0.01)
    assert (convergent.potential.network, convergent.data.image_size) == ("nonlocal", 32)
    for toy, scale in (("gmm", 1), ("rings", 2)):
        short, long = recipes.load(f"{toy}_shortrun_release"), recipes.load(f"{toy}_convergent_release")
        assert (short.mcmc.init, short.mcmc.init_scale, short.mcmc.step_size) == ("gaussian", scale, 0.01)
        assert (long.mcmc.step_size, long.mcmc.steps, long.mcmc.bank_size) == (0.125, 500, 10_000)
        assert (long.optimizer.learning_rate, long.train.updates) == (0.1, 200_000)
        assert recipes.load(f"{toy}_convergent").mcmc.step_size <= 0.075


# --- values


def test_defaults_and_scale() -> None:
    recipe = recipes.loads(GOOD)
    assert recipe.mcmc.noise == 1
    assert recipe.mcmc.bank_init == "uniform"
    assert recipe.longrun.every == 0
    assert recipe.energy_scale_value() == pytest.approx(2 / 0.02**2)
    assert recipes.loads(changed(('"langevin"', "50"))).energy_scale_value() == 50.0
    assert recipes.loads(changed(('"langevin"', '"unit"'))).energy_scale_value() == 1.0


def test_frozen() -> None:
    recipe = recipes.loads(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.mcmc.steps = 3  # type: ignore[misc]


def test_hash() -> None:
    recipe = recipes.loads(GOOD)
    assert re.fullmatch(r"[0-9a-f]{12}", recipe.hash())
    assert recipe.hash() == recipes.loads(GOOD).hash()
    assert recipe.hash() == recipes.loads(GOOD + "betas = [0.9, 0.999]\nmomentum = 0\n").hash()
    assert recipe.hash() == recipes.loads(GOOD + '[provenance]\nmcmc = "ours"\n').hash()
    assert recipe.hash() != recipes.loads(changed(("steps = 10", "steps = 11"))).hash()
    assert recipe.hash() != recipes.loads(changed(('"langevin"', '"unit"'))).hash()


def test_phases_fill_in_what_a_stage_leaves_out() -> None:
    stages = """decay = 0.999
    [[optimizer.stages]]
    from_update = 100
    learning_rate = 1e-4
    [[optimizer.stages]]
    from_update = 300
    name = "sgd"
    learning_rate = 0.02
    decay = 0.9995
    minimum = 5e-4
    momentum = 0.5
    """
    recipe = recipes.loads(GOOD + stages)
    first, second, third = recipe.optimizer.schedule().phases
    assert (first.from_update, first.name, first.learning_rate, first.decay) == (1, "adam", 3e-4, 0.999)
    assert (second.from_update, second.name, second.learning_rate, second.decay) == (100, "adam", 1e-4, 0.999)
    assert third == ("sgd", 0.02, 0.9995, 5e-4, (0.9, 0.999), 0.5, 300)
    assert recipes.loads(recipe.dumps()) == recipe


# --- mistakes


def test_five_mistakes_are_five_lines() -> None:
    error = fails(
        changed(
            ('"convergent"', '"convergnt"'),
            ("image_size = 16", "image_size = 16.5"),
            ("bank_size = 200", "bank_size = 20"),
            ("step_size = 0.02", "step_size = -1"),
            ("learning_rate = 3e-4", "learning_rat = 3e-4\nlearning_rate = 3e-4"),
        )
    )
    assert error.code == Exit.USAGE
    assert error.message == "recipe small has 5 mistakes"
    assert list(error.details) == [
        'recipe.regime = "convergnt": expected "convergent" or "non-convergent"; did you mean "convergent"?',
        "data.image_size = 16.5: expected a whole number ≥ 1",
        "mcmc.step_size = -1: expected a number > 0",
        "mcmc.bank_size = 20: expected train.negatives (100) or more: one update draws that many chains",
        "optimizer.learning_rat = 0.0003: unknown key; did you mean optimizer.learning_rate?",
    ]
    check_output(error)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("schema = 1", "schema = 2")], "schema = 2: expected 1"),
        ([("schema = 1", "")], "schema is missing: expected 1"),
        ([("steps = 10", 'steps = "10"')], 'mcmc.steps = "10": expected a whole number ≥ 1'),
        ([("steps = 10", "steps = true")], "mcmc.steps = true: expected a whole number ≥ 1"),
        ([("steps = 10", "")], "mcmc.steps is missing: expected a whole number ≥ 1"),
        ([("0.02", "nan")], "mcmc.step_size = nan: expected a number > 0"),
        ([("0.02", "inf")], "mcmc.step_size = inf: expected a number > 0, finite"),
        ([("[train]", "[train]\nema = 1.0")], "train.ema = 1.0: expected a number ≥ 0 and < 1"),
        (
            [('"langevin"', "-2")],
            'potential.energy_scale = -2: expected "langevin" or "unit" or a number > 0',
        ),
        ([('"vanilla"', '"vanila"')], 'did you mean "vanilla"?'),
        ([('"small"', '"a/b"')], "recipe.name = \"a/b\": expected letters, digits, '.', '_' and '-'"),
        ([("3e-4", "3e-4\nbetas = [0.9]")], "optimizer.betas"),
        ([("[train]\nupdates = 5", "")], "[train] is missing: expected a section with updates"),
        ([("[train]\nupdates = 5", "[train]")], "train.updates is missing: expected a whole number ≥ 1"),
        ([("3e-4", "3e-4\n[log]\nkeep = 3")], "log.keep = 3: unknown key; did you mean log.keep_last?"),
        ([("steps = 10", "steps = 10\ntau = 0")], "mcmc.tau = 0: unknown key; did you mean mcmc.noise?"),
        ([("updates = 5", "updates = 5\nlearning_rate = 1")], "did you mean optimizer.learning_rate?"),
        (
            [("schema = 1", "schema = 1\nupdates = 3")],
            "updates = 3: unknown key; did you mean train.updates?",
        ),
        (
            [("3e-4", "3e-4\n[long_run]\nsteps = 3")],
            "long_run = a table: unknown section; did you mean longrun?",
        ),
        ([("3e-4", "3e-4\n[zzz]\nqqq = 3")], "zzz = a table: unknown section"),
        ([("schema = 1", "schema = 1\nlog = 3")], "log = 3: expected a table"),
        ([("3e-4", "3e-4\n[provenance]\nmcmc.steps = 1")], "provenance.mcmc = a table: expected text"),
        ([("3e-4", "3e-4\nstages = 3")], "optimizer.stages = 3: expected a list of tables"),
        ([("3e-4", "3e-4\nstages = [{}]")], "optimizer.stages[0].from_update is missing"),
        (
            [("3e-4", "3e-4\nstages = [{from_update = 2, rate = 1}]")],
            "optimizer.stages[0].rate = 1: unknown key",
        ),
    ],
)
def test_one_mistake(changes: Sequence[tuple[str, str]], expected: str) -> None:
    assert expected in line(changed(*changes))
    check_output(fails(changed(*changes)))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ([("bank_size = 200\n", "")], "mcmc.bank_size is missing"),
        ([('"persistent"', '"data"')], "mcmc.bank_size = 200"),
        ([('"persistent"\nbank_size = 200', '"data"\nrejuvenation = 0.1')], "mcmc.rejuvenation"),
        ([("[train]", '[train]\nprecision = "bf16"')], "train.precision"),
        ([('"persistent"\nbank_size = 200', '"data"\nbank_init = "data"')], "mcmc.bank_init"),
        (
            [('"mnist-10k"\nimage_size = 16\nchannels = 1', '"gmm"\nimage_size = 1\nchannels = 2')],
            "potential.network",
        ),
        (
            [('"mnist-10k"\nimage_size = 16', '"gmm"\nimage_size = 1'), ('"vanilla"', '"toy"')],
            "data.channels",
        ),
        ([('"vanilla"', '"toy"')], "potential.network"),
        ([("image_size = 16", "image_size = 4")], "data.image_size"),
        ([('"vanilla"', '"nonlocal"\nspace_to_depth = true')], "potential.space_to_depth"),
        (
            [("image_size = 16", "image_size = 17"), ('"vanilla"', '"vanilla"\nspace_to_depth = true')],
            "potential.space",
        ),
        ([("3e-4", "3e-4\nmomentum = 0.9")], "optimizer.momentum"),
        ([('"adam"', '"sgd"'), ("3e-4", "3e-4\nbetas = [0.5, 0.9]")], "optimizer.betas"),
        ([("3e-4", "3e-4\nminimum = 1e-3")], "optimizer.minimum"),
        (
            [("3e-4", '3e-4\nstages = [{from_update = 3, name = "sgd"}]')],
            "optimizer.stages[0].learning_rate is",
        ),
        (
            [("3e-4", "3e-4\nstages = [{from_update = 9}, {from_update = 9}]")],
            "optimizer.stages[1].from_update = 9",
        ),
        ([("3e-4", "3e-4\nstages = [{from_update = 9, minimum = 1.0}]")], "optimizer.stages[0].minimum"),
        ([("3e-4", "3e-4\nstages = [{from_update = 9, momentum = 0.5}]")], "optimizer.stages[0].momentum"),
        (
            [("steps = 10", "steps = 10\nnoise = 0"), ("3e-4", "3e-4\n[longrun]\nevery = 1")],
            "longrun.step_size is",
        ),
        (
            [('"persistent"\nbank_size = 200', '"data"'), ("3e-4", '3e-4\n[longrun]\ninit = "persistent"')],
            "longrun.init",
        ),
    ],
)
def test_values_that_do_not_fit_together(changes: Sequence[tuple[str, str]], key: str) -> None:
    assert line(changed(*changes)).startswith(key)


def test_python_recipe_is_checked_too() -> None:
    values: dict[str, Any] = recipes.loads(GOOD).resolved()
    assert Recipe.model_validate(values) == recipes.loads(GOOD)
    values["mcmc"]["bank_size"] = 3
    with pytest.raises(ValueError, match=r"mcmc\.bank_size = 3"):
        Recipe.model_validate(values)


def test_syntax_error_has_its_place() -> None:
    error = fails(changed(("steps = 10", "steps 10")))
    assert "line 16, column 7" in error.message
    assert error.details[0] == "16 | steps 10"
    assert error.details[1].index("^") == error.details[0].index("10")
    assert "end" in fails('schema = 1\nname = """').message


# --- addresses


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = recipes.load("mnist_shortrun")
    for address in ("mnist-shortrun", "recipes/mnist_shortrun.toml", "mnist_shortrun.toml", "MNIST_shortrun"):
        assert recipes.load(address) == expected
    assert recipes.load(recipes.path_of("mnist_shortrun")) == expected
    mine = tmp_path / "mnist_shortrun.toml"
    mine.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert recipes.load("mnist_shortrun.toml").recipe.name == "small"
    assert recipes.load("mnist_shortrun") == expected
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UsageError, match=r"no recipe\.toml"):
        recipes.load(run)
    (run / "recipe.toml").write_text(GOOD, encoding="utf-8")
    assert recipes.load(run).recipe.name == "small"


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("mnist_shortrn", "no recipe is called 'mnist_shortrn'", "did you mean 'mnist_shortrun'?"),
        ("zzz", "no recipe is called 'zzz'", "ebm recipe list"),
        ("", "no recipe is called ''", "ebm recipe list"),
        ("recipes/nowhere.toml", "no recipe file at recipes/nowhere.toml", "ebm recipe list"),
        ("some/mnist_shortrun.toml", "no recipe file at some/mnist_shortrun.toml", "'mnist_shortrun'"),
    ],
)
def test_nothing_there(address: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipes.load(address)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.toml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(UsageError, match="not text"):
        recipes.load(path)


# --- overrides


def test_overrides() -> None:
    base = recipes.load("mnist_convergent_cpu")
    recipe = recipes.load(
        "mnist_convergent_cpu",
        [
            "train.updates=100",
            "data.source = ../some digits",
            'recipe.notes="a # b = c"',
            "optimizer.betas=[0.5, 0.9]",
            "optimizer.stages[0].decay=0.99",
            "potential.energy_scale=7",
            "log.samples_every=",
            "train.seed=0",
        ],
    )
    assert recipe.train.updates == 100
    assert recipe.data.source == "../some digits"
    assert recipe.recipe.notes == "a # b = c"
    assert recipe.optimizer.betas == (0.5, 0.9)
    assert recipe.optimizer.stages[0].decay == 0.99
    assert recipe.energy_scale_value() == 7
    assert recipe.log.samples_every == 500
    assert recipe.provenance["train.updates"] == f"set by hand; the recipe has {base.train.updates}"
    assert "train.seed" not in recipe.provenance
    assert recipes.loads(recipe.dumps()) == recipe
    assert recipe.hash() != base.hash()
    noise = recipes.load("mnist_convergent_cpu", ["mcmc.init=uniform", "mcmc.bank_size="])
    assert noise.mcmc.bank_size is None


def test_mistaken_overrides_are_all_reported() -> None:
    overrides = ["train.updates=few", "mcmc.step=3", "rubbish", "train.seed='", "mcmc.steps.x=1", "log=3"]
    with pytest.raises(UsageError) as caught:
        recipes.load("mnist_shortrun", overrides)
    assert list(caught.value.details) == [
        "mcmc.step = 3: unknown key; did you mean mcmc.steps? (override)",
        'train.updates = "few": expected a whole number ≥ 1 (override)',
        "log = 3: expected a table (override)",
        "'rubbish': expected key=value, such as train.updates=100 (override)",
        "train.seed: ' is no TOML value (override)",
        "mcmc.steps.x: there is no such place in the recipe (override)",
    ]
    check_output(caught.value)


# --- schema and commands


def test_schema_describes_every_key() -> None:
    schema = json.loads(json.dumps(Recipe.json_schema()))
    sections = {"recipe", "data", "potential", "mcmc", "train", "optimizer", "guard", "longrun", "log", "provenance"}
    assert set(schema["properties"]) == sections | {"schema"}
    assert schema["additionalProperties"] is False
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False
        for key, value in definition["properties"].items():
            assert value.get("description"), f"{name}.{key}"


def invoke(*arguments: str) -> Any:
    """Run `ebm recipe …` in this process."""
    return CliRunner().invoke(app, list(arguments))


def test_list_and_show() -> None:
    result = invoke("list")
    assert result.exit_code == 0
    assert [row.split()[0] for row in result.stdout.splitlines()[1:]] == SHIPPED
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = json.loads(invoke("list", "--json").stdout)
    assert [row["name"] for row in rows] == SHIPPED
    assert {row["model"] for row in rows if row["name"] == "mnist_shortrun_cpu"} == {"mnist-shortrun"}
    starred = [line.split()[0] for line in result.stdout.splitlines()[1:] if " * " in line]
    assert starred == [row["name"] for row in rows if row["model"]]
    assert invoke("show", "gmm-shortrun").stdout == recipes.read("gmm_shortrun")
    resolved = invoke("show", "gmm_shortrun", "--resolved").stdout
    assert recipes.loads(resolved) == recipes.load("gmm_shortrun")
    assert "updates = 7\n" in invoke("show", "gmm_shortrun", "--set", "train.updates=7").stdout


def test_diff(tmp_path: Path) -> None:
    lines = invoke("diff", "gmm_shortrun_release", "rings-shortrun-release").stdout.splitlines()
    assert lines[0].split() == ["gmm_shortrun_release", "rings-shortrun-release"]
    assert [line.split() for line in lines[1:]] == [
        ["data.source", '"gmm"', '"rings"'],
        ["mcmc.init_scale", "1.0", "2.0"],
    ]
    mine = tmp_path / "mine.toml"
    mine.write_text(GOOD, encoding="utf-8")
    assert invoke("diff", str(mine), str(mine)).stdout == "the settings are the same\n"
    found = json.loads(invoke("diff", "mnist_convergent_cpu", "mnist_convergent", "--json").stdout)
    assert found["optimizer.stages[0].name"] == ["sgd", None]
    assert found["mcmc.steps"] == [60, 500]
    assert not any(key.startswith(("provenance", "recipe.")) for key in found)


def test_cost_is_an_estimate_of_what_was_measured() -> None:
    """Within a factor of three of the times in the recipes' headers, on one core."""
    for name, measured in (("digits_quickstart", 0.53 * 4000), ("mnist_convergent_cpu", 1.1 * 10_000)):
        assert 1 / 3 < cost.seconds(recipes.load(name), cores=1) / measured < 3, name
    assert cost.seconds(recipes.load("gmm_shortrun"), 2) == cost.seconds(recipes.load("gmm_shortrun"), 1) / 2
    assert [cost.in_words(s) for s in (20, 3600, 7200, 4e5, math.nan)] == ["1 min", "60 min", "2 h", "5 days", "?"]


def test_copy(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    result = invoke("copy", "gmm_shortrun", str(target))
    assert result.stdout == f"{target}\n"
    assert target.read_text(encoding="utf-8") == recipes.read("gmm_shortrun")
    target.write_text("mine", encoding="utf-8")
    refused = invoke("copy", "gmm_shortrun", str(target))
    assert isinstance(refused.exception, UsageError)
    assert "--force" in refused.exception.hint
    assert target.read_text(encoding="utf-8") == "mine"
    assert invoke("copy", "gmm_shortrun", str(target), "--force").exit_code == 0
    assert target.read_text(encoding="utf-8") == recipes.read("gmm_shortrun")
    assert isinstance(invoke("copy", str(target), str(target), "--force").exception, UsageError)
    invoke("copy", "gmm_shortrun", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gmm_shortrun.toml", "mine.toml"]


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD, encoding="utf-8")
    bad.write_text(changed(("steps = 10", "steps = 0")), encoding="utf-8")
    assert "small is in order" in invoke("check", str(good)).stdout
    assert json.loads(invoke("check", str(good), "--json").stdout)["hash"] == recipes.load(good).hash()
    refused = invoke("check", str(good), "--set", "mcmc.steps=0")
    assert isinstance(refused.exception, UsageError)
    answer = invoke("check", str(bad), "--json")
    assert json.loads(answer.stdout)["mistakes"] == ["mcmc.steps = 0: expected a whole number ≥ 1"]
    assert isinstance(answer.exception, UsageError)
    assert "mcmc" in json.loads(invoke("schema").stdout)["properties"]


def test_list_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from ebmcli.cli.recipe import app\n"
        "app(['list'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'tomlkit', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mnist_shortrun" in done.stdout
