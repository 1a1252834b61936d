"""The tree of basins as a figure, after the paper's Fig. 9."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ebmcli.landscape.mapping import Landscape
from ebmcli.landscape.tree import Node, pruned
from ebmcli.random.streams import Purpose, Stream

ROWS = 6
"""Most members under a leaf."""
LEAVES = 60
"""Most leaves of the figure, unless told: of more basins those with most members are shown."""
POINT_SIZE = 28
"""Pixels of the little plane that shows a 2-D point."""


class Bar(NamedTuple):
    """Where two branches, or several, meet."""

    height: float
    """∞ for trees that were never seen to meet"""
    left: float
    right: float
    pair: tuple[int, int]
    """the lowest basins on both sides"""


class Stem(NamedTuple):
    """A vertical line from a basin's or a bar's height up to the bar above it."""

    place: float
    low: float
    high: float


class Layout(NamedTuple):
    """A tree in the plane: leaves at 0, 1, 2 … from left to right, heights are energies."""

    leaves: list[int]
    """basins from left to right"""
    bars: list[Bar]
    stems: list[Stem]


def layout(root: Node) -> Layout:
    """Places of all lines of a tree."""
    leaves = root.leaves
    place = {basin: float(number) for number, basin in enumerate(leaves)}
    bars: list[Bar] = []
    stems: list[Stem] = []

    def visit(node: Node) -> tuple[float, float]:
        """Place and height of a node's own stem."""
        if node.basin is not None:
            return place[node.basin], node.height
        feet = [visit(child) for child in node.children]
        stems.extend(Stem(x, low, node.height) for x, low in feet)
        one, two = (min(child.leaves) for child in node.children[:2])
        bars.append(Bar(node.height, feet[0][0], feet[-1][0], (one, two)))
        return (feet[0][0] + feet[-1][0]) / 2, node.height

    visit(root)
    return Layout(leaves, bars, stems)


def portraits(states: Tensor, among: Tensor) -> np.ndarray:
    """Pictures of states, uint8 [n c h w]: images as they are, 2-D points [n 2 1 1] as dots on a little plane.

    Args:
        among: all states of the map, which the plane shows faintly.
    """
    from ebmcli.media import to_uint8

    if tuple(states.shape[1:]) != (2, 1, 1):
        return to_uint8(states)
    reach = 1.3 * max(float(among.abs().max()), 1e-6)
    size = POINT_SIZE
    y, x = np.mgrid[0:size, 0:size]

    def dots(points: Tensor, width: float) -> np.ndarray:
        at = (points.flatten(1).double().numpy() + reach) / (2 * reach) * (size - 1)
        d2 = (x - at[:, 0, None, None]) ** 2 + (size - 1 - y - at[:, 1, None, None]) ** 2
        return np.exp(-d2 / (2 * width**2))

    plane = 24 + 70 * dots(among, 0.7).max(axis=0)
    bright = np.maximum(plane[None], 255 * dots(states, 1.3))
    return np.rint(bright).astype(np.uint8)[:, None]


def chosen_members(landscape: Landscape, most: int) -> list[list[int]]:
    """Of each basin its representative and randomly chosen members, at most `most` states."""
    generator = Stream(0, Purpose.DATA).generator()
    columns = []
    for first, *others in landscape.basins.members:
        more = generator.permutation(len(others))[: most - 1]
        columns.append([first, *sorted(others[i] for i in more)])
    return columns


