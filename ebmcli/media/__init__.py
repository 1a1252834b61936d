"""Image grids, heat pictures, files that say what made them."""

from ebmcli.media.files import read_images, read_metadata, refuse_foreign, save_folder, save_npz, save_png
from ebmcli.media.grid import grid, heat, is_plane, picture, scatter, terminal, to_uint8

__all__ = [
    "grid",
    "heat",
    "is_plane",
    "picture",
    "read_images",
    "read_metadata",
    "refuse_foreign",
    "save_folder",
    "save_npz",
    "save_png",
    "scatter",
    "terminal",
    "to_uint8",
]
