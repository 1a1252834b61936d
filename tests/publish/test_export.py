"""`ebm export`: a model folder that stands alone, says where it comes from, and samples as its run does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.quick import ebm, fails, metrics, recipe, trained
from PIL import Image

import ebmcli
from ebmcli.media import read_metadata
from ebmcli.models import lookup
from ebmcli.models.sampling import SampleSettings
from ebmcli.publish.card import card
from ebmcli.storage.tensors import read_tensors


def test_a_folder_that_stands_alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Weights, settings, recipe, card, picture, summary; the averaged weights and the bank, and no training state."""
    run = trained(tmp_path_factory)
    ran = ebm("export", run, "digits", "--json", cwd=tmp_path, check=0)
    folder = tmp_path / "digits"
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "bank.png",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "recipe.toml",
        "samples.png",
    }
    tensors = read_tensors(folder / "model.safetensors")[0]
    assert {name.split(".")[0] for name in tensors} == {"network", "bank"}
    told = json.loads(ran.stdout)
    model, source = ebmcli.load(folder), ebmcli.load(run)
    assert (model.config.name, model.config.updates, told["sha256"]) == ("digits", 40, model.digest)
    assert json.loads((folder / "config.json").read_text()) == model.config.model_dump(mode="json")
    assert (folder / "recipe.toml").read_text() == source.recipe
    assert torch.equal(ebmcli.sample(model, count=4)[0], ebmcli.sample(source, count=4)[0])
    with Image.open(folder / "samples.png") as picture:
        assert picture.width > 500
    assert read_metadata(folder / "samples.png")["model_sha256"] == model.digest


def test_the_card_says_what_was_measured(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The means of the run's last updates, its length, its regime, and that nobody has judged it yet."""
    run = trained(tmp_path_factory)
    ebm("export", run, "digits", "--quiet", cwd=tmp_path, check=0)
    summary = json.loads((tmp_path / "digits" / "metrics.json").read_text())
    records = metrics(run)
    assert (summary["updates"], summary["over_last_updates"]) == (40, len(records))
    mean = sum(r["displacement"] for r in records) / len(records)
    assert summary["mean"]["displacement"] == pytest.approx(mean)
    card = (tmp_path / "digits" / "README.md").read_text()
    assert "# digits" in card
    assert f"displacement r {mean:.3g} px" in " ".join(card.split())
    assert "not judged yet" in card
    assert "began with" not in card


def test_updates_without_a_record_count_too(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run that keeps a record of every tenth update took ten times the time of its records, over all updates."""
    run = shutil.copytree(trained(tmp_path_factory), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{**line, "seconds": 36.0} for line in lines if line["update"] % 10 == 0]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    ebm("export", run, "digits", "--quiet", cwd=tmp_path, check=0)
    summary = json.loads((tmp_path / "digits" / "metrics.json").read_text())
    assert len(kept) == 4
    assert (summary["over_last_updates"], summary["hours"]) == (40, pytest.approx(0.4))


@pytest.mark.parametrize(("value", "error", "says"), [(-0.1, 0.02, True), (0.01, 0.02, False), (0.3, None, True)])
def test_a_drift_that_is_not_nothing_is_on_the_card(value: float, error: float | None, says: bool) -> None:
    """Whatever the verdict allows: chains whose energy moves beyond the error of that are not called at rest."""
    model = lookup.load("digits-convergent")
    judged = {
        **{"verdict": model.config.verdict, "reasons": ["near the data"], "steps": 100, "kernel": "langevin"},
        **{"start": "data", "step_size": 0.1, "measured": {"drift": {"value": value, "error": error}}},
    }
    written = " ".join(card(model, SampleSettings.of(model), {}, judged).split())
    assert (f"moved by {value:+.2g}" in written) is says


def test_where_its_weights_began(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run that began with another model's weights says so on its card: its updates are not all there were."""
    words = ("--init-from", trained(tmp_path_factory), "--set", "train.updates=2", "--threads", 1)
    ebm("train", recipe(tmp_path_factory), *words, "--out", "run", "--quiet", cwd=tmp_path, check=0)
    ebm("export", "run", "tuned", "--quiet", cwd=tmp_path, check=0)
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "began with the weights of another model: tiny, update 40, " in card


def test_what_files_say_is_text_on_the_card() -> None:
    """No tag, link, heading, table, code or line of a file's own; YAML that reads as what was meant."""
    evil = "<img src=x onerror=alert(1)> [me](javascript:x) | `x`\n\n# mine\x1b[2J \udce9"
    model = lookup.load("gmm-shortrun")
    facts = {"data": evil, "verdict": evil, "name": evil, "init": evil, "arguments": {evil: evil}}
    hostile = model._replace(
        config=model.config.model_copy(update=facts), recipe=f"[provenance]\n{json.dumps('a<b>')} = '<script>'\n"
    )
    settings = SampleSettings.of(model, count=4, seed=0)
    summary = {
        "begun_with": evil,
        "over_last_updates": evil,
        "hours": 1.0,
        "mean": {"energy_difference": 0.0, "displacement": 1.0, "straightness": 1.0},
        "sd": {"energy_difference": 0.0},
    }
    judged = {"verdict": evil, "reasons": [evil], "kernel": evil, "start": evil, "steps": 10, "step_size": 0.1}
    made = card(hostile, settings, summary, judged, licence=evil)
    prose = "\n".join(line for line in made.splitlines() if not line.startswith("    "))
    _, front, body = prose.split("---\n", 2)
    assert body.count("onerror") == body.count("&lt;img") > 9
    for raw in ("<img", "<script", "<b>", " [me]", "`x`", "\x1b", "\udce9"):
        assert raw not in body, raw
    assert [line for line in body.splitlines() if line.endswith("mine")] == []
    code = [line for line in made.splitlines() if line.startswith("    ")]
    assert [line.split()[0] for line in code] == ["pip", "ebm", "import", "model", "x,"]
    assert json.loads(next(line for line in front.splitlines() if line.startswith("license: "))[9:]) == evil


def test_an_earlier_moment(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A checkpoint of a run is exported as that moment was."""
    ebm("export", trained(tmp_path_factory) / "checkpoints" / "000020", "early", "--quiet", cwd=tmp_path, check=0)
    assert ebmcli.load(tmp_path / "early").config.updates == 20
    assert json.loads((tmp_path / "early" / "metrics.json").read_text())["updates"] == 20


def test_bad_input(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder with something in it, and no such model; what was there stays."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("chapter 1")
    fails(ebm("export", trained(tmp_path_factory), "mine", cwd=tmp_path), "not empty")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    fails(ebm("export", "no-such-model", "new", cwd=tmp_path), "no model")
    assert not (tmp_path / "new").exists()
