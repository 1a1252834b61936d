"""Data: images in [-1, 1] from local files of any usual layout, and the two-dimensional toys.

Importing this package imports neither torch, numpy nor Pillow; loading does.
"""

from ebmcli.data.bundled import Bundled, at_hand, bundled, resolve
from ebmcli.data.images import ImageSet, load
from ebmcli.data.toys import TOYS, GaussianMixture, Rings, Toy, load_toy

__all__ = [
    "TOYS",
    "Bundled",
    "GaussianMixture",
    "ImageSet",
    "Rings",
    "Toy",
    "at_hand",
    "bundled",
    "load",
    "load_toy",
    "resolve",
]
