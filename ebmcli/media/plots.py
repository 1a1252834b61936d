"""Figures in one house style, to PNG or SVG, with the same bytes for the same content.

    with plots.figure(9, 4, columns=2) as (fig, (left, right)):
        left.plot(updates, d, color=plots.COLOURS[0])
    plots.save(fig, "diagnosis.svg", metadata)

matplotlib is imported when the first figure is made; it takes a second.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ebmcli.errors import UsageError
from ebmcli.media.files import check_place, save_png
from ebmcli.storage.files import write_whole
from ebmcli.text import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2b5c8a", "#c8553d", "#4f8a5b", "#8a5a9e", "#c19a3d", "#5b5b5b")
"""One a curve, in this order; told apart by the colour-blind and in grey."""
BAND = "#2b5c8a22"
"""Fill of bands: the data's energy, a confidence interval."""
FAINT = "#9a9a9a"
"""Lines that only guide the eye: zero, a target."""
DPI = 144
LONGEST, LONGEST_NAME = 120, 60
"""Characters of a title or a label, and of a name in a legend; of longer ones the middle is left out."""
SUFFIXES = (".png", ".svg")

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": "#333333",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "svg.hashsalt": "ebm",
    "svg.fonttype": "path",
}


@contextmanager
def figure(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure of `width` × `height` inches and its axes (one, or an array of them), in the house style.

    Save it inside the block: colours and sizes are taken when it is drawn. `layout` goes to matplotlib's `subplots`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # matplotlib reads a `matplotlibrc` of the present folder first, whoever put it there: none of it counts here.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(fig)
        yield fig, fig.subplots(rows, columns, **layout)


def _literally(fig: Figure) -> None:
    """Let every text of the figure be drawn as it is: names of models and folders may hold `$`, which means a formula
    to matplotlib, or control characters, or be longer than any figure.

    The powers of ten beside logarithmic axes, which matplotlib writes as formulas itself, stay formulas.
    """
    from matplotlib.axis import Axis
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    powers: set[Text] = set()
    for axis in fig.findobj(Axis):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            powers |= {label for minor in (False, True) for label in axis.get_ticklabels(minor=minor)}
    names = {name for legend in fig.findobj(Legend) for name in legend.get_texts()}
    for text in set(fig.findobj(Text)) - powers:
        text.set_parse_math(False)
        fit = shortened(text.get_text(), LONGEST_NAME if text in names else LONGEST, keep="\n")
        if fit != text.get_text():
            text.set_text(fit)


@contextmanager
def _without_boxes() -> Iterator[None]:
    """Letters that the font lacks are drawn as boxes, which the user sees; matplotlib need not warn of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def to_image(fig: Figure) -> Image.Image:
    """The figure as a picture."""
    memory = io.BytesIO()
    _literally(fig)
    with _without_boxes():
        fig.savefig(memory, format="png", dpi=DPI)
    return Image.open(memory).convert("RGB")


def to_svg(fig: Figure) -> str:
    """The figure as SVG text, without the date that matplotlib writes into it."""
    memory = io.StringIO()
    _literally(fig)
    with _without_boxes():
        fig.savefig(memory, format="svg", metadata={"Date": None})
    return memory.getvalue()


def check_name(path: Path) -> None:
    """Nothing, if a figure can be written under this name; asked before anything takes long.

    Raises:
        UsageError: its ending is not one of `SUFFIXES`.
        EBMError: nothing can be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path.name} is no name of a figure", f"figures end in {' or '.join(SUFFIXES)}")
    check_place(path)


def save(fig: Figure, path: Path | str, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the figure whole or not at all, as PNG (with `metadata` in it) or SVG by the name; returns the path.

    Raises:
        EBMError: it cannot be written, or (UsageError) the name ends in neither.
    """
    path = Path(path)
    check_name(path)
    if path.suffix.lower() == ".svg":
        return write_whole(path, to_svg(fig).encode())
    return save_png(to_image(fig), path, metadata)
