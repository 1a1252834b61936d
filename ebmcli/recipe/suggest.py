"""A recipe for somebody's own pictures, by their number, size and colours and by the machine (no torch)."""

from __future__ import annotations

import re
from typing import NamedTuple

from ebmcli.recipe.files import load
from ebmcli.recipe.sections import Recipe

BASE = "fashion_convergent_cpu"
"""Its chains and optimiser are taken over: persistent learning shows what it learns soonest."""
SMALLEST, ON_CPU, ON_GPU = 16, 32, 64
"""px"""


class Effort(NamedTuple):
    """How long to learn for how many pictures.

    Attributes:
        pictures: up to how many it is meant for.
        updates: in all.
        sgd_from: update from which SGD follows Adam.
        bank: chains.
    """

    pictures: float
    updates: int
    sgd_from: int
    bank: int


EFFORTS = (
    Effort(500, 4_000, 1_500, 500),
    Effort(5_000, 6_000, 2_000, 1_000),
    Effort(float("inf"), 10_000, 3_000, 2_000),
)


def suggest(
    source: str, name: str, images: int, short_side: int, colour: bool, gpu: bool, crop: int | None = None
) -> Recipe:
    """A whole recipe for pictures nobody has made one for.

    Args:
        source: what `--data` says; it becomes the recipe's data.
        name: of the data, for people.
        images: how many pictures there are.
        short_side: px, of a typical one.
        colour: whether they have colours.
        gpu: whether a GPU will learn.
        crop: px, usual centre cut of a known set.
    """
    effort = next(e for e in EFFORTS if images <= e.pictures)
    size = max(SMALLEST, min(ON_GPU if gpu and images >= 1000 else ON_CPU, short_side))
    size -= size % 4 if size > SMALLEST else 0
    batch = min(100 if gpu else 50, max(8, images))
    flip = colour and images < 20_000
    base = load(BASE).resolved()
    base["recipe"].update(name=_name(name), regime="convergent", source="ours", notes="")
    base["data"].update(
        source=source,
        split="train",
        image_size=size,
        channels=3 if colour else 1,
        augment="flip" if flip else "none",
        crop=crop,
    )
    base["potential"].update(width=32 if gpu else 16)
    base["mcmc"].update(bank_size=max(effort.bank, batch))
    base["train"].update(updates=effort.updates, positives=batch, negatives=batch)
    base["optimizer"]["stages"][0].update(from_update=effort.sgd_from)
    base["log"].update(samples_every=100, checkpoint_every=500)
    base["provenance"] = {
        "recipe": f"Chosen by ebm train --data for {images:,} pictures, after {BASE}.",
        "data.image_size": f"{size} px: the pictures' short side is {short_side} px; "
        f"at most {ON_GPU if gpu else ON_CPU} px are chosen for {'a GPU' if gpu else 'a CPU'}.",
        "data.channels": "They have colours." if colour else "They are grey.",
        "data.augment": "Mirrored, for there are few and colour pictures mostly may be." if flip else "None.",
        "potential.width": f"{base['potential']['width']}, for {'a GPU' if gpu else 'a CPU'}.",
        "train.updates": f"{effort.updates:,}, with SGD from {effort.sgd_from:,} on and a bank of "
        f"{base['mcmc']['bank_size']:,}: by the number of pictures.",
    }
    return Recipe.model_validate(base)


def _name(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return plain[:60] or "pictures"
