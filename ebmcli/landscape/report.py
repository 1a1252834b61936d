"""A map in files: figure, numbers, states, and a page to touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ebmcli.landscape.draw import LEAVES, save_tree
from ebmcli.landscape.mapping import Landscape
from ebmcli.landscape.page import save_page
from ebmcli.landscape.tree import Node
from ebmcli.storage.files import sweep, write_whole
from ebmcli.storage.seals import sealed
from ebmcli.storage.tensors import pack_sealed

UNFINISHED = "unfinished"
"""The folder inside a map's, in which what is done of it is kept."""
FILES = ("tree.png", "tree.svg", "map.json", "states.safetensors", "map.html")


def save(landscape: Landscape, folder: Path, title: str, metadata: dict[str, Any], leaves: int = LEAVES) -> list[Path]:
    """Write `FILES` into a folder; returns their paths.

    Args:
        title: of figure and page: the model and what was mapped.
        metadata: what made the map, as JSON can hold it.
        leaves: most basins of the figure; numbers and page have all.
    """
    sweep(folder)
    paths = [folder / name for name in FILES]
    save_tree(landscape, paths[:2], title, metadata, leaves)
    text = json.dumps(sealed({**metadata, **record(landscape)}), indent=1, allow_nan=False)
    write_whole(paths[2], text + "\n")
    tensors = {"states": landscape.states, "energies": landscape.energies}
    tensors["basins"] = torch.tensor(landscape.basins.of)
    tensors["starts"] = torch.tensor(landscape.starts)
    if landscape.routes:
        tensors["paths"] = torch.stack([route.path for route in landscape.routes])
        tensors["pairs"] = torch.tensor([route.pair for route in landscape.routes])
    write_whole(paths[3], pack_sealed(tensors, {"ebm": json.dumps(metadata, sort_keys=True)}))
    save_page(landscape, paths[4], title)
    return paths


def record(landscape: Landscape) -> dict[str, Any]:
    """A map's numbers as JSON can hold them; states are meant by their place in energy order."""
    conditions = landscape.conditions
    return {
        "basins": [
            {"energy": float(landscape.energies[members[0]]), "members": members}
            for members in landscape.basins.members
        ],
        "barriers": [
            {
                "basins": list(route.pair),
                "barrier": route.barrier,
                "travelled": route.travelled,
                "alpha": route.strength,
                "energy": [float(u) for u in route.energy],
            }
            for route in landscape.routes
        ],
        "tree": _tree(landscape.tree),
        "energies": landscape.energies.tolist(),
        "starts": landscape.starts,
        "alpha": landscape.strength,
        "temperature": conditions.temperature,
        "travel_step_size": conditions.step_size,
        "radius": conditions.radius,
        "grid": [cell._asdict() for cell in landscape.cells],
        "chain_steps": landscape.chain_steps,
        "at_rest": landscape.at_rest,
    }


def _tree(node: Node) -> dict[str, Any]:
    if node.basin is not None:
        return {"basin": node.basin, "height": node.height}
    height = node.height if node.height != float("inf") else None
    return {"height": height, "children": [_tree(child) for child in node.children]}
