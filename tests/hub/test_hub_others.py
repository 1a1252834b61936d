"""Something else answers in the Hub's place, or nothing can be asked: said in plain words, and the cache serves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_server import PAGE, Hub, online

from ebmcli.data import noted, remote
from ebmcli.errors import EBMError, Exit
from ebmcli.hub import Address, client, search
from ebmcli.models import lookup
from ebmcli.models.checkpoint import FILE
from ebmcli.models.pull import fetch
from ebmcli.publish import push
from ebmcli.publish.card import FILES

WHOLE = (lookup.bundled()["gmm-shortrun"] / FILE).read_bytes()
ADDRESS = Address("ann/gmm")
ELSE = "something else answers in its place"
HTML = PAGE["headers"]
LOOP = (("Location", "/api/models/ann/gmm"),)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub that this very process asks, with its cache in `tmp_path`, and tries at once."""
    from huggingface_hub import close_session, constants

    with Hub() as running:
        running.put(ADDRESS.repo, {FILE: WHOLE})
        for name, value in {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_ETAG_TIMEOUT": 0.3,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(client, "WAITS", (0.0,))
        yield running
        close_session()


ANSWERS: dict[str, tuple[dict, str]] = {
    "a page": (PAGE, ELSE),
    "a page and 403": ({**PAGE, "status": 403}, f"{ELSE} (403)"),
    "a page and 404": ({**PAGE, "status": 404}, f"{ELSE} (404)"),
    "a login for the proxy": ({**PAGE, "status": 407}, f"{ELSE} (407)"),
    "a login for the network": ({**PAGE, "status": 511}, f"{ELSE} (511)"),
    "a page and 502": ({**PAGE, "status": 502}, "a fault of its own (502)"),
    "nothing": ({"body": b""}, ELSE),
    "an empty object": ({"body": b"{}"}, ELSE),
    "a list": ({"body": b"[1, 2]"}, ELSE),
    "null": ({"body": b"null"}, ELSE),
    "no commit": ({"body": b'{"id": "ann/gmm", "sha": "master"}'}, ELSE),
    "half an object": ({"body": b'{"id": "ann/gmm", "sh'}, ELSE),
    "bytes": ({"body": b"\xff\xfe\x00\x80"}, ELSE),
    "deep": ({"body": b"[" * 100_000}, ELSE),
    "no gzip": ({"body": b"plain", "headers": (("Content-Encoding", "gzip"),)}, ELSE),
    "a loop": ({"body": b"", "status": 302, "headers": LOOP}, ELSE),
    "silence": ({"slow": 1.5}, "the Hub cannot be reached"),
    "hanging up": ({"drop": True}, "the Hub cannot be reached"),
    "a header that never ends": ({"body": b"", "headers": (("X", "y" * 200_000),)}, "the Hub cannot be reached"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_answers_is_not_the_hub(hub: Hub, case: str, caplog: pytest.LogCaptureFixture) -> None:
    what, said = ANSWERS[case]
    hub.fault("GET /api/models", **{"times": 99, **what})
    with pytest.raises(EBMError) as caught:
        fetch(ADDRESS)
    assert caught.value.code == Exit.HUB
    assert said in caught.value.message
    assert "ann/gmm" in caught.value.message
    assert caught.value.hint
    faults, hub.faults = hub.faults, []
    kept = fetch(ADDRESS)
    hub.faults = faults
    with caplog.at_level(logging.WARNING, "ebmcli.hub"):
        assert fetch(ADDRESS) == kept
    assert said in caplog.messages[-1]
    assert caplog.messages[-1].endswith(f"the copy of {kept.revision[:8]} in the cache serves")


@pytest.mark.parametrize("pattern", ["POST .*paths-info", "GET .*/resolve/", "HEAD .*/resolve/"])
def test_it_begins_to_answer_in_the_middle(hub: Hub, pattern: str) -> None:
    """Between the questions of one download; an older commit in the cache serves then, and nothing else is kept."""
    old = fetch(ADDRESS)
    hub.put(ADDRESS.repo, {"README.md": b"a later commit"})
    hub.fault(pattern, **PAGE)
    assert fetch(ADDRESS) == old
    hub.put("ann/other", {FILE: WHOLE})
    with pytest.raises(EBMError, match=ELSE) as caught:
        fetch(Address("ann/other"))
    assert caught.value.code == Exit.HUB


def test_every_way_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.fault("", **PAGE)
    (tmp_path / FILE).write_bytes(WHOLE)
    for ask in (
        lambda: search.search("gmm"),
        lambda: push.plan(tmp_path, ADDRESS),
        lambda: remote.fetch(Address("ann/pictures"), "train"),
    ):
        with pytest.raises(EBMError, match=ELSE) as caught:
            ask()
        assert caught.value.code == Exit.HUB


def test_a_data_set_in_the_cache_serves(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`data fetch --again`, where the newest commit cannot be asked for."""
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "cache"))
    sha = hub.put("ann/pictures", {"train.parquet": b"not read here"}, kind="dataset")
    part = noted.Part("ann/pictures", sha, "train", "image", ("train.parquet",), 1)
    noted.keep(Address("ann/pictures"), "train", part)
    assert remote.fetch(Address("ann/pictures"), "train") == part  # brings the file
    hub.fault("", **PAGE)
    assert remote.fetch(Address("ann/pictures"), "train", again=True) == part


def test_all_that_a_model_folder_may_hold_is_pushed(hub: Hub, tmp_path: Path) -> None:
    """The verdict of a long run too; what else lies there is for nobody else."""
    for name in (*FILES, "notes.txt"):
        (tmp_path / name).write_text(name)
    push.push(push.plan(tmp_path, Address("tester/judged")), message="judged")
    assert set(hub.files("tester/judged")) == set(FILES)
    assert "verdict.json" in FILES


SURROUNDINGS: dict[str, tuple[dict[str, str], str, str]] = {
    "socks": ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "needs the package socksio", "pip install socksio"),
    "a scheme that is none": ({"HTTP_PROXY": "gopher://127.0.0.1:9"}, "scheme", "HTTP_PROXY"),
    "a port that is none": ({"HTTP_PROXY": "http://127.0.0.1:port"}, "port", "HTTP_PROXY"),
    "nobody at the proxy": ({"HTTP_PROXY": "http://127.0.0.1:9"}, "cannot be reached", "proxy"),
    "no certificates": ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "cannot be reached", "SSL_CERT_FILE"),
    "a token on two lines": ({"HF_TOKEN": "hf_first\nhf_second\u00e9"}, "cannot be sent", "HF_TOKEN"),
}


@pytest.mark.parametrize("case", SURROUNDINGS)
def test_nothing_can_be_asked(hub: Hub, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import close_session

    environment, message, hint = SURROUNDINGS[case]
    kept = fetch(ADDRESS)
    close_session()
    monkeypatch.setitem(sys.modules, "socksio", None)
    for name in ("ALL_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy", "http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EBMError) as caught:
        fetch(Address("ann/other"))
    assert caught.value.code == Exit.HUB
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "hf_" not in caught.value.message
    assert fetch(ADDRESS) == kept


def test_the_command_goes_on_with_the_cache(hub: Hub, tmp_path: Path) -> None:
    online(hub, "pull", "ann/gmm", "--quiet", cwd=tmp_path, check=0)
    hub.fault("", **PAGE)
    ran = online(hub, "pull", f"{hub.url}/ann/gmm/tree/main", cwd=tmp_path, check=0)
    assert f"warning: the Hub cannot be reached for ann/gmm@main: {ELSE}; the copy of" in ran.stderr
    assert "next: ebm sample ann/gmm@main" in ran.stderr
