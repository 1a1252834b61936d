"""Tensors in safetensors files: written whole, the same bytes for the same content, and read with checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.storage import kinds
from ebmcli.storage.seals import KEY, MARK, Soundness

AGAIN = "get the file again"


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file's content; its header's keys are sorted, so that equal content is equal bytes."""
    # A copy each: safetensors refuses tensors that share memory (tied weights, buffers of both kinds).
    own = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    content = to_bytes(own, metadata=dict(metadata) if metadata else None)
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file.

    Raises:
        EBMError: it cannot be read; the message says what the file is instead, where that is plain.
    """
    if not path.is_file():
        raise EBMError(f"no checkpoint at {path}", "expected a safetensors file")
    try:
        kind = kinds.kind_of(path)
    except OSError as error:
        raise EBMError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    if kind in (kinds.PICKLE, kinds.TORCH):
        raise EBMError(
            f"{path} is a pickle, which can run code when read and is never opened",
            "expected a safetensors file written by ebm; for weights of others see ebm convert --help",
        )
    if kind is kinds.EMPTY:
        raise EBMError(f"{path} is empty", AGAIN)
    if kind is not None and kind is not kinds.SAFETENSORS:
        raise EBMError(f"{path} is not a whole safetensors file, but {kind.name}", kind.hint)
    try:
        with safe_open(path, framework="pt") as opened:
            return {k: opened.get_tensor(k) for k in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        # The library names types that torch may not have, and counts beyond what it can hold.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EBMError(f"{path} is not a whole safetensors file: {reason}", AGAIN) from error


def digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 over texts, and names, types, shapes and bytes of all tensors."""
    h = hashlib.sha256()
    for text in texts:
        h.update(text.encode() + b"\0")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + b"\0")
        h.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return h.hexdigest()


def pack_sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """As `pack`, with a checksum over everything in the metadata."""
    return pack(tensors, {**metadata, MARK: "yes", KEY: digest(tensors, _text(metadata))})


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str], Soundness]:
    """As `read_tensors`, and whether the seal holds or there is none; the metadata is without it.

    Raises:
        EBMError: as `read_tensors`; or it has another content than was sealed.
    """
    tensors, said = read_tensors(path)
    own = {k: v for k, v in said.items() if k not in (MARK, KEY)}
    state = Soundness.SOUND if len(said) > len(own) else Soundness.UNVERIFIABLE
    if state is Soundness.SOUND and (said.get(MARK), said.get(KEY)) != ("yes", digest(tensors, _text(own))):
        raise EBMError(f"{path} is damaged: its checksum is not that of its content", AGAIN)
    return tensors, own, state


def _text(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), sort_keys=True)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinite number; None where all are finite."""
    for name in sorted(tensors):
        tensor = tensors[name]
        # The least and the largest are NaN where anything is; no tensor of flags as large as the weights is made.
        if tensor.is_floating_point() and tensor.numel() and not bool(torch.isfinite(_ends(tensor)).all()):
            return name
    return None


def _ends(tensor: Tensor) -> Tensor:
    """Least and largest number of a tensor; of types that torch cannot compare, as float32."""
    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return torch.stack(tensor.aminmax())
