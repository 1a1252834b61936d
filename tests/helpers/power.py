"""Power cuts and failing disks: what `storage.disk` did is recorded, and every state a disk may be left in is made.

A model of a disk that promises no more than POSIX does. A file's content is safe when the file was synced, a change of
names when a folder that it touches was. What was not synced may be there after a power cut, or not, in any combination:
names in any subset (a rename is one change), contents old, new or cut off in the middle.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ebmcli.storage import disk

OPERATIONS = ("write", "append", "sync", "rename", "make", "remove")
MOST = 6
"""Changes of names that are all combined; of more, the beginnings, and each left out and each alone."""


@dataclass
class Node:
    """A file or folder."""

    content: bytes | None = b""
    """what a program reads now; None is a folder"""
    safe: bytes = b""
    """what a power cut leaves for certain"""
    names: dict[str, Node] = field(default_factory=dict)
    safe_names: dict[str, Node] = field(default_factory=dict)


Change = list[tuple[Node, str, Node | None]]
"""One atomic change of names: folder, name, and what it then means (None: nothing)."""


class Disk:
    """A folder as a model, which follows the operations on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = self._load(root)
        self.pending: list[Change] = []

    def _load(self, path: Path) -> Node:
        if path.is_file():
            content = path.read_bytes()
            return Node(content, content)
        names = {p.name: self._load(p) for p in path.iterdir()}
        return Node(None, b"", dict(names), dict(names))

    def _find(self, path: Path) -> Node:
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.names[part]
        return node

    def _change(self, *changes: tuple[Path, Node | None]) -> None:
        change: Change = [(self._find(path.parent), path.name, node) for path, node in changes]
        for folder, name, node in change:
            folder.names.pop(name, None)
            if node is not None:
                folder.names[name] = node
        self.pending.append(change)

    def write(self, path: Path, content: bytes) -> None:
        """As `disk.write`."""
        if path.name not in self._find(path.parent).names:
            self._change((path, Node()))
        self._find(path).content = content

    def append(self, path: Path, content: bytes) -> None:
        """As `disk.append`."""
        there = path.name in self._find(path.parent).names
        self.write(path, (self._find(path).content or b"" if there else b"") + content)

    def rename(self, source: Path, target: Path) -> None:
        """As `disk.rename`."""
        self._change((source, None), (target, self._find(source)))

    def make(self, path: Path) -> None:
        """As `disk.make`."""
        if path.name not in self._find(path.parent).names:
            self._change((path, Node(None)))

    def remove(self, path: Path) -> None:
        """As `disk.remove`."""
        self._change((path, None))

    def sync(self, path: Path) -> None:
        """As `disk.sync`."""
        node = self._find(path)
        if node.content is not None:
            node.safe = node.content
            return
        for change in [c for c in self.pending if any(folder is node for folder, _, _ in c)]:
            _apply(change)
            self.pending.remove(change)

    def remains(self, place: Path) -> Iterator[Path]:
        """Each state that a power cut may leave now, in a new folder inside `place`."""
        seen = set()
        for chosen in _subsets(self.pending):
            before = [(folder, dict(folder.safe_names)) for change in self.pending for folder, _, _ in change]
            for change in chosen:
                _apply(change)
            trees = [dict(_files(self.top, reader)) for reader in (_safe, _whole, _torn)]
            for folder, names in reversed(before):
                folder.safe_names = names
            for tree in trees:
                key = tuple(sorted(tree.items(), key=lambda item: item[0]))
                if key not in seen:
                    seen.add(key)
                    yield _made(tree, place / str(len(seen)))


def _apply(change: Change) -> None:
    for folder, name, node in change:
        folder.safe_names.pop(name, None)
        if node is not None:
            folder.safe_names[name] = node


def _subsets(changes: list[Change]) -> Iterator[list[Change]]:
    count = len(changes)
    if count <= MOST:
        for size in range(count + 1):
            yield from (list(chosen) for chosen in itertools.combinations(changes, size))
        return
    yield from (changes[:length] for length in range(count + 1))
    yield from ([c for c in changes if c is not left] for left in changes)
    yield from ([alone] for alone in changes)


def _safe(node: Node) -> bytes:
    return node.safe


def _whole(node: Node) -> bytes:
    return node.content or b""


def _torn(node: Node) -> bytes:
    content = node.content or b""
    least = min(len(content), len(node.safe))
    start = next((at for at in range(least) if content[at] != node.safe[at]), least)
    return content[: start + (len(content) - start) // 2]


def _files(node: Node, reader: Callable[[Node], bytes], path: str = "") -> Iterator[tuple[str, bytes | None]]:
    for name, inner in node.safe_names.items():
        where = f"{path}/{name}" if path else name
        if inner.content is None:
            yield where, None
            yield from _files(inner, reader, where)
        else:
            yield where, reader(inner)


def _made(tree: dict[str, bytes | None], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in sorted(tree.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder


@contextmanager
def watched(root: Path, monkeypatch: pytest.MonkeyPatch, seen: Callable[[Disk], None]) -> Iterator[Disk]:
    """Follow all operations inside `root`; `seen` is called before the first and after each."""
    model = Disk(root)
    seen(model)
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(disk, name, _followed(getattr(disk, name), getattr(model, name), model, seen))
        yield model


def _followed(
    real: Callable[..., None], follow: Callable[..., None], model: Disk, seen: Callable[[Disk], None]
) -> Callable[..., None]:
    def operation(path: Path, *more: object) -> None:
        real(path, *more)
        if path == model.root or model.root in path.parents:
            follow(path, *more)
            seen(model)

    return operation


class Failing:
    """The operation with this number fails, and if `lasting` all that would write after it; a write leaves half."""

    def __init__(self, number: int, code: int, lasting: bool) -> None:
        self.number, self.code, self.lasting = number, code, lasting
        self.count = 0

    @contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
        """While this lasts."""
        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(disk, name, self._failing(name, getattr(disk, name)))
            yield self

    def _failing(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def operation(path: Path, *more: object) -> None:
            self.count += 1
            due = self.count == self.number or (self.lasting and self.count > self.number and name != "remove")
            if not due:
                real(path, *more)
                return
            if name in ("write", "append"):
                content = more[0]
                assert isinstance(content, bytes)
                real(path, content[: len(content) // 2])
            raise OSError(self.code, os.strerror(self.code), str(path))

        return operation


FAULTS = [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EIO, True)]
