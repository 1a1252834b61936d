"""The one door to the Hub: addresses, retries with back-off, and its failures in one line each."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from ebmcli.errors import EBMError, Exit

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Kind = Literal["model", "dataset"]

log = logging.getLogger("ebmcli.hub")

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]{{0,199}}))?")
_FILES = (".toml", ".safetensors", ".png", ".npz", ".npy", ".gz", ".tgz", ".tar", ".zip", ".parquet", ".json", ".pth")
_SHA = re.compile(r"[0-9a-f]{40}")
WAITS = (0.5, 1.0, 2.0)
"""Seconds before a second, third and fourth try."""
_LONGEST_WAIT = 30.0
"""Seconds that a Hub which names a time is waited for."""
_PASSING = {408, 429, 500, 502, 503, 504}
_NETWORK = ("TransportError", "NetworkError", "TimeoutException", "ConnectionError", "Timeout", "ProtocolError")
"""Names of classes, since the client's own HTTP library changes with its version."""
_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}
LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


class Address(NamedTuple):
    """A repository on the Hub, `user/repo[@revision]`; the revision is a branch, a tag or a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


class Fetched(NamedTuple):
    """A file in the cache, and the commit it is from."""

    path: Path
    repo: str
    revision: str
    """40 hexadecimal digits"""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def parse(text: str) -> Address | None:
    """The address that `text` is, or None: a path, or a file's name, is no address."""
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match["repo"] or match["repo"].lower().endswith((*_FILES, ".git")):
        return None
    return Address(match["repo"], match["revision"])


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit: 40 hexadecimal digits."""
    return bool(_SHA.fullmatch(revision))


def offline() -> bool:
    """Whether HF_HUB_OFFLINE asks for the cache only."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    )


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
            return call(*arguments, **keywords)
        except EBMError:
            raise
        except Exception as error:
            longest = _pause(error, wait)
            if longest is None:
                known = explain(error, what)
                if known is None:
                    raise
                raise known from error
            log.warning(f"{what}: {_reason(error)}; trying again in {longest:g} s")
            time.sleep(longest)
    raise AssertionError("the last try returns or raises")


def _pause(error: Exception, wait: float | None) -> float | None:
    """Seconds to wait before another try; None where none is left, or would help."""
    if wait is None:
        return None
    status = _status(error)
    if status is not None and status not in _PASSING:
        return None
    if status is None and not (_is_network(error) or _is_half(error)):
        return None
    if _refused(error) and wait > WAITS[0]:  # nobody is there: one more try is enough
        return None
    told = _told_to_wait(error)
    return None if told > _LONGEST_WAIT else max(wait, told)


def explain(error: Exception, what: str) -> EBMError | None:
    """What a failure of the Hub, the network or the cache means, and what to do; None for any other.

    Exit code 4 for Hub and network, 1 for the disk. No token is ever in it.
    """
    names = {cls.__name__ for one in _chain(error) for cls in type(one).__mro__}
    status = _status(error)
    if "OfflineModeIsEnabled" in names or (offline() and "LocalEntryNotFoundError" in names):
        return absent(what)
    if status is not None or "HFValidationError" in names:
        return _of_status(status or 404, names, what, error)
    if _is_half(error):
        return _hub_error(f"the download of {what} was cut short", "try again; what is whole already stays")
    # A full disk is an OSError too, as are some failures of the network: the number tells.
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            where = f" {one.filename}" if one.filename else ""
            return EBMError(
                f"cannot write{where or ' to the cache of the Hub'}: {os.strerror(one.errno or 0)}",
                "make room, or set HF_HOME to a folder on another disk",
            )
    if _is_network(error) or "LocalEntryNotFoundError" in names:
        return _hub_error(
            f"the Hub cannot be reached for {what}: {_reason(error)}",
            "check the network or the proxy; HF_HUB_OFFLINE=1 takes what is in the cache",
        )
    return None


def absent(what: str) -> EBMError:
    """Not in the cache, and no network is wanted."""
    return _hub_error(
        f"{what} is not in the cache, and HF_HUB_OFFLINE allows no network", "fetch it once without HF_HUB_OFFLINE"
    )


def _of_status(status: int, names: set[str], what: str, error: Exception) -> EBMError:
    if "GatedRepoError" in names:
        return _hub_error(f"{what} is gated: its owners decide who may have it", f"ask on its page, then {LOGIN}")
    if "RevisionNotFoundError" in names:
        return _hub_error(f"{what} has no such revision", "give a branch, a tag or a commit that its page lists")
    if "EntryNotFoundError" in names:
        return _hub_error(f"{what} lacks a file that is needed", "is it a repository of ebm's?")
    if status == 401 and _has_token():
        return _hub_error(f"the Hub does not accept the login for {what} (401)", f"is the token still valid? {LOGIN}")
    if "DisabledRepoError" in names:
        return _hub_error(f"{what} was disabled by the Hub", "its page says why")
    if status in (401, 404) or "RepositoryNotFoundError" in names or "HFValidationError" in names:
        return _hub_error(f"the Hub has no {what}, or it is private", f"check the name; for a private one {LOGIN}")
    if status == 403:
        return _hub_error(f"the Hub refuses access to {what} (403)", f"a token with the right to it is needed: {LOGIN}")
    if status == 429:
        told = _told_to_wait(error)
        when = f"in {told:g} s" if told else "in some minutes"
        return _hub_error(f"the Hub has had too many requests (429), the last for {what}", f"try again {when}")
    if status >= 500:
        return _hub_error(f"the Hub has a fault of its own ({status}) at {what}", "try again later")
    return _hub_error(f"the Hub refuses {what} ({status}): {_reason(error)}", "check what was asked for")


def _hub_error(message: str, hint: str) -> EBMError:
    return EBMError(clean(message), hint, code=Exit.HUB)


def clean(text: str) -> str:
    """`text` on one line, without anything that is or looks like a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "…")
    text = re.sub(r"hf_\w+|(?i:bearer )\S+", "…", re.sub(r"//[^/@\s]*@", "//", text))
    return " ".join(text.split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _status(error: Exception) -> int | None:
    """HTTP status of the nearest failure in the chain that has one."""
    for one in _chain(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def _is_network(error: Exception) -> bool:
    names = [cls.__name__ for one in _chain(error) for cls in type(one).__mro__]
    return any(name in _NETWORK or name.endswith("ProtocolError") for name in names)


def _is_half(error: Exception) -> bool:
    return any("Consistency check failed" in str(one) for one in _chain(error))


def _refused(error: Exception) -> bool:
    return any(type(one).__name__ in ("ConnectError", "ConnectionRefusedError", "gaierror") for one in _chain(error))


def _told_to_wait(error: Exception) -> float:
    """Seconds that the Hub names in Retry-After; 0 where it names none."""
    for one in _chain(error):
        text = getattr(getattr(one, "response", None), "headers", {}).get("retry-after", "")
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
    return 0.0


def _reason(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"status {status}"
    deepest = next((one for one in reversed(list(_chain(error))) if str(one)), error)
    return clean(str(deepest).splitlines()[0])[:160] if str(deepest) else type(error).__name__


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
