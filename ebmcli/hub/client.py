"""The one door to the Hub: retries with back-off, and its failures in one line each."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ebmcli.errors import EBMError, Exit
from ebmcli.hub.address import Address, Kind

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
_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}
_SHORTEST_TOKEN = 8
"""Letters; what is shorter is no token, and to blot it out would spoil every word that has it."""
LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


class HubError(EBMError):
    """A failure of the Hub or of the way to it: exit code 4.

    Args:
        message: as `EBMError`.
        hint: as `EBMError`.
        passing: it says nothing of what was asked for (no network, a proxy, a fault of the Hub's own), so that a
            copy in the cache may serve.
        again: another try may help.
    """

    def __init__(self, message: str, hint: str = "", *, passing: bool = False, again: bool = False) -> None:
        super().__init__(clean(message), hint, code=Exit.HUB)
        self.passing = passing
        self.again = again


class _Sort(NamedTuple):
    """Failures on the way to the Hub that mean the same to the user."""

    kinds: frozenset[str]
    """names of exception classes, since the client's own HTTP library changes with its version"""
    says: str
    hint: str
    again: bool = False


_ELSE = "something else answers in its place"
_OFFLINE_HINT = "HF_HUB_OFFLINE=1 takes what is in the cache"
_ELSE_HINT = f"sign in where the network asks for it, check the proxy and HF_ENDPOINT; {_OFFLINE_HINT}"
_SORTS = (
    _Sort(
        frozenset({"LocalProtocolError", "UnicodeEncodeError", "InvalidHeader"}),
        "the question cannot be sent ({reason})",
        "HF_TOKEN must hold the token alone, and HF_ENDPOINT an address such as https://huggingface.co",
    ),
    _Sort(
        frozenset(
            {"FileMetadataError", "JSONDecodeError", "TooManyRedirects", "DecodingError", "ContentDecodingError"},
        ),
        _ELSE,
        _ELSE_HINT,
    ),
    _Sort(
        frozenset({"SSLError", "SSLCertVerificationError", "CertificateError"}),
        "no secure connection, or something else answers in its place ({reason})",
        f"is the clock right? a proxy's own certificate goes into SSL_CERT_FILE; {_OFFLINE_HINT}",
    ),
    _Sort(
        frozenset({"InvalidSchema"}),  # of the client's versions below 1, for SOCKS too
        "{reason}",
        "check the proxy; one of the kind SOCKS needs pip install pysocks",
    ),
    _Sort(
        frozenset({"InvalidURL", "UnsupportedProtocol", "MissingSchema", "InvalidProxyURL"}),
        "{reason}",
        "check HF_ENDPOINT, which begins with https://, and the proxy",
    ),
    _Sort(
        frozenset({"ProxyError"}),
        "the proxy does not let it through ({reason})",
        f"check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; {_OFFLINE_HINT}",
        again=True,
    ),
    _Sort(
        frozenset({
            "TransportError", "NetworkError", "TimeoutException", "ConnectionError", "Timeout", "ProtocolError",
            "XetDownloadError", "LocalEntryNotFoundError",
        }),
        "{reason}",
        f"check the network or the proxy; {_OFFLINE_HINT}",
        again=True,
    ),
)  # fmt: skip
"""The first that fits is meant."""

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
            log.warning(f"{what}: {_reason(error)}; trying again in {longest:g} s")
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
                f"the Hub cannot be reached for {what}: {_reason(error)}", _ELSE_HINT, passing=True
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
        missing = next((one.name for one in _chain(error) if isinstance(one, ImportError) and one.name), None)
        reason = f"its proxy needs the package {missing}" if missing else _reason(error)
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
    if _is_silent(error) and wait > WAITS[0]:  # nobody is there: one more try is enough
        return None
    told = _told_to_wait(error)
    return None if told > _LONGEST_WAIT else max(wait, told)


def explain(error: Exception, what: str) -> EBMError | None:
    """What a failure of the Hub, the network or the cache means, and what to do; None for any other.

    Told by the kinds of the exceptions, never by their words. Exit code 4 for Hub and network, 1 for the disk. No
    token is ever in it.
    """
    names = _kinds(error)
    status = _status(error)
    if "OfflineModeIsEnabled" in names or (offline() and "LocalEntryNotFoundError" in names):
        return absent(what)
    if status is not None or "HFValidationError" in names:
        return _of_status(status or 404, names, what, error)
    # The client's own remark that a file is shorter or longer than was told: an OSError, and not of the system.
    if any(type(one) is OSError and one.errno is None for one in _chain(error)):
        return HubError(
            f"the download of {what} was cut short", "try again; what is whole already stays", passing=True, again=True
        )
    # A full disk is an OSError too, as are some failures of the network: the number tells.
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            where = f" {one.filename}" if one.filename else ""
            return EBMError(
                f"cannot write{where or ' to the cache of the Hub'}: {os.strerror(one.errno or 0)}",
                "make room, or set HF_HOME to a folder on another disk",
            )
    for sort in _SORTS:
        if sort.kinds & names:
            says = sort.says.format(reason=_reason(error))
            return HubError(f"the Hub cannot be reached for {what}: {says}", sort.hint, passing=True, again=sort.again)
    return None


def absent(what: str) -> HubError:
    """Not in the cache, and no network is wanted."""
    return HubError(
        f"{what} is not in the cache, and HF_HUB_OFFLINE allows no network", "fetch it once without HF_HUB_OFFLINE"
    )


def answered_by_another(what: str) -> HubError:
    """What answers is not the Hub: a page to sign in to the network, a proxy, or a wrong HF_ENDPOINT."""
    return HubError(f"the Hub cannot be reached for {what}: {_ELSE}", _ELSE_HINT, passing=True)


def _of_status(status: int, names: set[str], what: str, error: Exception) -> HubError:
    if status == 429:
        told = _told_to_wait(error)
        when = f"in {told:g} s" if told else "in some minutes"
        return HubError(
            f"the Hub has had too many requests (429), the last for {what}",
            f"try again {when}",
            passing=True,
            again=True,
        )
    if status in (407, 511):  # of a proxy, of a network that wants a login
        return HubError(f"the Hub cannot be reached for {what}: {_ELSE} ({status})", _ELSE_HINT, passing=True)
    if status >= 500 or status == 408:
        return HubError(
            f"the Hub has a fault of its own ({status}) at {what}", "try again later", passing=True, again=status != 501
        )
    if _is_page(error):
        return HubError(f"the Hub cannot be reached for {what}: {_ELSE} ({status})", _ELSE_HINT, passing=True)
    if "GatedRepoError" in names:
        return HubError(f"{what} is gated: its owners decide who may have it", f"ask on its page, then {LOGIN}")
    if "RevisionNotFoundError" in names:
        return HubError(f"{what} has no such revision", "give a branch, a tag or a commit that its page lists")
    if "EntryNotFoundError" in names:
        return HubError(f"{what} lacks a file that is needed", "is it a repository of ebm's?")
    if status == 401 and _has_token():
        return HubError(f"the Hub does not accept the login for {what} (401)", f"is the token still valid? {LOGIN}")
    if "DisabledRepoError" in names:
        return HubError(f"{what} was disabled by the Hub", "its page says why")
    if status in (401, 404) or "RepositoryNotFoundError" in names or "HFValidationError" in names:
        return HubError(f"the Hub has no {what}, or it is private", f"check the name; for a private one {LOGIN}")
    if status == 403:
        return HubError(f"the Hub refuses access to {what} (403)", f"a token with the right to it is needed: {LOGIN}")
    return HubError(f"the Hub refuses {what} ({status}): {_reason(error)}", "check what was asked for")


def clean(text: str) -> str:
    """`text` on one line, without anything that is or looks like a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if len(os.environ.get(name, "")) >= _SHORTEST_TOKEN:
            text = text.replace(os.environ[name], "…")
    text = re.sub(r"hf_\w+|(?i:bearer )\S+", "…", re.sub(r"//[^/@\s]*@", "//", text))
    return " ".join(text.split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _kinds(error: BaseException) -> set[str]:
    """Names of the classes of a failure and of all that it came from."""
    return {cls.__name__ for one in _chain(error) for cls in type(one).__mro__}


def _response(error: Exception) -> Any:
    """The answer of the nearest failure in the chain that has one with an error's status; None without."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return response
    return None


def _status(error: Exception) -> int | None:
    """HTTP status of the failure, at least 400."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def _is_page(error: Exception) -> bool:
    """Whether the refusal came as a page for people, and without the code that the Hub gives with its own."""
    headers = getattr(_response(error), "headers", {})
    return "html" in headers.get("content-type", "").lower() and not headers.get("x-error-code")


def _is_silent(error: Exception) -> bool:
    """Whether nobody is there, or says a word."""
    return bool(_kinds(error) & {"ConnectError", "ConnectionRefusedError", "gaierror", "TimeoutException", "Timeout"})


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
    said = [lines[0] for one in _chain(error) if (lines := str(one).strip().splitlines())]
    return clean(said[-1])[:160] if said else type(error).__name__


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
