"""The tree of basins: which merge first, and at what height."""

from __future__ import annotations

from typing import NamedTuple


class Node(NamedTuple):
    """A basin, or basins that meet at a barrier."""

    height: float
    """a basin's least energy, or the lowest known barrier at which the children meet; ∞: never seen to meet"""
    children: tuple[Node, ...] = ()
    basin: int | None = None

    @property
    def leaves(self) -> list[int]:
        """Basins under it, from left to right."""
        return [self.basin] if self.basin is not None else [b for child in self.children for b in child.leaves]

    @property
    def lowest(self) -> float:
        """Least energy under it."""
        return min((child.lowest for child in self.children), default=self.height)


def joins(count: int, barriers: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Kruskal: pairs of basins in the order in which their trees join, lowest barrier first.

    Args:
        count: of basins.
        barriers: height between two basins; pairs that are left out, or ∞, are not connected.
    """
    root = list(range(count))

    def find(basin: int) -> int:
        while root[basin] != basin:
            root[basin] = root[root[basin]]
            basin = root[basin]
        return basin

    joined = []
    for pair, height in sorted(barriers.items(), key=lambda item: (item[1], item[0])):
        one, two = find(pair[0]), find(pair[1])
        if one != two and height != float("inf"):
            root[two] = one
            joined.append(pair)
    return joined


def tree(energies: list[float], barriers: dict[tuple[int, int], float]) -> Node:
    """The joins as a binary tree; trees that never join hang on a root of infinite height.

    Args:
        energies: least energy of each basin.
        barriers: as `joins`.
    """
    above = {basin: Node(energy, basin=basin) for basin, energy in enumerate(energies)}
    for pair in joins(len(energies), barriers):
        branches = sorted((above[basin] for basin in pair), key=lambda node: node.lowest)
        height = max(barriers[pair], *(branch.height for branch in branches))
        node = Node(height, tuple(branches))
        above |= dict.fromkeys(node.leaves, node)
    trees = sorted({id(node): node for node in above.values()}.values(), key=lambda node: node.lowest)
    return trees[0] if len(trees) == 1 else Node(float("inf"), tuple(trees))


def pruned(node: Node, keep: set[int]) -> Node | None:
    """What is left of a tree when other basins than `keep` are taken out; None where that is nothing."""
    if node.basin is not None:
        return node if node.basin in keep else None
    children = tuple(child for one in node.children if (child := pruned(one, keep)) is not None)
    if len(children) < 2:
        return children[0] if children else None
    return node._replace(children=children)


def merge_heights(node: Node) -> dict[tuple[int, int], float]:
    """The height at which each pair of basins first meets, in any number of steps: the minimax barrier."""
    heights: dict[tuple[int, int], float] = {}
    for number, child in enumerate(node.children):
        heights |= merge_heights(child)
        for other in node.children[number + 1 :]:
            for i in child.leaves:
                for j in other.leaves:
                    heights[min(i, j), max(i, j)] = node.height
    return heights
