"""Names of models, data and recipes that no file can have: a known error in one line, never one of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmcli import data, recipe
from ebmcli.errors import EBMError, UsageError
from ebmcli.models import lookup
from ebmcli.storage.paths import typed_path

IMPOSSIBLE = {
    "a long name": "x" * 300,
    "a long path": "ab/" * 2000,
    "a zero": "run\0",
    "half a letter": "run\ud800",
    "nobody's home": "~nobody-of-that-name-here/run",
}


@pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_names(name: str) -> None:
    """Each reader of names says so itself."""
    with pytest.raises(UsageError) as raised:
        typed_path(name)
    assert "\n" not in raised.value.message
    assert raised.value.hint
    for look in (lookup.look_up, lookup.label, recipe.load, data.remote.address_of):
        with pytest.raises(EBMError):
            look(name)
    with pytest.raises(EBMError):
        data.load(name, image_size=4, channels=1)
    assert not lookup.is_model(name)


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` is the user's home; other names stay as they were typed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert typed_path("~/runs/a") == tmp_path / "runs" / "a"
    assert typed_path("runs/~a") == Path("runs/~a")
