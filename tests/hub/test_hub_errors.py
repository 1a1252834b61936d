"""What goes wrong with the Hub ends in one line and a hint, exit code 4; what passes by itself is tried again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Ran
from helpers.hub_server import Hub, online
from helpers.quick import ebm, fails
from safetensors.torch import save as to_bytes

from ebmcli.hub import faults
from ebmcli.models import lookup
from ebmcli.models.checkpoint import FILE

BUNDLED = lookup.bundled()[lookup.DEFAULT]
WHOLE = (BUNDLED / FILE).read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        running.put("ann/digits", {FILE: WHOLE})
        yield running


CASES: dict[str, tuple[Callable[[Hub], object], tuple[str, ...], tuple[str, ...]]] = {
    "401": (lambda hub: hub.fault("", status=401, times=99), ("pull", "ann/digits"), ("does not accept the login",)),
    "403": (lambda hub: hub.fault("", status=403, times=99), ("pull", "ann/digits"), ("(403)", "right to it")),
    "404": (lambda hub: None, ("sample", "ann/nothing"), ("the Hub has no ann/nothing", "check the name")),
    "revision": (lambda hub: None, ("sample", "ann/digits@v9"), ("ann/digits@v9 has no such revision", "a tag")),
    "no model": (lambda hub: hub.put("ann/x", {"a.txt": b"x"}), ("pull", "ann/x"), (f"holds no {FILE}", "--hub")),
    "429": (
        lambda hub: hub.fault("", status=429, times=99, headers=(("Retry-After", "600"),)),
        ("pull", "ann/digits"),
        ("too many requests (429)", "try again in 600 s"),
    ),
    "write": (lambda hub: None, ("push", lookup.DEFAULT, "bob/digits"), ("refuses access to bob/digits (403)",)),
    "a run mistyped": (lambda hub: None, ("sample", "runs/digit"), ("no folder runs/digit here", "runs/digits?")),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_a_hint(hub: Hub, tmp_path: Path, case: str) -> None:
    prepare, words, parts = CASES[case]
    prepare(hub)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    shutil.copy(BUNDLED / FILE, tmp_path / "runs" / "digits" / FILE)
    lines = online(hub, *words, "--quiet", cwd=tmp_path)
    shown = [line for line in lines.stderr.splitlines() if not line.startswith("warning:")]
    fails(lines._replace(stderr="\n".join(shown)), *parts, code=4)


def test_a_passing_fault_is_tried_again_and_said(hub: Hub, tmp_path: Path) -> None:
    hub.fault("GET /api/models/ann", status=503, times=2)
    hub.fault("POST .*paths-info", drop=True)
    ran = online(hub, "pull", "ann/digits", cwd=tmp_path, check=0)
    assert ran.stderr.count("ann/digits: status 503; trying again in") == 2
    assert ran.stderr.count("trying again in") == 3
    assert hub.requests("GET /api/models/ann") == 3


@pytest.mark.slow
def test_a_lasting_fault_ends_after_some_tries_or_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    hub.fault("GET /api/models", status=500, times=99)
    ran = online(hub, "pull", "ann/digits", cwd=tmp_path)
    assert ran.code == 4
    assert ran.stderr.splitlines()[-2].startswith("error: the Hub has a fault of its own (500)")
    hub.faults.clear()
    online(hub, "pull", "ann/digits", "--quiet", cwd=tmp_path, check=0)
    hub.fault("GET /api/models", status=500, times=99)
    ran = online(hub, "sample", "ann/digits", "--steps", 1, cwd=tmp_path, check=0)
    assert "in the cache serves" in ran.stderr


def test_no_network(hub: Hub, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        env = {**hub.env(tmp_path / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        ran = ebm("pull", "ann/digits", cwd=tmp_path, **env)
    assert ran.code == 4
    error, hint = ran.stderr.splitlines()[-2:]
    assert error.startswith("error: the Hub cannot be reached for ann/digits: ")
    assert "HF_HUB_OFFLINE=1" in hint


def test_half_a_download_is_gone_on_with_and_never_taken_for_whole(hub: Hub, tmp_path: Path) -> None:
    hub.put("ann/digits", {"README.md": b"a later commit"})
    hub.fault(f"GET .*/resolve/.*{FILE}", half=True, times=3)  # header, then twice the file
    online(hub, "pull", "ann/digits", "--out", "whole", cwd=tmp_path, check=0)
    assert (tmp_path / "whole" / FILE).read_bytes() == WHOLE
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


def on_a_full_disk(words: str, hub: Hub, cwd: Path, kilobytes: int) -> Ran:
    """The command under a limit on the size of files: its writes fail in the middle, as on a full disk."""
    own = {**os.environ, "PYTHONPATH": str(ROOT), **hub.env(cwd / "hf")}
    command = f"ulimit -f {kilobytes}; exec {sys.executable} -m ebmcli {words}"
    done = subprocess.run(["bash", "-c", command], env=own, cwd=cwd, capture_output=True, text=True, timeout=300)
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_full_disk_leaves_no_half_file(hub: Hub, tmp_path: Path) -> None:
    ran = on_a_full_disk("pull ann/digits --quiet", hub, tmp_path, 300)
    fails(ran, "cannot write to the cache of the Hub", "HF_HOME")
    kept = [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    assert not kept
    online(hub, "pull", "ann/digits", "--quiet", cwd=tmp_path, check=0)


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made under it")
    env = {**hub.env(tmp_path / "file" / "hf")}
    fails(ebm("pull", "ann/digits", "--quiet", cwd=tmp_path, **env), "cannot write", "HF_HOME")


# --- repositories of people who mean ill


def altered(change: Callable[[dict], None]) -> bytes:
    """The model with another header; its tensors stay."""
    length = int.from_bytes(WHOLE[:8], "little")
    header = json.loads(WHOLE[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + WHOLE[8 + length :]


def settings(*, recipe: bool = False, **values: object) -> Callable[[dict], None]:
    """Other settings; the recipe, which would contradict them, goes unless it is to stay."""

    def change(header: dict) -> None:
        said = {**json.loads(header["__metadata__"]["ebm"]), **values}
        header["__metadata__"]["ebm"] = json.dumps(said)
        if not recipe:
            header["__metadata__"]["recipe"] = ""

    return change


def _first_shape(header: dict) -> None:
    name = next(k for k in header if k.startswith("network.") and k.endswith("weight"))
    header[name]["shape"] = header[name]["shape"][::-1]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "pickle": (b"\x80\x04\x95" + b"x" * 500, "not a safetensors file"),
    "empty": (b"", "not a safetensors file"),
    "huge header": (struct.pack("<Q", 2**40) + b"{}" + b" " * 500, "not a safetensors file"),
    "deep header": (struct.pack("<Q", 200_000) + b"[" * 200_000, "header"),
    "longer than its header": (WHOLE + b"x" * 8_000_000, "not those of its header"),
    "somebody else's": (to_bytes({"w": torch.zeros(4)}), "does not describe itself"),
    "shapes": (altered(_first_shape), "do not fit network"),
    "a network beyond all memory": (altered(settings(arguments={"width": 60_000})), "would have more than"),
    "a wider network": (altered(settings(arguments={"width": 500})), "do not fit network"),
    "a width of another kind": (altered(settings(arguments={"width": -3})), "cannot be built"),
    "another recipe": (altered(settings(recipe=True, step_size=0.5)), "contradicts itself: step_size is 0.5"),
    "code": (altered(settings(network="os:system")), "names code to run"),
    "no scale": (altered(settings(energy_scale=None)), "energy scale"),
    "nonsense": (altered(settings(image_size="../../etc")), "make no sense"),
    "changed weights": (WHOLE[:-4] + b"abcd", "checksum"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repository(hub: Hub, tmp_path: Path, case: str) -> None:
    content, part = HOSTILE[case]
    evil = {"../../escaped": b"x", "model.py": b"raise SystemExit(9)", "pytorch_model.bin": b"\x80\x04"}
    hub.put("eve/bad", {FILE: content, "config.json": b"[" * 100_000, **evil})
    before = hub.requests("_lfs|resolve")
    ran = online(hub, "pull", "eve/bad", "--out", "got", "--quiet", cwd=tmp_path)
    fails(ran, part)
    assert not (tmp_path / "got").exists()
    assert not list(tmp_path.rglob("escaped"))
    if case != "changed weights":  # all else shows in the header, before the file is downloaded
        assert not [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size >= max(1, len(content))]
    assert not hub.requests("model.py|pytorch_model|escaped|config.json")
    assert hub.requests("_lfs|resolve") - before <= 4


def test_no_token_is_in_any_message() -> None:
    said = faults.clean("GET https://ann:secret@hub/x with Authorization: Bearer abc.def and hf_AbCdEf123\n failed")
    assert not [word for word in ("secret", "abc.def", "AbCdEf") if word in said]
