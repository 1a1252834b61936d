"""Data sets inside the package, and how a name or path becomes a path."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ebmcli.data.sets import SETS
from ebmcli.data.toys import TOYS
from ebmcli.errors import EBMError
from ebmcli.storage.paths import typed_path

_GIVE = "give the images yourself: `data` PATH"
_ASSETS = Path(__file__).resolve().parent.parent / "assets" / "data"


@dataclass(frozen=True)
class Bundled:
    """One data set inside the package.

    Attributes:
        name: what recipes and `--data` call it.
        about: one line on where the images are from.
        licence: SPDX identifier; the text is `path / "LICENSE"`.
        count: number of images.
        shape: (c, h, w) of an image.
        of: names of the whole set, of which this is a part.
    """

    name: str
    about: str
    licence: str
    count: int
    shape: tuple[int, int, int]
    of: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Folder of the files."""
        return _ASSETS / self.name


_FASHION = ("fashion-mnist", "fashion_mnist", "zalando-datasets/fashion_mnist")
_BUNDLED = (
    Bundled(
        "mnist-10k", "10,000 training digits of MNIST, shuffled", "MIT", 10_000, (1, 28, 28), ("mnist", "ylecun/mnist")
    ),
    Bundled("fashion-1k", "first 1,000 training images of Fashion-MNIST", "MIT", 1_000, (1, 28, 28), _FASHION),
    Bundled("emoji-1k", "1,000 colour emoji of Noto Color Emoji on white", "OFL-1.1", 1_000, (3, 32, 32)),
)


def bundled() -> dict[str, Bundled]:
    """The data sets inside the package, by name."""
    return {entry.name: entry for entry in _BUNDLED}


def at_hand(name: str) -> str:
    """What a model's data is looked up as: the package's part of it, where it has one and there is no such path.

    Raises:
        EBMError: the name leads to another place of this machine than a file or folder in the present one; models
            travel, and what they name is no reason to read there.
    """
    path = typed_path(name)
    if path.is_absolute() or name.startswith(("~", ".")) or ".." in path.parts or "\\" in name:
        raise EBMError(f"the model names a path as its data ({name}), which is not read unasked", _GIVE)
    if path.is_file() or path.is_dir():
        return name
    if path.exists():
        raise EBMError(f"the model names {name} as its data, which is neither a file nor a folder here", _GIVE)
    return next((entry.name for entry in _BUNDLED if name in entry.of), name)


def resolve(source: str | Path) -> Path:
    """The file or folder `source` means: the name of a bundled set, else an existing path (`~` expanded).

    Raises:
        EBMError: it is neither; the hint names the nearest bundled set and all there are.
    """
    name, sets = str(source), bundled()
    if name in sets:
        return sets[name].path
    path = typed_path(source)
    if path.exists():
        return path
    if name in TOYS:
        raise EBMError(f"{name} is a toy density, not a set of images", "toys are loaded with load_toy")
    fetched = [entry.name for entry in SETS]
    near = difflib.get_close_matches(name, [*sets, *fetched], n=1)
    guess = f"did you mean {near[0]}? " if near else "check the path; "
    known = f"bundled sets: {', '.join(sets)}; public ones: {', '.join(fetched)}"
    raise EBMError(f"no data at {name}: no such file or folder", f"{guess}{known}")
