"""Readers of what the package keeps: models, runs, long runs, maps."""

from __future__ import annotations

import json
from pathlib import Path

from fuzzing.table import MODELS, Files, add, command, empty_folder, folder_files, reader, takes
from fuzzing.words import RECIPE


def sealed(files: Files) -> Files:
    """The files with all checksums set right, so that a mutant gets past them; what cannot be read stays."""
    files = {name: _tensors_sealed(data) if name.endswith(".safetensors") else data for name, data in files.items()}
    return {name: _facts_sealed(name, files) if name.endswith(".json") else data for name, data in files.items()}


def _tensors_sealed(data: bytes) -> bytes:
    """A checkpoint, or a state, with its own checksum; another safetensors file as it is."""
    from safetensors.torch import load

    from ebmcli.models.checkpoint import digest
    from ebmcli.storage.tensors import KEY, MARK, pack_sealed

    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        notes = header["__metadata__"]
        if MARK in notes:
            return pack_sealed(load(data), {k: v for k, v in notes.items() if k not in (MARK, KEY)})
        notes["sha256"] = digest(load(data), notes["ebm"], notes["recipe"])
        text = json.dumps(header).encode()
    except Exception:  # whatever a mutant is
        return data
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _facts_sealed(name: str, files: Files) -> bytes:
    """Facts with their own checksum and those of the files that they vouch for."""
    from ebmcli.storage import seals

    try:
        facts = json.loads(files[name])
        if seals.KEY not in facts:
            return files[name]
        folder = name.rpartition("/")[0]
        for other in facts.get("files", {}):
            if (path := f"{folder}/{other}") in files:
                facts["files"][other] = seals.sum_of(files[path])
        if "metrics" in facts:
            facts["metrics"]["sha256"] = seals.sum_of(files["metrics.jsonl"][: facts["metrics"]["bytes"]])
        return json.dumps(seals.sealed(facts)).encode()
    except Exception:  # whatever a mutant is
        return files[name]


def _checkpoints() -> list[Files]:
    files = [{"model.safetensors": path.read_bytes()} for path in sorted(MODELS.glob("*.safetensors"))]
    return [*files, {"model.safetensors": _run_files()["model.safetensors"]}]


@reader("checkpoint", _checkpoints, share=3, seal=sealed)
def read_checkpoint(folder: Path) -> None:
    """A model, and its energy."""
    import torch

    import ebmcli

    path = folder / "model.safetensors"
    data = path.read_bytes()
    model = ebmcli.load(path)
    model.potential.energy(torch.zeros(2, *model.config.shape))
    if sum(data) % 8 < 2:
        command("inspect", path)


MADE: dict[str, Files] = {}


def _run_files() -> Files:
    """A finished run of four updates with two checkpoints."""
    if "run" not in MADE:
        with empty_folder() as folder:
            (folder / "recipe.toml").write_bytes(RECIPE)
            assert command("train", "recipe.toml", "--out", "run", "--threads", 1) == 0
            MADE["run"] = folder_files(folder / "run")
    return MADE["run"]


def _runs() -> list[Files]:
    whole = _run_files()
    unfinished = {name: data for name, data in whole.items() if "000004" not in name}
    return [whole, unfinished]


@reader("run", _runs, damaged=("run.json", "recipe.toml", "metrics.jsonl"), share=0.5, seal=sealed)
def read_run(folder: Path) -> bool:
    """The records of a run."""
    return all([takes("runs", folder), takes("inspect", folder)])


@reader(
    "resumed run",
    _runs,
    damaged=(".json", ".toml", ".jsonl", ".safetensors"),
    share=0.4,
    patience=1.5,
    group="work",
    seal=sealed,
)
def read_resumed(folder: Path) -> bool:
    """A run gone on with."""
    return takes("train", "--resume", folder, "--quiet", "--threads", 1)


def _exported() -> list[Files]:
    if "export" not in MADE:
        with empty_folder() as folder:
            add(folder / "run", _run_files())
            assert command("export", "run", "model") == 0
            MADE["export"] = {f"model/{name}": data for name, data in folder_files(folder / "model").items()}
    return [MADE["export"]]


@reader("exported", _exported, damaged=(".json", ".safetensors", ".toml"), share=0.2, group="work", seal=sealed)
def read_exported(folder: Path) -> bool:
    """A model folder of somebody else's, described and written anew."""
    from ebmcli.training import diagnosis

    command("inspect", folder / "model")
    diagnosis.records_of(folder / "model" / "model.safetensors")
    return takes("export", folder / "model", folder / "again")


