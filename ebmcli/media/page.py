"""Reports as one HTML file that needs nothing else: no network, no script of others, readable on a phone.

page = Page("Long run of mnist-shortrun", "64 chains, 20,000 steps")
page.add(heading("Energy"), picture(image, "Energy over steps"), table(rows, header))
page.save("report.html")
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ebmcli.storage.files import write_whole
from ebmcli.text import visible

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #63636b; --line: #dededf; --paper: #ffffff; --tint: #f5f5f6;
        --good: #2e7d4f; --bad: #b3402a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --soft: #a2a2aa; --line: #3a3a3e; --paper: #17171a; --tint: #222226;
          --good: #6cc391; --bad: #ee8c76; }
  figure img.plot { background: #fff; border-radius: 6px; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.15rem; }
p { margin: .5rem 0; }
.lead { color: var(--soft); }
.verdict { margin: 1.25rem 0; padding: .9rem 1.1rem; background: var(--tint); border-left: 4px solid var(--soft); }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figure img.pixels { image-rendering: pixelated; }
figcaption { margin-top: .35rem; color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .925rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""


class Page:
    """A page that is put together from pieces of HTML and written whole.

    Args:
        title: of the page, plain text.
        lead: one line under it, plain text.
        style: CSS beside the house's own.
    """

    def __init__(self, title: str, lead: str = "", style: str = "") -> None:
        self._title = title
        self._lead = lead
        self._style = style
        self._pieces: list[str] = []

    def add(self, *pieces: str) -> None:
        """Append pieces of HTML, such as the functions below return."""
        self._pieces += pieces

    def html(self) -> str:
        """The document."""
        title, lead = _escaped(self._title), _escaped(self._lead)
        head = f'<h1>{title}</h1>\n<p class="lead">{lead}</p>' if lead else f"<h1>{title}</h1>"
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>{title}</title>\n<style>{STYLE}{self._style}</style>\n</head>\n<body>\n{head}\n"
            + "\n".join(self._pieces)
            + "\n</body>\n</html>\n"
        )

    def save(self, path: Path | str) -> Path:
        """Write it, whole or not at all; returns the path.

        Raises:
            EBMError: it cannot be written.
        """
        return write_whole(Path(path), self.html().encode())


def _escaped(text: object) -> str:
    """Plain text as HTML: no tag, no attribute's end, no control character."""
    return html.escape(visible(text, keep="\n"), quote=True)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type (`image/png`, `video/mp4`) as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    memory = io.BytesIO()
    image.save(memory, format="PNG", compress_level=9)
    return data_uri(memory.getvalue(), "image/png")


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{_escaped(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is a class of the style (lead)."""
    return f'<p class="{kind}">{_escaped(text)}</p>' if kind else f"<p>{_escaped(text)}</p>"


def verdict(text: str, reasons: Sequence[str] = (), good: bool | None = None) -> str:
    """A judgement with its reasons; `good` None is neither good nor bad."""
    kind = {True: " good", False: " bad", None: ""}[good]
    lines = "".join(f"<p>{_escaped(reason)}</p>" for reason in reasons)
    return f'<div class="verdict{kind}"><strong>{_escaped(text)}</strong>{lines}</div>'


def picture(image: Image.Image, caption: str, *, plot: bool = False) -> str:
    """A picture with its caption, which is also its text for those who cannot see it.

    Args:
        plot: a figure with lines and text; otherwise pixels are kept sharp when enlarged.
    """
    text = _escaped(caption)
    kind = "plot" if plot else "pixels"
    return f'<figure><img class="{kind}" src="{png_uri(image)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows of plain text in columns; a wide one scrolls within the page."""
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
