"""Text from names and files, made fit for where it goes: a terminal, JSON, Markdown, a picture.

Names of files, what files say about themselves and what servers answer may hold anything: sequences that move
a terminal's cursor, line ends that forge a second line, tags, halves of characters. Whoever prints or writes such
text sends it through one of the functions here.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: escape sequences, line ends, tabs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what follows
    "\u200b\u2028\u2029\ufeff\ufff9-\ufffb"  # nothing to see, or a line end to some
    "\ud800-\udfff]"  # halves of characters: bytes of a file's name that are no UTF-8
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$]|(?<=\])\()")
"""Punctuation by which Markdown makes code, emphasis, links, headings, tables and formulas."""


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def visible(text: object, keep: str = "") -> str:
    r"""`text` with every control character, turn of direction and half character as an escape: \x1b, \u202e, \n.

    Args:
        text: anything; `str` of it is taken.
        keep: characters that stay as they are, such as "\n" for a text of several lines.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(found), str(text))


def shortened(text: object, most: int = 200, keep: str = "") -> str:
    """`visible(text, keep)`, with its middle left out where it is longer than `most` characters."""
    shown = visible(text, keep)
    half = most // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"


def json_visible(document: str) -> str:
    r"""A JSON document whose strings hold no unsafe character: each is written as \uXXXX, and the value stays the same.

    Line ends and tabs between the values stay; within strings JSON has escaped its own already.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\u{ord(found[0]):04x}", document)


def markdown(text: object) -> str:
    """`text` on one line of Markdown that reads as itself: no tag, link, emphasis, table or heading of its own."""
    import html  # with its table of all names, which the start of the command line need not read

    line = " ".join(str(text).split())
    return html.escape(_MARKDOWN.sub(r"\\\1", visible(line)), quote=False)


def one_line(text: object) -> str:
    """`text` on one line, spaces for its line ends and tabs, and anything else unsafe as an escape."""
    return visible(" ".join(str(text).split()))
