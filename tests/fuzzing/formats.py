"""Damage inside formats with lengths and checksums, which are set right again to get past the first check."""

from __future__ import annotations

import functools
import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib

from fuzzing.mutate import (
    INTEGERS,
    NUMBERS,
    OTHERS,
    WORDS,
    Mutator,
    Random,
    json_lines,
    json_text,
    raw,
    splice,
    toml_text,
    tree,
    words,
)


def safetensors(r: Random, data: bytes) -> bytes:
    """Header or numbers changed, the header's length set right; now and then a document inside the metadata."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        notes = header.get("__metadata__") or {}
        inner = [key for key, text in notes.items() if text[:1] in "{[#"]
    except (ValueError, AttributeError, TypeError, RecursionError):  # not whole any more, by an earlier change
        return raw(r, data)
    body, how = data[8 + length :], r.randrange(10)
    if how < 5 and inner:
        key = r.choice(inner)
        change = json_text if notes[key][:1] in "{[" else toml_text
        notes[key] = change(r, notes[key].encode()).decode("utf-8", "replace")
    elif how < 8:
        header = tree(r, header)
    elif how == 8:
        body = raw(r, body)
    else:
        header = tree(r, {k: v for k, v in header.items() if k != "__metadata__"})
        header = {**header, "__metadata__": notes} if isinstance(header, dict) else header
    text = json.dumps(header).encode()
    if r.random() < 0.05:
        text = json_text(r, text)
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + body


def npy(r: Random, data: bytes) -> bytes:
    """The header's shape, type or order changed, its length set right."""
    if data[:6] != b"\x93NUMPY" or len(data) < 10:
        return raw(r, data)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    shape = re.search(r"\(.*?\)", header)
    how = r.randrange(8)
    if how < 4 and shape:
        parts = [p.strip() for p in shape[0][1:-1].split(",") if p.strip()]
        if parts and r.random() < 0.7:
            parts[r.randrange(len(parts))] = str(r.choice((*NUMBERS, 3, 4, 64)))
        else:
            parts = r.choice(([], ["0"], ["2"] * 5, ["1"] * 40, ["'a'"], ["None"], parts[::-1], parts[1:]))
        header = header.replace(shape[0], f"({', '.join(parts)},)" if parts else "()")
    elif how < 6:
        kinds = (
            "|O",
            "<f2",
            "<f4",
            "<f8",
            ">f4",
            "<f16",
            "<c8",
            "<i8",
            ">u2",
            "|b1",
            "|S5",
            "<U9",
            "<M8[s]",
            "|V1000000000",
            "x",
        )
        header = re.sub(r"'descr': '[^']*'", f"'descr': {r.choice(kinds)!r}", header)
        header = (
            header if r.random() < 0.7 else re.sub(r"'descr': '[^']*'", "'descr': [('a', '<f4'), ('b', 'O')]", header)
        )
    elif how == 6:
        header = r.choice(
            (header.replace("False", "True"), "{" * 300, "(" * 5000, "-" * 4000 + "1", "{}", "[]", "'\0'", "1" * 5000)
        )
    else:
        body = raw(r, body)
    text = (header.rstrip() + "\n").encode("latin-1", "replace")
    version = data[6:8] if r.random() < 0.9 else r.choice((b"\2\0", b"\3\0", b"\x09\0"))
    size = len(text).to_bytes(4 if version != b"\1\0" else 2, "little") if len(text) < 65536 else b"\xff\xff"
    return data[:6] + version + size + text + body


