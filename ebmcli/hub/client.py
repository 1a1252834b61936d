"""The one door to the Hub: its client, asked with retries and back-off; `faults` says what its failures mean."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ebmcli.errors import EBMError
from ebmcli.hub.address import Address, Kind
from ebmcli.hub.faults import (
    ANOTHER_HINT,
    HubError,
    answered_by_another,
    chain,
    explain,
    is_silent,
    offline,
    reason_of,
    told_to_wait,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


T = TypeVar("T")

log = logging.getLogger("ebmcli.hub")

_SHA = re.compile(r"[0-9a-f]{40}")
WAITS = (0.5, 1.0, 2.0)
"""Seconds before a second, third and fourth try."""
PATIENCE = 60.0
"""Seconds of silence after which the Hub is given up, where the client itself would wait for ever."""
_LONGEST_WAIT = 30.0
"""Seconds that a Hub which names a time is waited for."""
_NONSENSE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What the client raises over an answer that is JSON, but not the Hub's."""


class Fetched(NamedTuple):
    """A file in the cache, and the commit it is from."""

    path: Path
    repo: str
    revision: str
    """40 hexadecimal digits"""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit: 40 hexadecimal digits."""
    return bool(_SHA.fullmatch(revision))


def api(token: str | bool | None = None) -> HfApi:
    """The Hub's client, without bars and remarks of its own; what it retries is said through our log."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as chatter

    if not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        disable_progress_bars()
    chatter.disable_propagation()
    root = logging.getLogger("huggingface_hub")
    if not any(isinstance(handler, _Relay) for handler in root.handlers):
        root.handlers[:] = [_Relay()]
    return huggingface_hub.HfApi(token=token, library_name="ebmcli")


class _Relay(logging.Handler):
    """Passes on that the client tries again, in our words (its own name addresses that are nobody's business)."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Retrying" in text or "resume download" in text:
            log.warning("the Hub does not answer; trying again")


def attempt(what: str, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """`call(*arguments, **keywords)`, tried again where that can help; each further try is said.

    Args:
        what: the repository, for messages.

    Raises:
        EBMError: as `explain`.
    """
    for wait in (*WAITS, None):
        try:
            if not offline():
                _connect(what)
            return call(*arguments, **keywords)
        except EBMError:
            raise
        except Exception as error:
            known = explain(error, what)
            if known is None:
                raise
            longest = _pause(known, error, wait)
            if longest is None:
                raise known from error
            log.warning(f"{what}: {reason_of(error)}; trying again in {longest:g} s")
            time.sleep(longest)
    raise AssertionError("the last try returns or raises")


def ask(what: str, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """As `attempt`, for a single question of the client: an answer that it cannot make sense of is not the Hub's."""

    def asked() -> T:
        try:
            return call(*arguments, **keywords)
        except _NONSENSE as error:
            if isinstance(error, EBMError) or explain(error, what) is not None:
                raise
            raise answered_by_another(what) from error
        except RuntimeError as error:  # of the client's own downloader, which has no class for its failures
            raise HubError(
                f"the Hub cannot be reached for {what}: {reason_of(error)}", ANOTHER_HINT, passing=True
            ) from error

    return attempt(what, asked)


def commit_of(address: Address, kind: Kind = "model", token: str | bool | None = None) -> str:
    """The commit that an address stands for now: 40 hexadecimal digits.

    Raises:
        EBMError: as `explain`.
    """
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    hub = api(token)
    what = f"data set {address}" if kind == "dataset" else str(address)
    question: Callable[..., Any] = hub.dataset_info if kind == "dataset" else hub.model_info
    sha = str(ask(what, question, address.repo, revision=address.revision, timeout=HF_HUB_ETAG_TIMEOUT).sha)
    if not is_commit(sha):
        raise answered_by_another(what)
    return sha


def _connect(what: str) -> None:
    """Let the client set up its connections; proxies and certificates of the environment are looked at here.

    Raises:
        HubError: one of them is wrong, or needs a package that is missing.
    """
    from huggingface_hub.utils import get_session

    try:
        session = get_session()
    except Exception as error:  # whatever the environment makes of the client
        missing = next((one.name for one in chain(error) if isinstance(one, ImportError) and one.name), None)
        reason = f"its proxy needs the package {missing}" if missing else reason_of(error)
        hint = (
            f"pip install {missing}; or unset the proxy"
            if missing
            else ("check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE")
        )
        raise HubError(f"the Hub cannot be reached for {what}: {reason}", hint, passing=True) from error
    if getattr(getattr(session, "timeout", None), "read", 0) is None:
        session.timeout = PATIENCE


def _pause(known: EBMError, error: Exception, wait: float | None) -> float | None:
    """Seconds to wait before another try; None where none is left, or would help."""
    if wait is None or not getattr(known, "again", False):
        return None
    if is_silent(error) and wait > WAITS[0]:  # nobody is there: one more try is enough
        return None
    told = told_to_wait(error)
    return None if told > _LONGEST_WAIT else max(wait, told)
