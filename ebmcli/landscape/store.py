"""Where a map under way is kept, so that it goes on after any end (floor 2).

    settings.json     what is being made
    jobs.jsonl        one line a finished job
    NAME.safetensors  the newest state of a stage

A job comes to the same each time, so what was under way when a process ended is done again, to the same end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmcli.landscape.travel import Arrival, Job
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import write_whole, writing
from ebmcli.storage.locks import LOCK, hold
from ebmcli.storage.tensors import read_tensors


class Store:
    """Keeps nothing: a map that is made in one go, in memory."""

    def jobs(self, stage: str) -> dict[Job, Arrival]:
        """Finished jobs of a stage."""
        return {}

    def append(self, stage: str, results: Iterable[tuple[Job, Arrival]]) -> None:
        """Keep finished jobs."""

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `write` kept last."""
        return None

    def write(self, name: str, tensors: dict[str, Tensor], **facts: Any) -> None:
        """Keep the state of a stage in the place of an older one."""


class Folder(Store):
    """Keeps everything in a folder, which is this process's alone.

    Args:
        folder: that exists.
        fresh: whether to begin anew, without what is left there.

    Raises:
        EBMError: another process is at work in it.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        self._lock = hold(folder)
        for left in folder.iterdir() if fresh else ():
            if left.name != LOCK:
                left.unlink()
        self._path = folder / "jobs.jsonl"
        self._known: dict[str, dict[Job, Arrival]] = {}
        lines = self._path.read_text().split("\n")[:-1] if self._path.exists() else []
        for line in lines:
            stage, start, target, trial, strength, *arrival = json.loads(line)
            self._known.setdefault(stage, {})[Job(start, target, trial, strength)] = Arrival(*arrival)
        if lines:  # a last line that was cut off must not run into the next one
            write_whole(self._path, "".join(f"{line}\n" for line in lines))

    def jobs(self, stage: str) -> dict[Job, Arrival]:
        """Finished jobs of a stage."""
        return self._known.get(stage, {})

    def append(self, stage: str, results: Iterable[tuple[Job, Arrival]]) -> None:
        """Add a line for each."""
        text = "".join(json.dumps([stage, *job, *arrival]) + "\n" for job, arrival in results)
        with writing(self._path), open(self._path, "a") as file:
            file.write(text)
            file.flush()
        crash_point(f"map-{stage}")

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `write` kept last."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        tensors, metadata = read_tensors(path)
        return tensors, json.loads(metadata["facts"])

    def write(self, name: str, tensors: dict[str, Tensor], **facts: Any) -> None:
        """Replace the file of that name, whole or not at all."""
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        content = to_bytes(whole, metadata={"facts": json.dumps(facts)})
        write_whole(self.folder / f"{name}.safetensors", content)
        crash_point(f"map-{name}-{facts.get('step', 0)}")

    def clear(self) -> None:
        """Remove the folder and what is in it."""
        for path in self.folder.iterdir():
            os.unlink(path)
        self.folder.rmdir()
