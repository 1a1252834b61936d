"""The folder of a long run: what it writes, and how it goes on after any end.

    longrun.json        how it was started: settings, model, versions, the step size that a warm-up found
    metrics.jsonl       one line for each record (`evaluation.Record`): every chain's energy, and what else was measured
    state.safetensors   where the chains stand, and where they started; state-before.safetensors is the state before
    images/000100.npz   the first group's images at the moments (uint8 [n c h w]; points float32 [n 2])
    longrun.png         images over the energy
    report.html         everything on one page that needs no network
    result.json         verdict, reasons, numbers

Every file but the metrics is written whole under another name and then renamed. The state is never ahead of the
metrics. When a long run goes on, they are cut back to the state, and the same lines are made again. The state is
sealed, and holds the checksums of the metrics and images so far. A state that is damaged is not used: the long run
goes on from the state before it, or else begins anew, and comes to the same result in each case.
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
from ebmcli.models.checkpoint import versions
from ebmcli.random.streams import Purpose, Stream
from ebmcli.storage import disk
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import append, rename, sweep, sync, write_whole, writing
from ebmcli.storage.folders import Kind, WorkFolder
from ebmcli.storage.reading import read_lines
from ebmcli.storage.seals import NONE, Finding, Soundness, dumps, read_sealed, sum_of, sum_of_file
from ebmcli.storage.tensors import pack_sealed

FACTS = "longrun.json"
STATE, STATE_BEFORE = "state.safetensors", "state-before.safetensors"
METRICS = "metrics.jsonl"
RESULT = "result.json"
STEP_DIGITS = 6
"""Digits of a step in the name of a file."""
SAVE_SECONDS = 20.0
"""Seconds between two states on the disk. Steps that a kill loses are made again, to the same end."""

log = logging.getLogger("ebmcli.longrun")


class LongRun(WorkFolder):
    """The folder of one long run, made with `create` or found again with `open`."""

    kind = Kind("a long run", FACTS, "ebm longrun MODEL --out", "ebm longrun --resume", ("images",))
    schema = Facts

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._saved = time.monotonic()

    @classmethod
    def create(cls, folder: Path, facts: dict[str, Any]) -> LongRun:
        """A new long run with `facts` of its start, kept to this process.

        Raises:
            EBMError: the folder exists and is not empty, or cannot be made.
        """
        run = cls.make(folder)
        run.lock()
        run.write_facts(facts)  # a folder that has them is a long run
        crash_point("created")
        return run

    @property
    def settings(self) -> WalkSettings:
        """The settings of its walk."""
        return WalkSettings(**self.facts["settings"])

    # Records

    def records(self) -> Iterator[Record]:
        """The records so far, without a last line that was cut off.

        Raises:
            EBMError: a whole line is not a record.
        """
        for _, record in read_lines(self.folder / METRICS, Record):
            yield record

    def append(self, record: Record) -> None:
        """Add one record to the metrics."""
        append(self.folder / METRICS, json.dumps(record.line()) + "\n")
        crash_point(f"record-{record.step}")

    # Images

    def image_path(self, step: int) -> Path:
        """The file for the images of this step."""
        return self.folder / "images" / f"{step:0{STEP_DIGITS}d}.npz"

    def keep_images(self, x: Tensor, step: int) -> None:
        """Write the first group's images [n c h w] at this step."""
        media.save_npz(x, self.image_path(step), {"step": step})
        crash_point(f"images-{step}")

    def images(self) -> list[tuple[int, Path]]:
        """The steps at which images were kept, in order, each with its file."""
        files = (self.folder / "images").glob("[0-9]*.npz")
        return sorted((int(p.stem), p) for p in files if p.stem.isdigit())

    # State

    @property
    def due(self) -> bool:
        """Whether it is time to save the state again. At moments it is saved in any case."""
        return time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, walk: Walk) -> None:
        """Write where the chains stand, and keep the state before it."""
        assert walk.state is not None
        state = walk.state
        tensors = {"x": state.x, "energy": state.energy, "grad": state.grad}
        if hasattr(state, "momentum"):
            tensors["momentum"] = state.momentum
        tensors["start"] = walk.start
        metrics = self.folder / METRICS
        sync(metrics)  # the metrics reach the disk before the state that follows them
        about = {
            "step": str(state.step),
            "metrics": json.dumps([metrics.stat().st_size, sum_of_file(metrics)]),
            "images": json.dumps({p.name: sum_of_file(p) for step, p in self.images() if step <= state.step}),
        }
        with writing(self.folder / STATE):
            if (self.folder / STATE).exists():
                disk.rename(self.folder / STATE, self.folder / STATE_BEFORE)
        write_whole(self.folder / STATE, pack_sealed(tensors, about))
        if state.step == walk.settings.steps:
            self._drop(STATE_BEFORE)
        self._saved = time.monotonic()
        crash_point(f"state-{state.step}")

    def standing(self) -> Standing | None:
        """The state to go on from: the newest that is sound, or None where the long run has to begin anew.

        Nothing is changed. A warning names each state that is damaged.
        """
        for name in (STATE, STATE_BEFORE):
            path = self.folder / name
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
        """Put a new walk where the kept state is, and cut the metrics back to it.

        Returns:
            The step of the state, 0 at the start.

        Raises:
            EBMError: the metrics are damaged, or the state does not fit the model and settings. Nothing was changed.
        """
        found = self.standing()
        shape, count = tuple(walk.model.config.shape), walk.settings.chains + walk.settings.others
        if found is not None and tuple(found.tensors["x"].shape) != (count, *shape):
            raise EBMError(
                f"{self.folder / STATE} holds {list(found.tensors['x'].shape)} chains, and the model and settings are "
                f"for {[count, *shape]}",
                "is it of another model?",
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
        """Nothing, if the metrics are as they were when the state was written."""
        path = self.folder / METRICS
        anew = f"to make the long run anew, remove {STATE} and {METRICS} from {self.folder}"
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
        """What reading the states, the metrics and the images through comes to."""
        standing: Standing | None = None
        for path in (self.folder / STATE, self.folder / STATE_BEFORE):
            if path.exists():
                try:
                    found = read_standing(path)
                except EBMError as error:
                    yield Finding(path, Soundness.DAMAGED, error.message)
                    continue
                yield Finding(path, found.state, "" if found.state is Soundness.SOUND else NONE)
                standing = standing or found
        if (self.folder / METRICS).exists():
            yield self._metrics_finding(standing)
        for _, path in self.images():
            yield image_finding(path, standing)

    def _metrics_finding(self, standing: Standing | None) -> Finding:
        path = self.folder / METRICS
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
        """Remove what killed processes have left half written, and set aside what is damaged."""
        sweep(self.folder)
        for path in (self.folder / STATE, self.folder / STATE_BEFORE):
            if path.exists():
                try:
                    read_standing(path)
                except EBMError:
                    rename(path, path.with_name(f"{path.name}.damaged"))
        for name, expected in (found.images if found is not None else {}).items():
            path = self.folder / "images" / Path(name).name
            if not path.is_file():
                log.warning(f"{path} is missing: the report goes without it")
            elif sum_of_file(path) != expected:
                log.warning(f"{path} is damaged: it is set aside, and the report goes without it")
                rename(path, path.with_name(f"{path.name}.damaged"))

    def _drop(self, name: str) -> None:
        path = self.folder / name
        with writing(path):
            if path.exists():
                disk.remove(path)

    def _cut(self, records: list[Record]) -> None:
        write_whole(self.folder / METRICS, "".join(json.dumps(r.line()) + "\n" for r in records))

    # Result

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace result.json."""
        write_whole(self.folder / RESULT, dumps(result))

    @property
    def result(self) -> dict[str, Any]:
        """What the long run came to, as result.json has it.

        Raises:
            EBMError: the long run is not finished.
        """
        path = self.folder / RESULT
        if not path.is_file():
            raise EBMError(
                f"the long run in {self.folder} is not finished", f"go on with it: ebm longrun --resume {self.folder}"
            )
        return read_sealed(path, dict[str, Any])


def begin(folder: Path, model_name: str, walk: Walk, **more: Any) -> LongRun:
    """Adapt the step size of a new walk in its warm-up, where it has one, and make the folder that keeps it.

    Args:
        folder: where it is kept; new or empty.
        model_name: name or path by which the model is found again.
        walk: that has not begun.
        more: further facts that longrun.json shall hold.

    Raises:
        EBMError: as `LongRun.create`.
    """
    config = walk.model.config
    facts = {
        "model": model_name,
        "model_name": config.name,
        "model_sha256": walk.model.digest,
        "updates": config.updates,
        "settings": asdict(walk.settings),
        "step_size": walk.warm_up(),
        **circumstances(walk),
        **more,
    }
    return LongRun.create(folder, facts)


def circumstances(walk: Walk) -> dict[str, Any]:
    """What the bits of a long run depend on besides its settings: threads, device, backend, versions."""
    backend = walk.model.potential.backend.name
    return {"threads": torch.get_num_threads(), "device": str(walk.device), "backend": backend, **versions()}
