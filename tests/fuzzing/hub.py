"""Answers of the Hub, damaged on their way: a stand-in serves them, and the package's own client asks."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fuzzing.table import MODELS, Files, command, empty_folder, known, reader

CARD = b'---\nlibrary_name: ebmcli\ntags: ["ebmcli", "convergent"]\nlicense: mit\n---\n# A model\n'
HEADERS, PLACES = ".headers.json", {"application/json": ".json"}


def _server() -> Any:
    """The stand-in, started at the first call; what it would reply is changed by `changed`, and noted in `said`."""
    if not _servers:
        from helpers import hub_server

        class Damaged(hub_server.Handler):
            """Replies that can be replaced."""

            def reply(self, status=200, obj=None, body=None, headers=None, head=False):  # type: ignore[no-untyped-def]
                body = body if body is not None else b"" if obj is None else json.dumps(obj).encode()
                kind = "application/json" if obj is not None else "application/octet-stream"
                headers = {"Content-Type": kind, ":status": str(status), **(headers or {})}
                name = quote(f"{self.command} {self.path}", safe="")
                ending = ".json" if obj is not None else ".safetensors" if "safetensors" in name else ".bin"
                said = self.server.said
                said.setdefault(name + HEADERS, json.dumps(headers).encode())
                if body and not head:
                    said.setdefault(name + ending, body)
                changed = self.server.changed
                if name + HEADERS in changed:
                    headers = _headers(changed[name + HEADERS]) or headers
                body = changed.get(name + ending, body)
                status = int(headers.pop(":status", status))
                self.close_connection = True
                with contextlib.suppress(OSError):  # the client may have gone
                    super().reply(status, None, body, headers, head)

        hub = hub_server.Hub()
        hub.RequestHandlerClass = Damaged
        hub.said, hub.changed = {}, {}
        hub.__enter__()
        _servers.append(hub)
        os.environ.update(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", HF_HUB_DOWNLOAD_TIMEOUT="2")
        os.environ.update(HF_HUB_ETAG_TIMEOUT="2", HF_TOKEN="hf_test")
        time.sleep = lambda *_: None  # nothing is waited for between two tries
    return _servers[0]


_servers: list[Any] = []


def _headers(data: bytes) -> dict[str, str] | None:
    """What can be sent as headers at all."""
    try:
        raw = json.loads(data)
        found = {str(k): str(v) for k, v in raw.items()}
        found = {k: "".join(c for c in v if " " <= c <= "~")[:4000] for k, v in found.items() if k.isascii() and k}
        if not found.get(":status", "200").isdigit() or not 200 <= int(found.get(":status", 200)) < 600:
            found[":status"] = "200"
    except (ValueError, AttributeError, RecursionError):
        return None
    return {k: v for k, v in found.items() if k == ":status" or k.replace("-", "").isalnum()}


def _answers() -> list[Files]:
    hub = _server()
    hub.put("user/model", {"model.safetensors": (MODELS / "gmm_shortrun.safetensors").read_bytes(), "README.md": CARD})
    hub.said.clear()
    hub.changed = {}
    with empty_folder() as folder:
        _ask(folder / "cache")
    return [dict(hub.said)]


def _ask(cache: Path) -> None:
    from ebmcli.hub import parse
    from ebmcli.hub.search import search
    from ebmcli.models.pull import fetch

    known(search, "model")
    address = parse("user/model")
    assert address is not None
    found = known(fetch, address, cache_dir=cache)
    if found is not None:
        command("inspect", found.path)


@reader("hub", _answers, share=0.5, group="hub")
def read_answers(folder: Path) -> None:
    """A search and a pull, one answer of which is damaged."""
    hub = _server()
    hub.changed = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    hub.changed = {k: v for k, v in hub.changed.items() if hub.said.get(k) != v}
    _ask(folder / "cache")
