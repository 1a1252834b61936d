"""Storage: whole files, JSON and TOML within limits, safetensors, seals; what is wrong is said in words."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from ebmcli.errors import EBMError, UsageError
from ebmcli.recipe import load, loads
from ebmcli.storage import disk, seals
from ebmcli.storage.files import append, replacing, sweep, write_whole
from ebmcli.storage.reading import DEEPEST, parse_json, parse_toml, read_bytes, read_json, read_lines
from ebmcli.storage.seals import Soundness
from ebmcli.storage.tensors import not_finite, pack, read_tensors


class Shelf(BaseModel):
    """A schema."""

    books: int = Field(ge=1)
    colour: Literal["red", "blue"] = "red"
    heights: tuple[float, float] = (1.0, 2.0)


class Box(TypedDict):
    """Another."""

    name: str


# Whole files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Folders on the way are made, nothing else is left behind."""
    path = tmp_path / "a" / "b" / "file"
    assert write_whole(path, "one") == path
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_the_old_file_stays_if_the_new_one_fails(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever operation fails; and the half-written one is gone."""
    path = write_whole(tmp_path / "file", "old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, step, fail)
    with pytest.raises(EBMError, match=r"^cannot write .*file: Input/output error$"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """And what raises inside leaves nothing."""
    with pytest.raises(EBMError, match="it is a folder"):
        write_whole(tmp_path, "")
    with pytest.raises(TypeError), replacing(tmp_path / "x") as temporary:
        temporary.write_bytes("half")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of a line does not leave half of it."""
    path = tmp_path / "lines"
    append(path, "one\n")

    def half(path: Path, content: bytes) -> None:
        with open(path, "ab") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "append", half)
    with pytest.raises(EBMError, match="No space left"):
        append(path, "two\n")
    assert path.read_text() == "one\n"


def test_what_the_killed_have_left_is_swept(tmp_path: Path) -> None:
    """Files and folders under temporary names, one level down too; nothing else."""
    (tmp_path / ".a.1.tmp").write_text("")
    (tmp_path / "in" / ".b.tmp").mkdir(parents=True)
    (tmp_path / "in" / ".b.tmp" / "c").write_text("")
    (tmp_path / "kept.tmp").write_text("")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "kept.tmp"]


# JSON


def test_json_comes_as_its_schema(tmp_path: Path) -> None:
    """A model or a dictionary."""
    path = write_whole(tmp_path / "shelf.json", '{"books": 3, "heights": [1, 2.5]}')
    assert read_json(path, Shelf) == Shelf(books=3, heights=(1.0, 2.5))
    assert parse_json('{"name": "x"}', Box, "it") == {"name": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON: expecting value"),
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not JSON: byte 0 is not UTF-8"),
        ("[" * 100_000, "nested more than"),
        ('{"a":' * 100_000, "nested more than"),
        ('{"books": 1, "more": ' + "[" * 200 + "]" * 200 + "}", "nested more than"),
        ("9" * 5000, "a number has too many digits"),
        ("[]", "the whole is a list of 0, expected an object"),
        ("{}", "books is missing"),
        ('{"books": 0}', "books is 0, expected 1 or more"),
        ('{"books": 1.5}', "books is 1.5, expected a whole number"),
        ('{"books": "many"}', 'books is "many", expected a whole number'),
        ('{"books": null}', "books is null, expected a whole number"),
        ('{"books": 1, "colour": "green"}', "colour is \"green\", expected 'red' or 'blue'"),
        ('{"books": 1, "heights": [1, "high"]}', 'heights.1 is "high", expected a number'),
    ],
)
def test_what_is_wrong_with_json_is_said_in_words(text: str | bytes, said: str, tmp_path: Path) -> None:
    """The file, the field, what was received and what was expected, in one line and in no library's words."""
    path = write_whole(tmp_path / "shelf.json", text)
    with pytest.raises(EBMError) as caught:
        read_json(path, Shelf)
    assert str(path) in caught.value.message
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 200
    assert caught.value.hint


def test_json_at_the_limit_of_depth_is_read() -> None:
    """And one level more is not."""
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, list[object], "it")
    with pytest.raises(EBMError, match="nested more"):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), list[object], "it")


