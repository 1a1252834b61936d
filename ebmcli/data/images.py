"""`load`: any data set as uint8 images in a memory map, decoded once and kept in the user's cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.data import cache
from ebmcli.data.bundled import bundled, resolve
from ebmcli.data.chosen import Chosen, chosen
from ebmcli.data.decode import Form, decode
from ebmcli.data.doubts import doubts
from ebmcli.data.listing import readable
from ebmcli.data.readers import open_source
from ebmcli.data.remote import address_of
from ebmcli.errors import EBMError, Exit
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ebmcli.data.source import Source
    from ebmcli.hub import Address

log = logging.getLogger("ebmcli.data")

_NAMED = 3  # images that cannot be read, in a message
_FORMAT = 2  # raise it when the same files would be decoded to other pixels


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, kept as uint8.

    Attributes:
        pixels: uint8 `[n c h w]`, read-only: a memory map of the cached file, or in memory without a cache.
        name: the bundled set's name, else the folder's or file's (no path).
        identity: 16 hex digits, a hash of the images as stored; the same wherever the files lie.
        skipped: names of the images that could not be decoded.
        notes: what was recognised, assumed and done, one line each, for the user.
        doubts: what was left out, and what is odd about the images, one line each.
        revision: the commit of a set of the Hub, else empty.
    """

    pixels: np.ndarray
    name: str
    identity: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    revision: str = ""

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        c, h, w = self.pixels.shape[1:]
        return (int(c), int(h), int(w))

    def tell(self) -> None:
        """Log what was found, and warn of what was left out or is odd; once in a process for each set.

        What a set of the package is like is known.
        """
        lines = (self.name, *self.notes, *self.doubts)
        if lines in _told:
            return
        _told.add(lines)
        if self.name not in bundled():
            log.info(f"{self.name}: {'; '.join(self.notes)}")
        for line in self.doubts:
            log.warning(line)

    def images(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Tensor:
        """The images at `index` as float32 `[n c h w]` in [-1, 1]: pixel / 127.5 - 1."""
        import numpy as np
        import torch

        where = index if isinstance(index, slice) else np.asarray(index)
        block = np.array(self.pixels[where])
        return torch.from_numpy(block).float().div_(127.5).sub_(1)


_told: set[tuple[str, ...]] = set()


def load(
    source: str | Path,
    *,
    image_size: int,
    channels: int,
    crop: int | None = None,
    split: str = "train",
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: bool = True,
) -> ImageSet:
    """Load a bundled set, a file or a folder, whatever its layout, as squares of one size.

    The first load decodes on all cores into the cache folder; later ones map that file, as long as the
    names, sizes and times of the files stay (of one small file: its content).

    Args:
        source: name of a bundled set, else a path, else a public set by its short name or its id on the Hub
            (`ylecun/mnist`, with @REVISION too); `#column=NAME` or `#config=NAME` behind it chooses where there are
            several. Paths: IDX (.gz or not), `.npz`, `.npy`, CIFAR-10's binary records, parquet, an archive of
            pictures, or a folder of them (jpg, png, webp, bmp, tif, gif, ppm …) at any depth.
        image_size: side of the square, px. The short side is brought to it and the centre kept.
        channels: 1 (grey) or 3 (RGB).
        crop: side, px, of a square cut from the centre before the resize (CelebA's faces: 140).
        split: "train" or "test", where the files have both.
        limit: use the first so many images only.
        progress: called with (images done, images in all) while decoding; not at all when the cache has them.
        tell: log what was found and left out; otherwise `ImageSet.tell` does.

    Raises:
        EBMError: no such data, an unknown layout, damaged files, mostly undecodable images, or a full disk.
    """
    form = Form(image_size, channels, crop)
    if limit is not None and limit < 1:
        raise EBMError(f"limit must be at least 1 image, received {limit}", "leave it out to use all images")
    images = _load(source, form, split, limit, progress)
    if tell:
        images.tell()
    return images


def _load(
    source: str | Path, form: Form, split: str, limit: int | None, progress: Callable[[int, int], None] | None
) -> ImageSet:
    address = address_of(source)
    place, column, config = choice = chosen(source)
    if address is not None:
        name = str(choice._replace(place=address.repo))
        opened = _remote(choice, address, split)
    else:
        path = resolve(place)
        name = place if place in bundled() else _name(path)
        opened = open_source(path, split, column, config)
    key = opened.key(_FORMAT, opened.layout, split, limit, form.image_size, form.channels, form.crop)
    kept = cache.find(key)
    if kept:
        return _image_set(kept[0], name, kept[1], opened)
    noted, doubted = len(opened.notes), len(opened.doubts)
    count = min(opened.count, limit or opened.count)
    with cache.writer(key, count, form.shape) as sink:
        if sink is None:
            return _load(source, form, split, limit, progress)
        decode(opened, count, form, sink, progress)
        meta: dict[str, Any] = {
            "identity": sink.identity,
            "skipped": list(sink.bad),
            "reasons": list(islice(sink.bad.values(), _NAMED)),
            "notes": [f"{opened.layout}, {count:,} images: {form}", *opened.notes],
            "later": [opened.notes[noted:], opened.doubts[doubted:]],
            "remarks": sink.remarks,
            "split": split,
            "revision": opened.revision,
        }
        array = sink.finish(key, {"name": name, **meta})
    if not sink.on_disk:
        meta["later"][0].append(f"decoded into memory: the cache folder {cache.folder()} cannot be written")
    del opened.notes[noted:], opened.doubts[doubted:]
    return _image_set(array, name, meta, opened)


def _image_set(array: np.ndarray, name: str, meta: dict[str, Any], opened: Source) -> ImageSet:
    """The set as it is handed out; what there is to say of it is said once.

    Args:
        array: [n c h w] uint8.
        name: of the set.
        meta: what was kept with it when it was decoded.
        opened: the files as they are now; what lies beside those that are read may have changed.
    """
    later = meta.get("later")
    first, *rest = meta["notes"] or [opened.layout]
    notes = [first, *opened.notes, *later[0]] if later else [first, *rest]
    left = [*opened.doubts, *(later[1] if later else ())]
    left += [f"{count:,} {what}" for what, count in meta.get("remarks", {}).items()]
    skipped = meta["skipped"]
    if skipped:
        shown = ", ".join(skipped[:_NAMED]) + (" …" if len(skipped) > _NAMED else "")
        left.append(f"images that cannot be read are left out ({len(skipped)}): {shown}")
        if meta.get("reasons"):
            left.append(f"why they cannot be read: {'; '.join(dict.fromkeys(meta['reasons']))[:300]}")
    left += doubts(array)
    revision = str(meta.get("revision", ""))
    return ImageSet(array, name, meta["identity"], tuple(skipped), tuple(notes), tuple(left), revision)


def _remote(choice: Chosen, address: Address, split: str) -> Source:
    from ebmcli.data.remote import open_remote

    try:
        return open_remote(address, split, column=choice.column, config=choice.config)
    except EBMError as error:
        if error.code == Exit.HUB and typed_path(choice.place).parent.is_dir():  # photos/2024 is an address too
            error.message = f"no data at {choice.place} here, and {error.message}"
        raise


def _name(path: Path) -> str:
    """A name without a path: the folder's, or the file's up to its first dot."""
    path = path.resolve()
    return readable(path.name if path.is_dir() else path.name.split(".")[0])
