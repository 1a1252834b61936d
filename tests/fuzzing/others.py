"""Readers of weights of others, of pictures and films of ours, and of pictures that are begun with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.images import _pictures
from fuzzing.table import Files, empty_folder, reader, takes


def _pths() -> list[Files]:
    import torch

    from ebmcli.networks import build

    found = []
    for name, shape in (("toy", (2, 1, 1)), ("vanilla", (1, 16, 16)), ("nonlocal", (1, 32, 32))):
        made = io.BytesIO()
        state = build(name, shape, width=2).state_dict()
        torch.save(state if name != "toy" else {"state_dict": state, "epoch": 3}, made)
        found.append({"weights.pth": made.getvalue()})
    return found


@reader("pth", _pths, share=0.8)
def read_pth(folder: Path) -> None:
    """Weights of others, of which nothing but tensors is taken."""
    from ebmcli.models import convert, state_dicts

    convert.recognise(state_dicts.read(folder / "weights.pth").weights)


def _films() -> list[Files]:
    from ebmcli import media
    from ebmcli.media.video import save_video

    facts = {"made_by": "ebm", "model": "gmm", "settings": {"steps": 3, "seed": 0, "start": "noise"}}
    with empty_folder() as folder:
        picture = Image.new("L", (16, 16), 40)
        media.save_png(picture, "a.png", facts)
        media.save_npz(np.zeros((2, 1, 4, 4), dtype=np.uint8), "a.npz", facts)
        frames = [Image.new("RGB", (64, 64), (40 * i, 0, 0)) for i in range(3)]
        for kind in ("mp4", "gif", "webp", "apng"):
            save_video(Path(f"a.{kind}"), iter(frames), 5.0, facts)
        return [{path.name: path.read_bytes()} for path in sorted(folder.iterdir())]


@reader("pictures of ours", _films, share=1)
def read_ours(folder: Path) -> bool:
    """What a picture, film or array says of itself."""
    [path] = folder.iterdir()
    return all([takes("inspect", path), takes("inspect", path, "--json")])


def _features() -> list[Files]:
    from ebmcli.evaluation import features

    return [{"features.safetensors": Path(features.WEIGHTS).read_bytes()}]


@reader("features", _features, share=0.3)
def read_features(folder: Path) -> None:
    """Another network of features."""
    from ebmcli.evaluation import load_features

    load_features(str(folder / "features.safetensors"))


@reader("pictures for maps", _pictures, share=1)
def read_picture(folder: Path) -> None:
    """A picture that a map or a walk begins at."""
    import torch

    from ebmcli.landscape.subject import open_subject, picture

    if "digits" not in _subjects:
        _subjects["digits"] = open_subject("mnist-shortrun", torch.device("cpu"))
    path = min((folder / "pictures").iterdir())
    picture(_subjects["digits"], path)


_subjects: dict[str, Any] = {}