def zipped(change: Mutator) -> Mutator:
    """A zip with a changed member (its CRC right), an odd name, another method, or wrong sizes in its directory."""

    def mutate(r: Random, data: bytes) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:  # not a zip any more, by an earlier change
            return raw(r, data)
        at, how = r.randrange(max(1, len(files))), r.randrange(10)
        if not files:
            return raw(r, data)
        name, content = files[at]
        if how < 5:
            files[at] = (name, change(r, content))
        elif how == 5:
            files[at] = (
                r.choice((name.upper(), "../" + name, "/" + name, "C:" + name, "", "a/" * 400 + name, *WORDS[4:7])),
                content,
            )
        elif how == 6:
            files = [*files, (name, change(r, content)), *files]
        elif how == 7:
            del files[at]
        large = sum(len(content) for _, content in files) > 2**16
        method = (
            zipfile.ZIP_STORED
            if large
            else r.choice((zipfile.ZIP_STORED, *[zipfile.ZIP_DEFLATED] * 8, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
        )
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", method) as archive:
            for name, content in files:
                if how == 8 and content:  # a bomb, small enough to test with
                    content, method = content + b"\0" * 2**21, zipfile.ZIP_DEFLATED
                archive.writestr(
                    zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), content, compress_type=method
                )
        return _directory(r, made.getvalue()) if how == 9 else made.getvalue()

    return mutate


def _directory(r: Random, data: bytes) -> bytes:
    """A number in one of a zip's headers changed: method, sizes, offsets, flags, CRC."""
    heads = [m.start() for m in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", data)] or [0]
    at = r.choice(heads) + r.choice((6, 8, 10, 12, 16, 20, 24, 26, 28, 42))
    size = r.choice((2, 4))
    return data[:at] + (r.choice(INTEGERS) % 256**size).to_bytes(size, "little") + data[at + size :]


def tarred(change: Mutator) -> Mutator:
    """A tar with a changed member, an odd name or kind, or a number of its headers changed with its checksum right."""

    def mutate(r: Random, data: bytes) -> bytes:
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                files = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]  # type: ignore[union-attr]
        except Exception:  # not a tar any more
            return raw(r, data)
        if not files:
            return raw(r, data)
        at, made = r.randrange(len(files)), io.BytesIO()
        form = r.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        with tarfile.open(fileobj=made, mode="w", format=form) as archive:
            for number, (name, content) in enumerate(files):
                entry, how = tarfile.TarInfo(name), r.randrange(6)
                if number == at and how < 3:
                    content = change(r, content)
                elif number == at and how == 3:
                    entry.name = r.choice(("../" + name, "/" + name, "a/" * 40 + name, "\x1b[2J" + name, name + "\n"))
                elif number == at and how == 4:
                    entry.type, entry.linkname = r.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)), name
                entry.size = len(content) if entry.isfile() else 0
                archive.addfile(entry, io.BytesIO(content))
        packed = made.getvalue()
        if r.random() < 0.4:
            head = bytearray(packed[:512])
            start, size = r.choice(((100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (257, 8), (345, 10)))
            head[start : start + size] = r.choice(
                (b"7" * size, b"\xff" * size, b"\0" * size, b"-" * size, b"\x80" + b"\x7f" * (size - 1))
            )[:size]
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            packed = bytes(head) + packed[512:]
        return packed

    return mutate


def gzipped(change: Mutator) -> Mutator:
    """A gzip of a mutant; now and then one whose last bytes (CRC, length) are wrong, or a longer one."""

    def mutate(r: Random, data: bytes) -> bytes:
        try:
            inner = gzip.decompress(data)
        except Exception:  # not a gzip any more
            return raw(r, data)
        how = r.randrange(8)
        inner = change(r, inner) if how < 6 else inner + b"\0" * 2**21 if how == 6 else inner
        packed = gzip.compress(inner, 1, mtime=0)
        return raw(r, packed) if how == 7 else packed

    return mutate


def png(r: Random, data: bytes) -> bytes:
    """A PNG with one chunk changed, gone, doubled or new, the CRCs right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks or data[:4] != b"\x89PNG":
        return raw(r, data)
    at, how = r.randrange(len(chunks)), r.randrange(10)
    kind, content = chunks[at]
    if how < 4:
        texts = kind == b"tEXt" and b"\0" in content
        key, _, text = content.partition(b"\0")
        chunks[at] = (kind, key + b"\0" + json_text(r, text) if texts and r.random() < 0.7 else raw(r, content))
    elif how < 6:
        head = bytearray(chunks[0][1].ljust(13, b"\0"))
        place, number = r.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (12, 1)))
        value = r.choice((*INTEGERS, 3, 16)) % 256**number
        chunks[0] = (b"IHDR", bytes(head[:place]) + value.to_bytes(number, "big") + bytes(head[place + number :]))
    elif how == 6:
        del chunks[at]
    elif how == 7:
        chunks.insert(at, chunks[r.randrange(len(chunks))])
    else:
        bomb = _bomb(r.choice(b"[x"))
        new = r.choice(
            (
                (b"zTXt", b"ebm\0\0" + bomb),
                (b"iTXt", b"ebm\0\1\0\0\0" + bomb),
                (b"eXIf", r.randbytes(40)),
                (b"iCCP", b"a\0\0" + bomb),
                (b"tRNS", r.randbytes(6)),
                (b"acTL", r.randbytes(8)),
                (b"tEXt", b"ebm\0" + r.choice(OTHERS)),
            )
        )
        chunks.insert(1, new)
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@functools.cache
def _bomb(letter: int) -> bytes:
    return zlib.compress(bytes([letter]) * 2**24, 9)


def idx(r: Random, data: bytes) -> bytes:
    """One number of the header changed."""
    if r.random() < 0.3:
        return raw(r, data)
    at = 4 * r.randrange(4)
    return data[:at] + (r.choice((*INTEGERS, 3, 5)) % 2**32).to_bytes(4, "big") + data[at + 4 :]


KINDS: dict[str, Mutator] = {
    ".json": json_text,
    ".jsonl": json_lines,
    ".toml": toml_text,
    ".safetensors": safetensors,
    ".npy": npy,
    ".npz": zipped(npy),
    ".zip": zipped(png),
    ".pth": zipped(raw),
    ".tar": tarred(png),
    ".tgz": gzipped(tarred(png)),
    ".gz": gzipped(idx),
    ".png": png,
    ".words": words,
}
"""By the suffix of a file's name; all others get `raw` alone."""


def mutant(r: Random, name: str, data: bytes, other: bytes) -> bytes:
    """A mutant of a file: by its kind mostly, else of its bytes, or spliced with another sample."""
    kind = KINDS.get(name[name.rfind(".") :], idx if "ubyte" in name else raw)
    how = r.random()
    changed = kind(r, data) if how < 0.7 else raw(r, data) if how < 0.93 else splice(r, data, other)
    return kind(r, changed) if r.random() < 0.1 else changed
