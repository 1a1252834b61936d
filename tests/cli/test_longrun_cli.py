"""`ebm longrun`: what it writes, that no end loses anything, kernels, starts, bad input, the ways out of a verdict."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick import Running, ebm, fails, trained
from PIL import Image

from ebmcli.cli import _app as cli
from ebmcli.cli._app import load
from ebmcli.cli.longrun import FIELDS
from ebmcli.errors import EBMError
from ebmcli.evaluation import Walk, WalkSettings
from ebmcli.longrun import LongRun, begin, follow
from ebmcli.longrun.report import sparkline, steps_text
from ebmcli.media import read_metadata
from ebmcli.models import checkpoint
from ebmcli.models.checkpoint import ModelConfig
from ebmcli.networks import build
from ebmcli.publish import card
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run
from ebmcli.storage.seals import plain
from ebmcli.storage.tensors import pack, read_tensors

MODELS = Path(__file__).parents[1] / "helpers" / "weights"
CONVERGENT, SHORTRUN = MODELS / "gmm_convergent.safetensors", MODELS / "gmm_shortrun.safetensors"
FEW = ("--chains", 8, "--steps", 40, "--moments", 5, "--compared", 40, "--threads", 1)
FILES = {"images", "longrun.json", "longrun.png", "metrics.jsonl", "report.html", "result.json", "state.safetensors"}


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a long run, but for the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def lines(folder: Path) -> list[dict[str, object]]:
    """The records."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished long run of a toy with MALA and a warm-up; not to be changed."""
    folder = tmp_path_factory.mktemp("longrun")
    words = ("longrun", SHORTRUN, "--kernel", "mala", "--warmup", 30, "--step-size", 0.01, "--out", "a", *FEW)
    ran = ebm(*words, cwd=folder, check=0)
    (folder / "out.txt").write_text(ran.stdout)
    (folder / "err.txt").write_text(ran.stderr)
    return folder / "a"


# What is written