def save_tree(
    landscape: Landscape,
    paths: list[Path],
    title: str,
    metadata: Mapping[str, Any] | None = None,
    leaves: int = LEAVES,
) -> None:
    """Draw the tree to each of `paths`, PNG or SVG: leaves with columns of members, circles with their number.

    Of more than `leaves` basins the largest are shown, and the title says so.
    """
    from ebmcli.media import plots

    shown, everything = largest(landscape, leaves), len(landscape.basins.members)
    places = layout(shown)
    if len(places.leaves) < everything:
        title = f"{title}; the {len(places.leaves)} basins of most members, of {everything}"
    n = len(places.leaves)
    span = max(n, 5) + 0.25
    cell = 0.8 if n <= 10 else 0.62 if n <= 24 else 0.42
    rows = min(ROWS, max(map(len, landscape.basins.members)))
    pictures = portraits(landscape.states, landscape.states)
    h, w = pictures.shape[2:]
    column, tree = rows * cell * h / w, 3.2 if n <= 24 else 4.2
    ratios = {"height_ratios": [tree, column], "hspace": 0.0}
    with plots.figure(0.85 + cell * span, tree + column + 0.3, 2, 1, sharex=True, gridspec_kw=ratios) as (fig, axes):
        top, bottom = axes
        _draw_tree(top, landscape, places)
        _draw_members(bottom, landscape, places, pictures, rows)
        top.set_xlim(-0.7, span - 0.7)
        top.set_title(title, fontsize=9, color="#333333")
        for path in paths:
            plots.save(fig, path, metadata)


def largest(landscape: Landscape, most: int = LEAVES) -> Node:
    """The tree of the `most` basins with most members; of equal ones the lower."""
    members = landscape.basins.members
    order = sorted(range(len(members)), key=lambda basin: (-len(members[basin]), basin))
    left = pruned(landscape.tree, set(order[:most]))
    assert left is not None
    return left


def ceiling(landscape: Landscape) -> float:
    """Where the bar of trees that never meet is drawn: above everything else."""
    lowest = [float(landscape.energies[i]) for i in landscape.basins.representatives]
    finite = [v for v in (*lowest, *(bar.height for bar in layout(landscape.tree).bars)) if math.isfinite(v)]
    return max(finite) + 0.12 * max(max(finite) - min(finite), 1e-6)


def _draw_tree(axes: Any, landscape: Landscape, places: Layout) -> None:
    from ebmcli.media import plots

    ink = "#333333"
    roof = ceiling(landscape)
    for stem in places.stems:
        known = math.isfinite(stem.high)
        style: dict[str, Any] = {"color": ink, "lw": 1.0} if known else {"color": plots.FAINT, "lw": 0.9, "ls": ":"}
        axes.plot([stem.place, stem.place], [stem.low, min(stem.high, roof)], **style, zorder=1)
    for bar in places.bars:
        known = math.isfinite(bar.height)
        style = {"color": ink, "lw": 1.4} if known else {"color": plots.FAINT, "lw": 0.9, "ls": ":"}
        height = min(bar.height, roof)
        axes.plot([bar.left, bar.right], [height, height], **style, zorder=1, solid_capstyle="projecting")
        if not known:
            middle = (bar.left + bar.right) / 2
            axes.annotate("no path found", (middle, height), (0, 3), textcoords="offset points", ha="center",
                          fontsize=7, color="#666666")  # fmt: skip
    counts = [len(landscape.basins.members[basin]) for basin in places.leaves]
    lows = [float(landscape.energies[landscape.basins.members[basin][0]]) for basin in places.leaves]
    sizes = [70 + 260 * math.sqrt(c / max(counts)) for c in counts]
    axes.scatter(range(len(counts)), lows, s=sizes, color=plots.COLOURS[0], edgecolors="white", lw=0.8, zorder=3)
    for number, (low, count) in enumerate(zip(lows, counts, strict=True)):
        size = 7 if count < 100 else 6
        axes.annotate(str(count), (number, low), ha="center", va="center", color="white", fontsize=size, zorder=4)
    axes.set_ylabel("energy U")
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)
    axes.margins(y=0.1)


def _draw_members(axes: Any, landscape: Landscape, places: Layout, pictures: np.ndarray, rows: int) -> None:
    columns = chosen_members(landscape, rows)
    for number, basin in enumerate(places.leaves):
        for row, state in enumerate(columns[basin]):
            image = pictures[state][0] if len(pictures[state]) == 1 else pictures[state].transpose(1, 2, 0)
            extent = (number - 0.44, number + 0.44, row + 0.94, row + 0.06)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_ylim(rows, 0)
    axes.axis("off")
