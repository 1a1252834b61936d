"""Figures and pages: the same bytes for the same content, nothing from outside, nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ebmcli.errors import EBMError, UsageError
from ebmcli.media import page, plots, read_metadata
from ebmcli.media.lettering import shorten, write


def drawn(path: Path) -> Path:
    """A small figure."""
    with plots.figure(4, 3) as (fig, axes):
        axes.plot([0, 1, 2], [1.0, 0.5, 2.0], color=plots.COLOURS[0])
        axes.set_title("d over updates")
        return plots.save(fig, path, {"made_by": "a test"})


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_a_figure_has_the_same_bytes_each_time(tmp_path: Path, suffix: str) -> None:
    """And no date, so that a picture in a repository changes only when it changes."""
    one, two = drawn(tmp_path / f"a{suffix}"), drawn(tmp_path / f"b{suffix}")
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 2000


def test_a_figure_says_what_made_it(tmp_path: Path) -> None:
    """As every picture of ours."""
    assert read_metadata(drawn(tmp_path / "a.png")) == {"made_by": "a test"}


def test_the_style_is_ours_alone(tmp_path: Path) -> None:
    """A caller's matplotlib is as it was afterwards."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn(tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


def test_names_of_figures(tmp_path: Path) -> None:
    """A name that says no format is a usage error; a folder that cannot be made is one too."""
    with pytest.raises(UsageError, match="no name of a figure") as raised:
        drawn(tmp_path / "a.jpg")
    assert raised.value.hint == "figures end in .png or .svg"
    (tmp_path / "file").write_text("")
    with pytest.raises(EBMError, match="cannot write"):
        drawn(tmp_path / "file" / "a.svg")


def test_a_page_stands_alone(tmp_path: Path) -> None:
    """No address outside the file, text escaped, pictures inside with words beside them."""
    report = page.Page("A <title> & more", "one line")
    report.add(
        page.heading("Energy"),
        page.verdict("oversaturated", ["4 sd under the data"], good=False),
        page.picture(Image.new("L", (4, 4)), 'the "grid"'),
        page.table([[1, "<b>"]], ["steps", "name"]),
    )
    text = report.save(tmp_path / "report.html").read_text()
    assert "A &lt;title&gt; &amp; more" in text
    assert "<b>" not in text
    assert 'alt="the &quot;grid&quot;"' in text
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(|https?:""", text)
    assert 'name="viewport"' in text


NASTY = ("$\\foo$ a_b^c", "50$ to 60$", "\x1b[31mred\x07", "漢字\u202e", "x" * 4000, "caf\udce9")
"""Names of folders that are formulas to matplotlib, hold control characters or letters it lacks, or do not end."""


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
@pytest.mark.filterwarnings("error")
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """No error, no warning, a figure of its size; the powers of ten of matplotlib's own stay."""
    with plots.figure(6, 3) as (fig, axes):
        axes.loglog([1, 100], [1, 100], label=name)
        axes.set_title(name)
        axes.set_xlabel(name)
        axes.legend()
        plots.save(fig, tmp_path / "a.png")
        plots.save(fig, tmp_path / "a.svg")
        assert not axes.title.get_parse_math()
        assert axes.yaxis.get_ticklabels()[1].get_parse_math()
        assert len(axes.title.get_text()) <= plots.LONGEST + 1
        assert not {c for c in axes.title.get_text() if c < " "}
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (6 * plots.DPI, 3 * plots.DPI)


@pytest.mark.parametrize("name", [*NASTY, "two\nlines"], ids=range(len(NASTY) + 1))
def test_names_on_pictures(name: str) -> None:
    """Lettering bears the same names, each on one line and within its room."""
    picture = Image.new("RGB", (400, 60))
    end = write(ImageDraw.Draw(picture), (2, 30), shorten(name, 14, 300), 14, (255, 255, 255))
    assert 2 < end <= 330
    assert np.asarray(picture)[:40].any()
    assert not np.asarray(picture)[40:].any()
