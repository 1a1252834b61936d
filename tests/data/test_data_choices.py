"""Several columns, several configurations: the one that is meant is taken and named, or it is asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hub_server import Hub, online
from helpers.public_sets import zipped
from helpers.quick import ebm, fails
from PIL import Image

from ebmcli.data import load
from ebmcli.data.chosen import Chosen, absolute, chosen
from ebmcli.errors import EBMError, UsageError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def table(typed: bool = True, side: int = 8, **shades: int) -> bytes:
    """A parquet file of four grey pictures in each column, of the shade that the column is given."""
    import pyarrow as arrow
    import pyarrow.parquet

    def pictures(shade: int) -> list[dict[str, Any]]:
        found = []
        for i in range(4):
            stream = io.BytesIO()
            Image.new("L", (side, side), shade + 9 * i).save(stream, "png")
            found.append({"bytes": stream.getvalue(), "path": None})
        return found

    form = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    made = arrow.table({name: arrow.array(pictures(shade), type=form) for name, shade in shades.items()})
    if typed:
        features = {name: {"_type": "Image"} for name in shades}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(made, stream)
    return stream.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def shade(source: object) -> int:
    return int(load(str(source), image_size=8, channels=1).pixels[0, 0, 0, 0])


# --- columns


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        ({"mask": 1, "image": 2}, "image"),
        ({"png": 1, "img": 2}, "img"),
        ({"thing": 1, "segmentation": 2, "depth_map": 3}, "thing"),
        ({"mask": 1}, "mask"),
    ],
)
def test_the_column_that_is_called_so_wins(tmp_path: Path, columns: dict[str, int], taken: str, typed: bool) -> None:
    path = put(tmp_path, {"t.parquet": table(typed, **columns)}) / "t.parquet"
    images = load(path, image_size=8, channels=1)
    assert images.pixels[0, 0, 0, 0] == columns[taken]
    assert images.notes[0].startswith(f"parquet, column {taken}")
    assert any(f"column {taken} is taken" in note for note in images.notes) == (len(columns) > 1)


def test_a_column_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    path = put(tmp_path, {"t.parquet": table(left=10, right=90)}) / "t.parquet"
    with pytest.raises(EBMError, match="several columns of images: left, right") as failed:
        load(path, image_size=8, channels=1)
    assert "`column` NAME" in failed.value.hint
    assert [shade(f"{path}#column={name}") for name in ("left", "right", "left")] == [10, 90, 10]
    with pytest.raises(EBMError, match="no column 'middle' of images: it has left"):
        shade(f"{path}#column=middle")


def test_shards_that_differ_are_named(tmp_path: Path) -> None:
    put(tmp_path, {"train-0.parquet": table(image=1), "train-1.parquet": table(img=1)})
    with pytest.raises(EBMError, match=r"train-1.parquet has no column 'image' of images.*it has img \(struct"):
        shade(tmp_path)


def test_an_array_is_chosen_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=np.full((2, 8, 8), 3, np.uint8), right=np.full((2, 8, 8), 4, np.uint8))
    assert [shade(f"{tmp_path}/a.npz#column={name}") for name in ("left", "right")] == [3, 4]
    with pytest.raises(EBMError, match="no array 'up': it has left, right"):
        shade(f"{tmp_path}/a.npz#column=up")


# --- configurations


def test_configurations_are_not_mixed(tmp_path: Path) -> None:
    put(tmp_path, {f"{name}/train-0.parquet": table(image=value) for name, value in (("cropped", 10), ("full", 90))})
    with pytest.raises(EBMError, match="2 configurations, each a set of its own: cropped, full") as failed:
        shade(tmp_path)
    assert "`config` NAME" in failed.value.hint
    assert [shade(f"{tmp_path}#config={name}") for name in ("cropped", "full")] == [10, 90]
    assert shade(tmp_path / "full") == 90
    with pytest.raises(EBMError, match="no configuration 'half': it has cropped, full"):
        shade(f"{tmp_path}#config=half")


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-0.parquet", "data/train-1.parquet"),
        ("train/0.parquet", "test/0.parquet", "train/1.parquet"),
        ("part-1/a.parquet", "part-2/b.parquet"),
        ("year=2020/a.parquet", "year=2021/b.parquet"),
        ("0001/a.parquet", "0002/b.parquet"),
    ],
)
def test_folders_that_divide_one_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path, {name: table(image=10) for name in names})
    assert len(load(tmp_path, image_size=8, channels=1)) == 8


def test_what_has_no_choice_refuses_one(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"0.png": b"x"})
    with pytest.raises(UsageError, match="has no column to choose"):
        load(f"{path}#column=image", image_size=8, channels=1)


# --- how it is written


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a/b", Chosen("a/b")),
        ("a/b#column=x", Chosen("a/b", "x")),
        ("a/b@v1#config=c&column=x", Chosen("a/b@v1", "x", "c")),
        ("a#b", Chosen("a#b")),
        ("a#column=", Chosen("a#column=")),
        ("a#size=3", Chosen("a#size=3")),
        ("#column=x", Chosen("#column=x")),
    ],
)
def test_the_choice_in_the_name(text: str, want: Chosen) -> None:
    assert chosen(text) == want
    assert chosen(str(want)) == want


def test_a_path_of_that_very_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(put(tmp_path, {"a#column=x": b"", "b": b""}))
    assert chosen("a#column=x").column is None
    assert absolute("b#column=x") == f"{tmp_path}/b#column=x"
    assert absolute("mnist-10k") is absolute("nowhere") is absolute(None) is None


def test_the_choice_goes_with_the_run(tmp_path: Path) -> None:
    """By options, into the run's record, and on with --resume from another folder."""
    put(tmp_path, {"t.parquet": table(left=10, right=90)})
    short = [word for s in ("train.updates=2", "mcmc.steps=1", "potential.width=4") for word in ("--set", s)]
    fails(ebm("data", "show", "t.parquet", cwd=tmp_path), "several columns", "--column")
    words = ("train", "--data", "t.parquet", "--column", "right", *short, "--out", "r")
    ran = ebm(*words, cwd=tmp_path, check=0)
    assert "t: parquet, column right, 4 images" in ran.stderr
    assert json.loads((tmp_path / "r/run.json").read_text())["data_path"] == f"{tmp_path}/t.parquet#column=right"
    (tmp_path / "deep").mkdir()
    ebm("train", "--resume", "../r", "--set", "train.updates=3", cwd=tmp_path / "deep", check=0)


@pytest.mark.slow
def test_configurations_on_the_hub(tmp_path: Path) -> None:
    with Hub(cdn=True) as hub:
        files = {f"{name}/train-0.parquet": table(image=v, mask=1) for name, v in (("cropped", 10), ("full", 90))}
        hub.put("ann/numbers", files, kind="dataset")
        own = {"EBM_CACHE": str(tmp_path / "ebm")}
        ran = online(hub, "data", "fetch", "ann/numbers", "--quiet", cwd=tmp_path, **own)
        fails(ran, "2 configurations", "cropped, full", "--config NAME")
        for name, value in (("cropped", 10), ("full", 90)):
            words = ("data", "fetch", "ann/numbers", "--config", name, "--image-size", 8, "--channels", 1, "--json")
            told = json.loads(online(hub, *words, cwd=tmp_path, check=0, **own).stdout)
            assert told["data"] == f"ann/numbers#config={name}"
            assert f"configuration {name}, split train, column image, 4 images" in told["notes"][0]
            assert value in (10, 90)