def test_the_folder(done: Path) -> None:
    """Files, records, images, numbers; the verdict on stdout; nothing in it depends on time or place."""
    assert {p.name for p in done.iterdir()} - {".lock"} == FILES
    records = lines(done)
    assert [r["step"] for r in records] == list(range(41))
    assert all(len(r["energy"]) == 8 + 4 for r in records)  # type: ignore[arg-type]
    looked = [r["step"] for r in records if r["moment"] is not None]
    assert looked == [0, 1, 3, 6, 16, 40]
    assert [int(p.stem) for p in sorted((done / "images").iterdir())] == looked
    with np.load(done / "images" / "000040.npz") as opened:
        assert opened["images"].shape == (8, 2)
    result = json.loads((done / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["complete"] is True
    assert result["steps"] == 40
    assert result["verdict"] in (done.parent / "out.txt").read_text()
    assert result["reasons"][0] in (done.parent / "err.txt").read_text()
    started = json.loads((done / "longrun.json").read_text())
    assert started["step_size"] != 0.01  # found in the warm-up, and kept
    assert result["step_size"] == started["step_size"]
    assert 0 < result["acceptance"] <= 1
    made = read_metadata(done / "longrun.png")
    assert (made["model"], made["step"], made["kernel"]) == ("gmm_shortrun", 40, "mala")
    with Image.open(done / "longrun.png") as picture:
        assert picture.width > 800
    page = (done / "report.html").read_text()
    assert result["verdict"] in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_plain_langevin_is_the_fused_path_in_pieces() -> None:
    """Walked in pieces, the chains end where one call of the sampler ends, bit for bit."""
    model = checkpoint.load(CONVERGENT)
    settings = WalkSettings.of(model, steps=300, chains=20, against="none", moments=7, seed=5)
    walk = Walk(model, settings, None)
    steps = [r.step for r in walk.records()]
    assert steps == list(range(301))
    kernel = Langevin(model.potential, settings.step_size)
    expected = run(kernel, kernel.init(walk.start, Stream(5, Purpose.MCMC)), 300).state
    assert walk.state is not None
    assert torch.equal(walk.state.x, expected.x)
    assert torch.equal(walk.state.energy, expected.energy)


def test_spacing_of_moments(tmp_path: Path) -> None:
    """Linear, when asked; another seed, other chains."""
    ebm("longrun", CONVERGENT, *FEW, "--spacing", "linear", "--out", "a", "--quiet", cwd=tmp_path, check=0)
    assert [int(p.stem) for p in sorted((tmp_path / "a" / "images").iterdir())] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    "words",
    [
        ("--kernel", "hmc", "--leapfrog", 3, "--from", "noise"),
        ("--kernel", "underdamped", "--adjust", "none", "--step-size", 0.02, "--from", "bank"),
        ("--adjust", "mh", "--warmup", 0, "--against", "bank"),
    ],
)
def test_kernels_and_starts(words: tuple[object, ...], tmp_path: Path) -> None:
    """Each runs, says its kernel, and goes on bit for bit from its middle (momenta and all)."""
    model = checkpoint.load(CONVERGENT)
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    names = {"--kernel": "kernel", "--leapfrog": "n_leapfrog", "--from": "start", "--step-size": "step_size"}
    chosen = {names[k]: v for k, v in pairs.items() if k in names}  # type: ignore[index]
    if pairs.get("--adjust") == "none":
        chosen["adjust"] = False
    if pairs.get("--adjust") == "mh":
        chosen |= {"kernel": "mala", "warmup": 0, "against": "bank"}
    settings = WalkSettings.of(model, steps=30, chains=6, moments=4, **chosen)
    whole = Walk(model, settings, None)
    begin(tmp_path / "whole", "m", whole)
    records = list(whole.records())
    half = Walk(model, settings, None)
    folder = begin(tmp_path / "half", "m", half)
    for _ in follow(half, folder, lambda: half.seen[-1].step == 17):
        pass
    again = Walk(model, settings, None, step_size=folder.facts["step_size"])
    assert folder.restore(again) == 17
    assert list(again.records()) == records[18:]
    assert again.seen == records
    assert again.state is not None
    assert whole.state is not None
    assert torch.equal(again.state.x, whole.state.x)


def test_images(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From data, with the bank against it: strips, Fréchet distances, saturation; then from what was written."""
    model = trained(tmp_path_factory)
    words = ("longrun", model, "--chains", 4, "--steps", 6, "--moments", 3, "--compared", 24, "--threads", 1)
    ran = ebm(*words, "--out", "a", "--json", cwd=tmp_path, check=0)
    result = json.loads(ran.stdout)
    assert result["distance"]["name"] == "Fréchet (efficientnet-lite0-112)"
    assert result["distance"]["gaussian"] > result["distance"]["data"] > 0
    assert 0 <= result["saturation"]["beyond"] <= 1
    assert json.loads((tmp_path / "a" / "longrun.json").read_text())["settings"]["against"] == "bank"
    with np.load(tmp_path / "a" / "images" / "000006.npz") as opened:
        assert (opened["images"].dtype, opened["images"].shape) == (np.uint8, (4, 1, 16, 16))
    from_files = ("--from", tmp_path / "a" / "images" / "000006.npz", "--out", "b", "--quiet")
    ebm(*words, *from_files, cwd=tmp_path, check=0)
    with np.load(tmp_path / "b" / "images" / "000000.npz") as opened:
        start = opened["images"].astype(int)
    with np.load(tmp_path / "a" / "images" / "000006.npz") as opened:
        assert np.abs(start - opened["images"]).max() <= 1


def test_colour(tmp_path: Path) -> None:
    """A model of colour images at its first weights: strips in colour."""
    arguments = {"width": 4}
    config = ModelConfig(
        name="colour",
        network="vanilla",
        arguments=arguments,
        image_size=32,
        channels=3,
        energy_scale=100.0,
        step_size=0.02,
        noise=1,
        steps=2,
        init="uniform",
        regime="non-convergent",
        updates=0,
        data="emoji-1k",
    )
    checkpoint.save(tmp_path / "m.safetensors", build("vanilla", config.shape, **arguments).state_dict(), config)
    words = ("--chains", 4, "--steps", 4, "--moments", 2, "--compared", 24, "--against", "none", "--threads", 1)
    ebm("longrun", "m.safetensors", *words, "--out", "a", "--quiet", cwd=tmp_path, check=0)
    with np.load(tmp_path / "a" / "images" / "000000.npz") as opened:
        assert opened["images"].shape == (4, 3, 32, 32)
    with Image.open(tmp_path / "a" / "longrun.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)[: picture.height // 2]
    assert (np.ptp(pixels, axis=2) > 60).mean() > 0.01  # emoji in their colours


# The verdict


def test_ways_out(tmp_path: Path) -> None:
    """--verdict exits 0 for an energy that passes, 1 for one that does not; without it both are done: 0."""
    words = ("--chains", 100, "--steps", 6000, "--moments", 5, "--compared", 400, "--threads", 1, "--verdict")
    ran = ebm("longrun", CONVERGENT, *words, "--out", "good", cwd=tmp_path, check=0)
    assert ran.stdout == "steady-state matches data\n"
    ran = ebm("longrun", SHORTRUN, *words[:2], "--steps", 1500, *words[4:], "--out", "bad", "--quiet", cwd=tmp_path)
    assert (ran.code, ran.stdout, ran.stderr) == (1, "oversaturated\n", "")


def test_export_writes_the_verdict_into_the_model(done: Path, tmp_path: Path) -> None:
    """Of a long run of this very model; one of another model, or an unfinished one, is refused."""
    verdict = json.loads((done / "result.json").read_text())["verdict"]
    ebm("export", SHORTRUN, "judged", "--longrun", done, "--quiet", cwd=tmp_path, check=0)
    folder = tmp_path / "judged"
    assert checkpoint.load(folder / checkpoint.FILE).config.verdict == verdict
    assert json.loads((folder / "verdict.json").read_text())["steps"] == 40
    assert f"Verdict on its density: {verdict}. After 40 steps of mala from data" in (folder / "README.md").read_text()
    facts = json.loads(ebm("inspect", "judged", "--json", cwd=tmp_path, check=0).stdout)
    assert facts["verdict"] == verdict
    card.export(folder / checkpoint.FILE, tmp_path / "again", "again")
    assert (tmp_path / "again" / "verdict.json").read_bytes() == (folder / "verdict.json").read_bytes()
    fails(ebm("export", CONVERGENT, "b", "--longrun", done, cwd=tmp_path), "long run of another model")
    unfinished = Path(shutil.copytree(done, tmp_path / "unfinished"))
    (unfinished / "result.json").unlink()
    fails(ebm("export", SHORTRUN, "b", "--longrun", unfinished, cwd=tmp_path), "is not finished", "--resume")
    assert not (tmp_path / "b").exists()


# Killed, interrupted, resumed


def test_killed_five_times(done: Path, tmp_path: Path) -> None:
    """Between all that is written, and resumed each time: the same files to the byte, and nothing else."""
    words = ("longrun", SHORTRUN, "--kernel", "mala", "--warmup", 30, "--step-size", 0.01, "--out", "a", *FEW)
    points = ("created", "record-5", "images-16", "state-16", "record-33", "reported")
    for number, point in enumerate(points):
        again = ("longrun", "--resume", "a") if number else words
        ran = ebm(*again, cwd=tmp_path, EBM_CRASH_AT=point)
        assert ran.code == -signal.SIGKILL, (point, ran)
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "ener')  # and a line cut off
    ebm("longrun", "--resume", "a", cwd=tmp_path, check=0)
    one, two = content(done), content(tmp_path / "a")
    assert one.keys() == two.keys()
    assert [k for k in one if one[k] != two[k]] == []


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C exits 130, keeps and reports what there is; the rest is made later, as if nothing had been."""
    words = ("longrun", CONVERGENT, "--chains", 8, "--steps", 400_000, "--moments", 4, "--compared", 40, "--threads", 1)
    running = Running((*words, "--out", "a"), tmp_path, {})
    running.until(lambda: (tmp_path / "a" / "metrics.jsonl").exists() and len(lines_so_far(tmp_path / "a")) > 8)
    running.signal(signal.SIGINT)
    ran = running.end()
    assert ran.code == 130, ran
    assert ran.stderr.splitlines()[-2].startswith("error: interrupted: step ")
    assert "ebm longrun --resume a" in ran.stderr
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["complete"] is False
    assert 0 < result["steps"] < 400_000
    assert lines(tmp_path / "a")[-1]["step"] == result["steps"]
    fails(ebm("export", CONVERGENT, "b", "--longrun", "a", cwd=tmp_path), "is not finished")


def lines_so_far(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().split("\n")


# Bad input


def test_bad_words(done: Path, tmp_path: Path) -> None:
    """Options that do not go together, starts and models that are not there: said before anything is written."""
    usage = [
        (("--leapfrog", 3), "are for --kernel hmc and underdamped"),
        (("--kernel", "mala", "--adjust", "none"), "is always tested"),
        (("--warmup", 5), "accepts every step"),
        (("--resume", done, "--steps", 5), "--steps is for a new long run"),
    ]
    for words, message in usage:
        model = () if "--resume" in words else (SHORTRUN,)
        fails(ebm("longrun", *model, *words, cwd=tmp_path), message, code=2)
    failing = [
        ((SHORTRUN, "--from", "bank"), "keeps no bank"),
        ((SHORTRUN, "--from", "absent"), "points cannot start from 'absent'"),
        (("absent",), "no model 'absent'"),
        ((SHORTRUN, "--out", done), "holds a long run already"),
        ((SHORTRUN, "--out", done / "longrun.json"), "is a file"),
        ((SHORTRUN, "--out", done / "longrun.json" / "x"), "cannot make the folder"),
        ((SHORTRUN, "--out", MODELS), "is not empty"),
        ((SHORTRUN, "--features", "package.module:factory"), "would import code"),
        ((SHORTRUN, "--features", SHORTRUN), "EfficientNet-Lite0 trunk"),
        (("--resume", "absent"), "no long run in absent"),
        ((CONVERGENT, "--resume", done), "this is another model"),
    ]
    for words, message in failing:
        fails(ebm("longrun", *words, *(() if "--resume" in words else FEW), cwd=tmp_path), message)
    assert [p.name for p in tmp_path.iterdir()] == [".streams"]


def test_a_long_run_that_goes_on_keeps_its_settings(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option is refused with --resume, unless it changes nothing that a long run comes to."""
    free = {"--device", "--backend", "--threads", "--trust-code", "--verdict", "--json", "--quiet", "--verbose"}
    words = {"--from": "data", "--against": "none", "--kernel": "langevin", "--adjust": "none", "--spacing": "log"}
    words["--persistence"] = "0.5"
    before = content(done)
    params = [param for param in load("longrun").params if param.param_type_name == "option"]
    options = {param.opts[0] for param in params} - {"--help", "--resume"} - free
    assert options == FIELDS.keys()
    for option in sorted(options):
        assert cli.run(["longrun", "--resume", str(done), option, words.get(option, "30")]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith(f"error: {option} is for a new long run"), said
        assert said[1].startswith("hint: "), said
    assert content(done) == before


def test_half_written_long_runs(done: Path, tmp_path: Path) -> None:
    """Whatever is broken is named, and stays as it is."""

    def broken(name: str, change: bytes | None) -> Path:
        folder = tmp_path / name.replace(".", "-")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(done, folder)
        if change is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(change)
        return folder

    def facts_with(**settings: object) -> bytes:
        facts = plain(json.loads((done / "longrun.json").read_text()))
        return json.dumps({**facts, "settings": {**facts["settings"], **settings}}).encode()

    short = (done / "metrics.jsonl").read_text().splitlines(keepends=True)
    cases: list[tuple[str, bytes | None, str]] = [
        ("longrun.json", b"{", "longrun.json is not JSON"),
        ("longrun.json", b'{"settings": {"steps": 3}}', "longrun.json: model is missing"),
        ("longrun.json", facts_with(chains=10**12), "settings.chains is 1000000000000, expected at most 1000000"),
        ("longrun.json", (done / "longrun.json").read_bytes().replace(b'"seed": 0', b'"seed": 1'), "is damaged"),
        ("longrun.json", None, "no long run in"),
        ("metrics.jsonl", "".join(short[:7]).encode(), "ends before the state at step 40"),
        ("metrics.jsonl", b'{"step": 0}\n' + "".join(short[1:]).encode(), "line 1 of"),
        (
            "metrics.jsonl",
            "".join([*short[:3], short[3].replace("0.", "1.", 1), *short[4:]]).encode(),
            "as it was at step",
        ),
    ]
    for name, change, message in cases:
        folder = broken(name, change)
        before = content(folder)
        fails(ebm("longrun", "--resume", folder.name, cwd=tmp_path), message)
        assert content(folder) == before, message
    # Without a state it begins anew from its own settings, and comes to the same.
    folder = broken("state.safetensors", None)
    ebm("longrun", "--resume", folder.name, cwd=tmp_path, check=0)
    assert content(folder) == content(done)


def test_damage_is_made_good(done: Path, tmp_path: Path) -> None:
    """A changed bit of the state, a cut one, another step: begun anew to the same end, the damaged one beside it."""
    state = (done / "state.safetensors").read_bytes()
    flipped = bytearray(state)
    flipped[-5] ^= 4
    for number, change in enumerate((state[:200], bytes(flipped), state.replace(b'"step":"40"', b'"step":"33"'))):
        folder = Path(shutil.copytree(done, tmp_path / str(number)))
        (folder / "state.safetensors").write_bytes(change)
        ran = ebm("longrun", "--resume", folder, cwd=tmp_path, check=0)
        assert sum(line.startswith("warning: ") for line in ran.stderr.splitlines()) == 1, ran.stderr
        assert "state.safetensors is" in ran.stderr
        assert (folder / "state.safetensors.damaged").read_bytes() == change
        (folder / "state.safetensors.damaged").unlink()
        assert content(folder) == content(done)


def test_the_state_before_is_taken(done: Path, tmp_path: Path) -> None:
    """Cut short after several states: the newest is damaged, and the run goes on from the one before it."""
    words = ("longrun", SHORTRUN, "--kernel", "mala", "--warmup", 30, "--step-size", 0.01, "--out", "a", *FEW)
    assert ebm(*words, cwd=tmp_path, EBM_CRASH_AT="state-16").code == -signal.SIGKILL
    path = tmp_path / "a" / "state.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    ran = ebm("longrun", "--resume", "a", cwd=tmp_path, check=0)
    assert "goes on after step" in ran.stderr
    assert "after step 0" not in ran.stderr
    (tmp_path / "a" / "state.safetensors.damaged").unlink()
    assert content(tmp_path / "a") == content(done)


def test_images_that_are_damaged_are_left_out(done: Path, tmp_path: Path) -> None:
    """They are set aside with a warning, and the report is made of the others."""
    folder = Path(shutil.copytree(done, tmp_path / "a"))
    kept = sorted((folder / "images").iterdir())
    kept[1].write_bytes(kept[2].read_bytes())
    kept[2].write_bytes(b"PK\x03\x04")
    ran = ebm("longrun", "--resume", "a", cwd=tmp_path, check=0)
    assert ran.stderr.count("is damaged: it is set aside") == 2
    assert len(LongRun.open(folder).images()) == len(kept) - 2


def test_an_older_long_run_goes_on_unverified(done: Path, tmp_path: Path) -> None:
    """Without checksums: as before, and a warning says so."""
    folder = Path(shutil.copytree(done, tmp_path / "a"))
    facts = plain(json.loads((folder / "longrun.json").read_text()))
    (folder / "longrun.json").write_text(json.dumps(facts))
    tensors, said = read_tensors(folder / "state.safetensors")
    (folder / "state.safetensors").write_bytes(pack(tensors, {"step": said["step"]}))
    ran = ebm("longrun", "--resume", "a", cwd=tmp_path, check=0)
    assert ran.stderr.count("cannot be verified") == 1
    assert (folder / "result.json").read_bytes() == (done / "result.json").read_bytes()


def test_a_model_of_another_size(done: Path, tmp_path: Path) -> None:
    """A state that does not fit the model and settings is refused, with both sizes."""
    folder = LongRun.open(Path(shutil.copytree(done, tmp_path / "a")))
    model = checkpoint.load(SHORTRUN)
    walk = Walk(model, WalkSettings.of(model, chains=5, steps=40, against="none"), None)
    with pytest.raises(EBMError, match=r"holds \[12, 2, 1, 1\] chains, .* \[5, 2, 1, 1\]"):
        folder.restore(walk)


def test_two_at_once(done: Path, tmp_path: Path) -> None:
    """A folder that another process is at work in is left alone."""
    folder = LongRun.open(Path(shutil.copytree(done, tmp_path / "a")))
    folder.lock()
    fails(ebm("longrun", "--resume", "a", cwd=tmp_path), "another process is at work in a")


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "builtins.open"])
def test_a_full_disk(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line, whichever call fails; what was whole stays whole, and the run goes on from it."""
    model = checkpoint.load(CONVERGENT)
    settings = WalkSettings.of(model, steps=30, chains=6, moments=4)
    walk = Walk(model, settings, None)
    folder = begin(tmp_path / "a", "m", walk)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    with pytest.raises(EBMError, match="No space left on device") as caught:  # noqa: PT012
        for record in follow(walk, folder):
            if record.step == 20:
                monkeypatch.setattr(call, full)
    assert "disk full" in caught.value.hint or "another `out`" in caught.value.hint
    monkeypatch.undo()
    again = Walk(model, settings, None)
    step = folder.restore(again)
    assert 0 < step <= 30
    rest = list(follow(again, folder))
    whole = list(Walk(model, settings, None).records())
    assert again.seen == whole
    assert rest == whole[step + 1 :]
    assert [r.line() for r in folder.records()] == [r.line() for r in whole]


def test_runaway_chains(tmp_path: Path) -> None:
    """Exit 3, and the records before are kept."""
    ran = ebm("longrun", CONVERGENT, *FEW, "--step-size", 50, "--out", "a", "--quiet", cwd=tmp_path)
    fails(ran, "chains left the finite numbers", "smaller --step-size", "stays in a", code=3)
    assert lines(tmp_path / "a")[0]["step"] == 0
    assert (tmp_path / "a" / "state.safetensors").is_file()


# Small things


def test_small_texts() -> None:
    """Curves and numbers for narrow places."""
    assert sparkline([0.0, 1.0, 7.0]) == "▁▂█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([float(v) for v in range(1000)], 16)) == 16
    assert [steps_text(s) for s in (0, 850, 1500, 20_000, 1_000_000)] == ["0", "850", "1.5k", "20k", "1M"]
