"""Models on the Hub that were made with this package."""

from __future__ import annotations

import itertools
from typing import Any

from ebmcli.hub import client, faults

TAG = "ebmcli"
REGIMES = ("convergent", "non-convergent")


def search(query: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Repositories with our tag whose name has `query` in it, most downloaded first.

    Raises:
        EBMError: exit code 4, as `ebmcli.hub.faults.explain`, or no network is wanted.
    """
    if faults.offline():
        raise faults.HubError("HF_HUB_OFFLINE allows no search of the Hub", "ebm models lists the bundled ones")
    api = client.api()

    def found() -> list[dict[str, Any]]:
        listed = api.list_models(filter=TAG, search=query, sort="downloads", limit=limit)
        return [_row(info) for info in itertools.islice(listed, limit)]

    return client.ask("the list of models", found)


def _row(info: Any) -> dict[str, Any]:
    return {
        "name": str(info.id),
        "regime": next((tag for tag in info.tags or () if tag in REGIMES), None),
        "downloads": int(info.downloads or 0),
        "changed": info.last_modified.date().isoformat() if info.last_modified else None,
        "private": bool(info.private),
        "gated": bool(info.gated),
    }