# Long runs, maps, films


def _longruns() -> list[Files]:
    if "longrun" not in MADE:
        with empty_folder() as folder:
            model = MODELS / "gmm_shortrun.safetensors"
            words = ("--chains", 4, "--steps", 20, "--moments", 3, "--compared", 40, "--threads", 1)
            assert command("longrun", model, "--kernel", "mala", "--warmup", 10, "--out", "long", *words) == 0
            MADE["longrun"] = folder_files(folder / "long", (".lock", "longrun.png", "report.html"))
    whole = MADE["longrun"]
    return [whole, {name: data for name, data in whole.items() if name != "result.json"}]


@reader("long run", _longruns, damaged=(".json", ".jsonl", ".npz"), share=0.4, seal=sealed)
def read_longrun(folder: Path) -> bool:
    """A film of a long run."""
    few = ("--seconds", 0.2, "--fps", 10, "--size", "200x200", "--count", 2)
    return takes("chain-video", folder, *few, "--out", folder.parent / "film.gif", "--force", "--threads", 1)


@reader(
    "resumed long run",
    _longruns,
    damaged=(".json", ".jsonl", ".npz", ".safetensors"),
    share=0.25,
    patience=1.5,
    group="work",
    seal=sealed,
)
def read_resumed_longrun(folder: Path) -> bool:
    """A long run gone on with, and reported."""
    return takes("longrun", "--resume", folder, "--quiet", "--threads", 1)


def _maps() -> list[Files]:
    """Maps under way, at the end of their stages."""
    if "map" not in MADE:
        from ebmcli.landscape import report

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        before, report.save = report.save, interrupted
        few = (
            "--samples",
            4,
            "--quench",
            20,
            "--trials",
            1,
            "--neighbours",
            1,
            "--temperature",
            0.2,
            "--alpha",
            6,
            "--patience",
            20,
            "--rounds",
            1,
        )
        try:
            with empty_folder() as folder:
                words = ("map", "gmm", "--steps", 0, *few, "--threads", 1, "--quiet")
                assert command(*words, "--out", "map") == 130
                MADE["map"] = folder_files(folder / "map")
        finally:
            report.save = before
    whole = MADE["map"]
    assert any(name.endswith("jobs.jsonl") for name in whole), sorted(whole)
    return [whole]


@reader("map", _maps, damaged=(".json", ".jsonl", ".safetensors"), share=0.12, patience=1.5, group="work", seal=sealed)
def read_map(folder: Path) -> bool:
    """A map gone on with; what it draws at the end is not drawn."""
    from ebmcli.landscape import report

    before, report.save = report.save, lambda *_, **__: None
    try:
        return takes("map", "--resume", folder, "--quiet", "--threads", 1)
    finally:
        report.save = before


def _anything() -> list[Files]:
    return [*_runs(), *_longruns(), *_maps(), *_exported()]


@reader("verified", _anything, damaged=(".json", ".jsonl", ".npz", ".safetensors", ".toml"), share=0.7, seal=sealed)
def read_verified(folder: Path) -> bool:
    """A folder of ours read through."""
    return takes("inspect", "--verify", folder / "model" if (folder / "model").exists() else folder)


def _sweeps() -> list[Files]:
    from ebmcli.training import sweep

    with empty_folder() as folder:
        (folder / "recipe.toml").write_bytes(RECIPE)
        axes = sweep.axes_of(SWEPT)
        sweep.begin(folder / "sweep", "recipe.toml", axes, (), None)
        [cell, *_] = sweep.cells(folder / "sweep", "recipe.toml", axes)
        add(cell.folder, _run_files())
        return [folder_files(folder)]


SWEPT = ("mcmc.steps=2,3",)


@reader("sweep", _sweeps, damaged=(".json", ".jsonl", ".toml"), share=0.5)
def read_sweep(folder: Path) -> None:
    """A sweep that is gone on with, and what its cells came to; nothing is learned."""
    from ebmcli.training import sweep

    axes = sweep.axes_of(SWEPT)
    sweep.begin(folder / "sweep", "recipe.toml", axes, (), None)
    for cell in sweep.cells(folder / "sweep", "recipe.toml", axes):
        sweep.outcome(cell)
