"""The folder of a long run: what it writes, and how it goes on after any end (floor 2).

    longrun.json        how it was started: settings, model, versions, the step size that a warm-up found
    metrics.jsonl       one line a record (`evaluation.Record`): every chain's energy and what else was seen
    state.safetensors   where the chains stand, whole, and where they started
    images/000100.npz   the first group's images at the moments (uint8 [n c h w]; points float32 [n 2])
    longrun.png         images over the energy
    report.html         everything on one page that needs no network
    result.json         verdict, reasons, numbers

Every file but the metrics is written whole under another name and then renamed. The state is never ahead of the
metrics, and they are cut back to it when a run goes on, which makes the same lines again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmcli import media
from ebmcli.chains import Purpose, Stream
from ebmcli.errors import EBMError
from ebmcli.evaluation import Record, Walk, WalkSettings
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import write_whole, writing
from ebmcli.storage.locks import LOCK, hold
from ebmcli.storage.tensors import read_tensors

FACTS = "longrun.json"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
RESULT = "result.json"
DIGITS = 6
SAVE_EVERY = 20.0
"""Seconds between two states on the disk; what is lost by a kill is made again, the same."""


class Folder:
    """The folder of one long run, made with `create` or found again with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = time.monotonic()

    @classmethod
    def create(cls, path: Path, facts: dict[str, Any]) -> Folder:
        """A new long run with `facts` of its start.

        Raises:
            EBMError: the folder exists and is not empty, or cannot be made.
        """
        cls.check_new(path)
        try:
            (path / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EBMError(f"cannot make the folder {path}: {error.strerror}", "choose another --out") from error
        folder = cls(path)
        folder.lock()
        folder.write_facts(facts)  # a folder that has them is a long run
        crash_point("created")
        return folder

    @staticmethod
    def check_new(path: Path) -> None:
        """Nothing, if a long run may be begun in `path`.

        Raises:
            EBMError: it holds something.
        """
        if (path / FACTS).is_file():
            raise EBMError(
                f"{path} holds a long run already, and none is overwritten",
                f"choose another --out, or go on with it: ebm longrun --resume {path}",
            )
        if not path.exists():
            return
        if not path.is_dir():
            raise EBMError(f"{path} is a file: a long run gets a folder of its own", "choose another --out")
        try:
            left = [p for p in path.iterdir() if p.name not in ("images", LOCK) and not p.name.endswith(".tmp")]
        except OSError as error:
            raise EBMError(f"cannot read {path}: {error.strerror}", "choose another --out") from error
        if left:
            raise EBMError(f"{path} is not empty: a long run gets a folder of its own", "choose another --out")

    @classmethod
    def open(cls, path: Path) -> Folder:
        """A long run that was begun.

        Raises:
            EBMError: there is none in that folder.
        """
        if not (path / FACTS).is_file():
            raise EBMError(f"no long run in {path}", f"start one: ebm longrun MODEL --out {path}")
        return cls(path)

    def lock(self) -> None:
        """Keep this folder to this process until it ends, however it ends.

        Raises:
            EBMError: another process is at work in it.
        """
        self._lock = hold(self.path)

    # How it was started

    @property
    def facts(self) -> dict[str, Any]:
        """longrun.json.

        Raises:
            EBMError: it cannot be read.
        """
        path = self.path / FACTS
        try:
            facts = dict(json.loads(path.read_text()))
            WalkSettings(**facts["settings"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EBMError(f"{path} cannot be read", "was it changed by hand, or by a newer version of ebm?") from error
        return facts

    @property
    def settings(self) -> WalkSettings:
        """Of the walk."""
        return WalkSettings(**self.facts["settings"])

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace longrun.json."""
        write_whole(self.path / FACTS, json.dumps(facts, indent=2) + "\n")

    # Records

    def records(self) -> Iterator[Record]:
        """The records so far; a last line that was cut off is left out.

        Raises:
            EBMError: a whole line is not a record.
        """
        path = self.path / METRICS
        if not path.is_file():
            return
        with open(path) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                try:
                    yield Record.parse(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise EBMError(f"line {number} of {path} is no record", "was it changed by hand?") from error

    def append(self, record: Record) -> None:
        """Add one record to the metrics."""
        path = self.path / METRICS
        with writing(path), open(path, "a") as file:
            file.write(json.dumps(record.line()) + "\n")
        crash_point(f"record-{record.step}")

    # Images

    def image_path(self, step: int) -> Path:
        """Where the images of this step belong."""
        return self.path / "images" / f"{step:0{DIGITS}d}.npz"

    def keep_images(self, x: Tensor, step: int) -> None:
        """Write the first group's images [n c h w] of this step."""
        media.save_npz(x, self.image_path(step), {"step": step})
        crash_point(f"images-{step}")

    def images(self) -> list[tuple[int, Path]]:
        """Steps at which images were kept, and their files, in order."""
        files = (self.path / "images").glob("[0-9]*.npz")
        return sorted((int(p.stem), p) for p in files if p.stem.isdigit())

    # State

    @property
    def due(self) -> bool:
        """Whether it is time to save the state again (at moments it is saved in any case)."""
        return time.monotonic() - self._saved >= SAVE_EVERY

    def save(self, walk: Walk) -> None:
        """Write where the chains stand."""
        assert walk.state is not None
        state = walk.state
        tensors = {"x": state.x, "energy": state.energy, "grad": state.grad}
        if hasattr(state, "momentum"):
            tensors["momentum"] = state.momentum
        tensors["start"] = walk.start
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        path = self.path / METRICS
        with writing(path), open(path, "a") as file:
            os.fsync(file.fileno())  # the metrics reach the disk before the state that follows them
        write_whole(self.path / STATE, to_bytes(tensors, metadata={"step": str(state.step)}))
        self._saved = time.monotonic()
        crash_point(f"state-{state.step}")

    def restore(self, walk: Walk) -> int:
        """Put a new walk where the kept state is, cut the metrics back to it; returns its step, 0 at the start.

        Raises:
            EBMError: state or metrics are damaged, or of another size than the model.
        """
        for left in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            left.unlink(missing_ok=True)
        path = self.path / STATE
        if not path.is_file():
            self._cut([])
            return 0
        tensors, metadata = read_tensors(path)
        try:
            step = int(metadata["step"])
            x, energy, grad = (tensors[k] for k in ("x", "energy", "grad"))
        except (KeyError, ValueError) as error:
            raise EBMError(f"{path} is no state of a long run", "was it replaced by another file?") from error
        shape, count = tuple(walk.model.config.shape), walk.settings.chains + walk.settings.others
        if tuple(x.shape) != (count, *shape):
            raise EBMError(
                f"{path} holds {list(x.shape)} chains, and the model and settings are for {[count, *shape]}",
                "is it another model's?",
            )
        seen = [r for r in self.records() if r.step <= step]
        if not seen or seen[-1].step != step:
            raise EBMError(
                f"{self.path / METRICS} ends before the state at step {step}", "was it cut or replaced by hand?"
            )
        self._cut(seen)
        walk.seen = seen
        walk.start = tensors["start"]
        begun = walk.kernel.init(x[:1].to(walk.device), Stream(walk.settings.seed, Purpose.MCMC))
        values: dict[str, Any] = {"x": x, "energy": energy, "grad": grad, "chains": torch.arange(count)}
        if "momentum" in tensors:
            values["momentum"] = tensors["momentum"]
        state: Any = begun
        walk.state = state._replace(**{k: v.to(walk.device) for k, v in values.items()}, step=step)
        return step

    def _cut(self, records: list[Record]) -> None:
        write_whole(self.path / METRICS, "".join(json.dumps(r.line()) + "\n" for r in records))

    # Result

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace result.json."""
        write_whole(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    @property
    def result(self) -> dict[str, Any]:
        """result.json.

        Raises:
            EBMError: there is none yet.
        """
        path = self.path / RESULT
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            raise EBMError(
                f"the long run in {self.path} is not finished", f"go on with it: ebm longrun --resume {self.path}"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise EBMError(f"{path} cannot be read", "was it changed by hand?") from error


def facts(model_name: str, walk: Walk, **more: Any) -> dict[str, Any]:
    """longrun.json of a walk that begins."""
    from ebmcli.checkpoint import versions

    config = walk.model.config
    return {
        "model": model_name,
        "model_name": config.name,
        "model_sha256": walk.model.digest,
        "updates": config.updates,
        "settings": asdict(walk.settings),
        "step_size": walk.warm_up(),
        "threads": torch.get_num_threads(),
        "device": str(walk.device),
        "backend": walk.model.potential.backend.name,
        **versions(),
        **more,
    }
