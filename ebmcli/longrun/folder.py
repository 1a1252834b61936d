"""The folder of a long run: what it writes, and how it goes on after any end.

    longrun.json        how it was started: settings, model, versions, the step size that a warm-up found
    metrics.jsonl       one line a record (`evaluation.Record`): every chain's energy and what else was seen
    state.safetensors   where the chains stand, whole, and where they started; state-before.safetensors: the one before
    images/000100.npz   the first group's images at the moments (uint8 [n c h w]; points float32 [n 2])
    longrun.png         images over the energy
    report.html         everything on one page that needs no network
    result.json         verdict, reasons, numbers

Every file but the metrics is written whole under another name and then renamed. The state is never ahead of the
metrics, and they are cut back to it when a run goes on, which makes the same lines again. The state is sealed, and
holds the checksums of the metrics and images so far: one that is damaged is not gone on from, but the one before it,
or else the long run begins anew, which comes to the same.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmcli import media
from ebmcli.errors import EBMError
from ebmcli.evaluation import Record, Walk, WalkSettings
from ebmcli.longrun.standing import Facts, Standing, image_finding, read_standing
from ebmcli.random.streams import Purpose, Stream
from ebmcli.storage import disk
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import append, rename, sweep, sync, write_whole, writing
from ebmcli.storage.locks import LOCK, hold
from ebmcli.storage.reading import read_lines
from ebmcli.storage.seals import NONE, Finding, Soundness, dumps, read_sealed, sum_of, sum_of_file
from ebmcli.storage.tensors import pack_sealed

FACTS = "longrun.json"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
RESULT = "result.json"
DIGITS = 6
BEFORE = "state-before.safetensors"
SAVE_EVERY = 20.0
"""Seconds between two states on the disk; what is lost by a kill is made again, the same."""

log = logging.getLogger("ebmcli.longrun")


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
        return dict(read_sealed(self.path / FACTS, Facts))

    @property
    def settings(self) -> WalkSettings:
        """Of the walk."""
        return WalkSettings(**self.facts["settings"])

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace longrun.json."""
        write_whole(self.path / FACTS, dumps(facts))

    # Records

    def records(self) -> Iterator[Record]:
        """The records so far; a last line that was cut off is left out.

        Raises:
            EBMError: a whole line is not a record.
        """
        for _, record in read_lines(self.path / METRICS, Record):
            yield record

    def append(self, record: Record) -> None:
        """Add one record to the metrics."""
        append(self.path / METRICS, json.dumps(record.line()) + "\n")
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
        metrics = self.path / METRICS
        sync(metrics)  # the metrics reach the disk before the state that follows them
        about = {
            "step": str(state.step),
            "metrics": json.dumps([metrics.stat().st_size, sum_of_file(metrics)]),
            "images": json.dumps({p.name: sum_of_file(p) for step, p in self.images() if step <= state.step}),
        }
        with writing(self.path / STATE):
            if (self.path / STATE).exists():
                disk.rename(self.path / STATE, self.path / BEFORE)
        write_whole(self.path / STATE, pack_sealed(tensors, about))
        if state.step == walk.settings.steps:
            self._drop(BEFORE)
        self._saved = time.monotonic()
        crash_point(f"state-{state.step}")

    def standing(self) -> Standing | None:
        """The state to go on from: the newest, or, where that is damaged, the one before it; None: begin anew.

        Nothing is changed; what is damaged is named in a warning.
        """
        for name in (STATE, BEFORE):
            path = self.path / name
            if not path.exists():
                continue
            try:
                found = read_standing(path)
            except EBMError as error:
                log.warning(f"{error.message}; it is set aside")
                continue
            if found.state is Soundness.UNVERIFIABLE:
                log.warning(f"{path} cannot be verified: written by an earlier version of ebm, without a checksum")
            return found
        return None

    def restore(self, walk: Walk) -> int:
        """Put a new walk where the kept state is, cut the metrics back to it; returns its step, 0 at the start.

        Raises:
            EBMError: the metrics are damaged, or the state is of another size than the model; nothing was changed.
        """
        found = self.standing()
        shape, count = tuple(walk.model.config.shape), walk.settings.chains + walk.settings.others
        if found is not None and tuple(found.tensors["x"].shape) != (count, *shape):
            raise EBMError(
                f"{self.path / STATE} holds {list(found.tensors['x'].shape)} chains, and the model and settings are "
                f"for {[count, *shape]}",
                "is it another model's?",
            )
        step = -1 if found is None else found.step
        seen = [r for r in self.records() if r.step <= step]
        if found is not None:
            self._check_metrics(found, seen, count)
        self._tidy(found)
        self._cut(seen)
        if found is None:
            return 0
        tensors = found.tensors
        walk.seen = seen
        walk.start = tensors["start"]
        begun = walk.kernel.init(tensors["x"][:1].to(walk.device), Stream(walk.settings.seed, Purpose.MCMC))
        values: dict[str, Any] = {k: tensors[k] for k in ("x", "energy", "grad")} | {"chains": torch.arange(count)}
        if "momentum" in tensors:
            values["momentum"] = tensors["momentum"]
        state: Any = begun
        walk.state = state._replace(**{k: v.to(walk.device) for k, v in values.items()}, step=step)
        return step

    def _check_metrics(self, found: Standing, seen: list[Record], count: int) -> None:
        """Nothing, if the metrics are those that a state was written after."""
        path = self.path / METRICS
        anew = f"to make the long run anew, remove {STATE} and {METRICS} from {self.path}"
        if not seen or seen[-1].step != found.step:
            raise EBMError(
                f"{path} ends before the state at step {found.step}", f"was it cut or replaced by hand? {anew}"
            )
        if any(len(record.energy) != count for record in seen):
            raise EBMError(f"{path} is not of {count} chains", f"was it replaced by hand? {anew}")
        if found.metrics is not None:
            with open(path, "rb") as file:
                content = file.read(max(0, found.metrics[0]))
            if sum_of(content) != found.metrics[1]:
                raise EBMError(f"{path} is damaged: it is not as it was at step {found.step}", anew)

    def findings(self) -> Iterator[Finding]:
        """Metrics, states and images, read through."""
        standing: Standing | None = None
        for path in (self.path / STATE, self.path / BEFORE):
            if path.exists():
                try:
                    found = read_standing(path)
                except EBMError as error:
                    yield Finding(path, Soundness.DAMAGED, error.message)
                    continue
                yield Finding(path, found.state, "" if found.state is Soundness.SOUND else NONE)
                standing = standing or found
        if (self.path / METRICS).exists():
            yield self._metrics_finding(standing)
        for _, path in self.images():
            yield image_finding(path, standing)

    def _metrics_finding(self, standing: Standing | None) -> Finding:
        path = self.path / METRICS
        try:
            seen = list(self.records())
            if standing is not None:
                count = len(standing.tensors["x"])
                self._check_metrics(standing, [r for r in seen if r.step <= standing.step], count)
        except EBMError as error:
            return Finding(path, Soundness.DAMAGED, error.message)
        if standing is None or standing.metrics is None:
            return Finding(path, Soundness.UNVERIFIABLE, NONE)
        return Finding(path, Soundness.SOUND)

    def _tidy(self, found: Standing | None) -> None:
        """Remove what the killed have left, and set aside what is damaged."""
        sweep(self.path)
        for path in (self.path / STATE, self.path / BEFORE):
            if path.exists():
                try:
                    read_standing(path)
                except EBMError:
                    rename(path, path.with_name(f"{path.name}.damaged"))
        for name, expected in (found.images if found is not None else {}).items():
            path = self.path / "images" / Path(name).name
            if not path.is_file():
                log.warning(f"{path} is missing: the report goes without it")
            elif sum_of_file(path) != expected:
                log.warning(f"{path} is damaged: it is set aside, and the report goes without it")
                rename(path, path.with_name(f"{path.name}.damaged"))

    def _drop(self, name: str) -> None:
        path = self.path / name
        with writing(path):
            if path.exists():
                disk.remove(path)

    def _cut(self, records: list[Record]) -> None:
        write_whole(self.path / METRICS, "".join(json.dumps(r.line()) + "\n" for r in records))

    # Result

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace result.json."""
        write_whole(self.path / RESULT, dumps(result))

    @property
    def result(self) -> dict[str, Any]:
        """result.json.

        Raises:
            EBMError: there is none yet.
        """
        path = self.path / RESULT
        if not path.is_file():
            raise EBMError(
                f"the long run in {self.path} is not finished", f"go on with it: ebm longrun --resume {self.path}"
            )
        return read_sealed(path, dict[str, Any])


def facts(model_name: str, walk: Walk, **more: Any) -> dict[str, Any]:
    """longrun.json of a walk that begins."""
    from ebmcli.models.checkpoint import versions

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