def test_only_plain_files_of_a_bearable_size_are_read(tmp_path: Path) -> None:
    """A pipe would never end, and a huge file would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "plain file"), (tmp_path, "plain file"), (tmp_path / "none", "no such")):
        with pytest.raises(EBMError, match=said):
            read_bytes(path)
    path = write_whole(tmp_path / "large", "x" * 11)
    with pytest.raises(EBMError, match="11 bytes, expected at most 10"):
        read_bytes(path, 10)
    with pytest.raises(EBMError, match="cannot be read"):
        read_bytes(Path("a\0b"))


def test_lines_of_json(tmp_path: Path) -> None:
    """With the byte at which each ends; a last one that was cut off is left out, one in the middle is named."""
    path = tmp_path / "lines"
    assert list(read_lines(path, Box)) == []
    path.write_text('{"name": "a"}\n{"name": "b"}\n{"nam')
    assert list(read_lines(path, Box)) == [(14, {"name": "a"}), (28, {"name": "b"})]
    path.write_text('{"name": "a"}\n{"nam\n{"name": "c"}\n')
    with pytest.raises(EBMError, match=rf"line 2 of {path} is not JSON"):
        list(read_lines(path, Box))
    path.write_text('{"name": "a"}\n{"name": 5}\n')
    with pytest.raises(EBMError, match=rf"line 2 of {path}: name is 5, expected text"):
        list(read_lines(path, Box))


# TOML


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 50_000,
        "a = " + "[" * 300 + "]" * 300,
        "a" + ".a" * 5000 + " = 1",
        "a = " + "9" * 5000,
        "a = 1\n" * 300_000,
        "x" * 2_000_000,
    ],
    ids=["open", "lists", "keys", "digits", "many", "long"],
)
def test_a_recipe_beyond_all_limits_is_an_invalid_recipe(text: str, tmp_path: Path) -> None:
    """Deep, long, or with a number that is none: one error, never the interpreter's own."""
    with pytest.raises(ValueError, match=r"."):
        parse_toml(text)
    with pytest.raises(UsageError):
        loads(text)
    with pytest.raises(UsageError):
        load(write_whole(tmp_path / "recipe.toml", text))


# Tensors


def test_tensors_are_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    """Whatever the order they come in; shared memory and slices are no obstacle."""
    x = torch.arange(12.0).view(3, 4)
    metadata = {"b": "1", "a": "2"}
    one = pack({"x": x, "y": x.T, "z": x}, metadata)
    assert one == pack({"z": x, "y": x.T, "x": x}, dict(reversed(metadata.items())))
    tensors, said = read_tensors(write_whole(tmp_path / "t.safetensors", one))
    assert torch.equal(tensors["y"], x.T)
    assert said == metadata


def test_every_cut_of_a_tensor_file_is_an_error(tmp_path: Path) -> None:
    """Not one length of it is taken for the whole."""
    content = pack({"x": torch.ones(3)})
    path = tmp_path / "t.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(EBMError):
            read_tensors(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(dtype: torch.dtype, value: float) -> None:
    """Wherever it stands; whole numbers and empty tensors are finite."""
    x = torch.zeros(2, 3)
    x[1, 1] = value
    tensors = {"a": torch.zeros(3), "b": x.to(dtype), "c": torch.tensor([1]), "d": torch.zeros(0)}
    assert not_finite(tensors) == "b"
    assert not_finite({**tensors, "b": torch.zeros(1, dtype=dtype)}) is None


# Seals


def test_a_seal_breaks_with_any_change() -> None:
    """Through JSON and back it holds; with a value changed, a name added or taken away it does not."""
    facts = seals.sealed({"update": 3, "files": {"a": "00"}, "rate": 0.1})
    assert seals.seal_of(json.loads(json.dumps(facts))) is Soundness.SOUND
    assert seals.sealed(facts) == facts
    changed = ({**facts, "update": 4}, {**facts, "more": 1}, {k: v for k, v in facts.items() if k != "rate"})
    assert {seals.seal_of(c) for c in changed} == {Soundness.DAMAGED}
    assert seals.seal_of({"update": 3}) is Soundness.UNVERIFIABLE
