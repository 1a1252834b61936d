"""The functions of the compiled kernel, and a trial of it in a process of its own.

Run as a script, with the path of a library and its number of lanes, this file loads the library and computes a little
with it. A library that is not for this machine ends that process, and not the one that wants to use it. It imports
the standard library only, and nothing of the package.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

_POINTER, _INT, _WORD, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ebm_create": (_POINTER, [_INT, _POINTER, _POINTER, _INT]),
    "ebm_free": (None, [_POINTER]),
    "ebm_floats": (_INT, [_POINTER]),
    "ebm_pack": (None, [_POINTER, _INT, _POINTER, _POINTER]),
    "ebm_path": (
        None,
        [_POINTER, _POINTER, _INT, *[_POINTER] * 7, _INT, _INT, *[_FLOAT] * 3, _WORD, _POINTER, _INT],
    ),
    "ebm_normal": (None, [_WORD, _INT, _POINTER, _INT, _INT, _POINTER]),
    "ebm_words": (None, [_WORD, _INT, _POINTER, _INT, _INT, _POINTER]),
    "ebm_philox": (None, [_WORD, _POINTER, _POINTER]),
}
_PHILOX = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # of counter 0 and key 0, as published


def bind(path: str) -> ctypes.CDLL:
    """The library at `path`, with the types of its functions.

    Raises:
        OSError: it cannot be loaded, or lacks a function.
    """
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise OSError(f"it has no function {name}") from None
        function.restype, function.argtypes = result, arguments
    return library


def trial(path: str, lanes: int) -> str:
    """What is wrong with the library at `path`: one line, empty where it computes as it should."""
    library = bind(path)
    words = (ctypes.c_uint32 * 4)()
    library.ebm_philox(0, (ctypes.c_uint32 * 4)(), words)
    if tuple(words) != _PHILOX:
        return "its random numbers are not those of Philox"
    # Two convolutions, 3×3 with padding and 4×4 without, on images [1 4 4]; every weight is 0.1.
    layers = (ctypes.c_int64 * 20)(1, 2, 3, 3, 1, 1, 1, 1, 4, 4, 2, 1, 4, 4, 1, 1, 0, 0, 4, 4)
    net = library.ebm_create(2, layers, (ctypes.c_float * 2)(0.1, 1.0), 1)
    weights = (ctypes.c_float * 32)(*[0.1] * 32)
    for layer in range(2):
        library.ebm_pack(net, layer, weights, None)
    work = (ctypes.c_float * (library.ebm_floats(net) + 16))()
    images, after, slopes = ((ctypes.c_float * (16 * lanes))(*[1.0] * (16 * lanes)) for _ in range(3))
    energy, norm = ((ctypes.c_float * (2 * lanes))() for _ in range(2))
    length, ids = (ctypes.c_float * lanes)(), (ctypes.c_int64 * lanes)(*range(lanes))
    aligned = -(-ctypes.addressof(work) // 64) * 64
    library.ebm_path(
        net, aligned, lanes, images, None, after, slopes, energy, norm, length, lanes, 1, 1.0, 0.01, 0.1, 7, ids, 0
    )
    library.ebm_free(net)
    # Each pixel of a channel sums its neighbours: 4·4 + 8·6 + 4·9 = 100 in all, twice, times 0.1².
    right = all(math.isclose(value, 2.0, rel_tol=1e-5) for value in energy[:lanes])
    finite = all(map(math.isfinite, [*after, *slopes, *energy, *norm, *length]))
    return "" if right and finite else "it computes a wrong energy"


if __name__ == "__main__":
    try:
        sys.exit(trial(sys.argv[1], int(sys.argv[2])) or None)
    except OSError as problem:
        sys.exit(str(problem))
