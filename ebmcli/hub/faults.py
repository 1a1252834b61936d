"""What a failure on the way to the Hub means to the user, and what can be done: one line each."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ebmcli.errors import EBMError, Exit

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


_ANOTHER = "something else answers in its place"
_OFFLINE_HINT = "HF_HUB_OFFLINE=1 takes what is in the cache"
ANOTHER_HINT = f"sign in where the network asks for it, check the proxy and HF_ENDPOINT; {_OFFLINE_HINT}"
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
        _ANOTHER,
        ANOTHER_HINT,
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


def offline() -> bool:
    """Whether HF_HUB_OFFLINE asks for the cache only."""
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    )


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
    if any(type(one) is OSError and one.errno is None for one in chain(error)):
        return HubError(
            f"the download of {what} was cut short", "try again; what is whole already stays", passing=True, again=True
        )
    # A full disk is an OSError too, as are some failures of the network: the number tells.
    for one in chain(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            where = f" {one.filename}" if one.filename else ""
            return EBMError(
                f"cannot write{where or ' to the cache of the Hub'}: {os.strerror(one.errno or 0)}",
                "make room, or set HF_HOME to a folder on another disk",
            )
    for sort in _SORTS:
        if sort.kinds & names:
            says = sort.says.format(reason=reason_of(error))
            return HubError(f"the Hub cannot be reached for {what}: {says}", sort.hint, passing=True, again=sort.again)
    return None


def absent(what: str) -> HubError:
    """Not in the cache, and no network is wanted."""
    return HubError(
        f"{what} is not in the cache, and HF_HUB_OFFLINE allows no network", "fetch it once without HF_HUB_OFFLINE"
    )


def answered_by_another(what: str) -> HubError:
    """What answers is not the Hub: a page to sign in to the network, a proxy, or a wrong HF_ENDPOINT."""
    return HubError(f"the Hub cannot be reached for {what}: {_ANOTHER}", ANOTHER_HINT, passing=True)


def _of_status(status: int, names: set[str], what: str, error: Exception) -> HubError:
    if status == 429:
        told = told_to_wait(error)
        when = f"in {told:g} s" if told else "in some minutes"
        return HubError(
            f"the Hub has had too many requests (429), the last for {what}",
            f"try again {when}",
            passing=True,
            again=True,
        )
    if status in (407, 511):  # of a proxy, of a network that wants a login
        return HubError(f"the Hub cannot be reached for {what}: {_ANOTHER} ({status})", ANOTHER_HINT, passing=True)
    if status >= 500 or status == 408:
        return HubError(
            f"the Hub has a fault of its own ({status}) at {what}", "try again later", passing=True, again=status != 501
        )
    if _is_page(error):
        return HubError(f"the Hub cannot be reached for {what}: {_ANOTHER} ({status})", ANOTHER_HINT, passing=True)
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
    return HubError(f"the Hub refuses {what} ({status}): {reason_of(error)}", "check what was asked for")


def clean(text: str) -> str:
    """`text` on one line, without anything that is or looks like a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if len(os.environ.get(name, "")) >= _SHORTEST_TOKEN:
            text = text.replace(os.environ[name], "…")
    text = re.sub(r"hf_\w+|(?i:bearer )\S+", "…", re.sub(r"//[^/@\s]*@", "//", text))
    return " ".join(text.split())


def chain(error: BaseException) -> Iterator[BaseException]:
    """A failure, and one after the other what it came from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _kinds(error: BaseException) -> set[str]:
    """Names of the classes of a failure and of all that it came from."""
    return {cls.__name__ for one in chain(error) for cls in type(one).__mro__}


def _response(error: Exception) -> Any:
    """The answer of the nearest failure in the chain that has one with an error's status; None without."""
    for one in chain(error):
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


def is_silent(error: Exception) -> bool:
    """Whether nobody is there, or says a word."""
    return bool(_kinds(error) & {"ConnectError", "ConnectionRefusedError", "gaierror", "TimeoutException", "Timeout"})


def told_to_wait(error: Exception) -> float:
    """Seconds that the Hub names in Retry-After; 0 where it names none."""
    for one in chain(error):
        text = getattr(getattr(one, "response", None), "headers", {}).get("retry-after", "")
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
    return 0.0


def reason_of(error: Exception) -> str:
    """Why it failed, in a few words: the status, or the first line of what the failure at the bottom says."""
    status = _status(error)
    if status is not None:
        return f"status {status}"
    said = [lines[0] for one in chain(error) if (lines := str(one).strip().splitlines())]
    return clean(said[-1])[:160] if said else type(error).__name__


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
