"""`ebm env`: what this installation is and runs on, for a report of a problem."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ebmcli._version import __version__
from ebmcli.cli._options import Json
from ebmcli.cli._output import Output
from ebmcli.storage.private import cache_folder

_PACKAGES = (
    "torch",
    "numpy",
    "typer",
    "rich",
    "pydantic",
    "tomlkit",
    "safetensors",
    "huggingface-hub",
    "pillow",
    "imageio",
    "av",
    "matplotlib",
    "datasets",
    "pyarrow",
)


def env(json: Json = False) -> None:
    """Show versions, devices, the engine and folders, for a report.

    Nothing secret is shown: of a Hub token only whether there is one.
    """
    out = Output(json=json)
    facts = gather()
    out.result(facts)
    out.table([(name, text) for name, text in _flat(facts)])


def gather() -> dict[str, Any]:
    """Every fact, by name; what cannot be found out says why, and stops nothing."""
    return {
        "ebm": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "cpu": {"name": cpu_name(), "cores": os.cpu_count(), "usable": _usable_cores()},
        "torch": _torch(),
        "compiler": _compiler(),
        "native_engine": _native(),
        "folders": {"cache": str(cache_folder()), "package": str(Path(__file__).resolve().parents[1])},
        "hub": _hub(),
        "settings": {
            name: os.environ[name]
            for name in ("EBM_MODEL", "EBM_CACHE", "EBM_DEBUG", "OMP_NUM_THREADS", "NO_COLOR")
            if name in os.environ
        },
    }


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _usable_cores() -> int | None:
    """Cores this process may use, where the system tells it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """What torch sees: threads and devices."""
    try:
        import torch
    except Exception as error:  # a broken torch is what a report is written for
        return {"error": f"{type(error).__name__}: {error}"}
    devices = {"cpu": cpu_name()}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return {"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": devices}


def _compiler() -> str | None:
    """The C++ compiler that the native engine is built with, and its version line."""
    try:
        from ebmcli.native.build import compiler

        command = compiler()
    except Exception:  # there is none, or a broken torch keeps the module from being imported
        return None
    try:
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: does not run ({error})"
    lines = run.stdout.splitlines()
    return f"{command[0]}: {lines[0]}" if lines else command[0]


def _native() -> dict[str, Any]:
    """Whether the compiled gradient engine runs here, or why not; and where it is kept."""
    try:
        from ebmcli.native import build as library

        available = library.available()
        where = library.folder()
        return {
            "available": available,
            "why_not": None if available else library.why_not(),
            "folder": str(where) if where else None,
        }
    except Exception as error:
        return {"available": False, "why_not": f"{type(error).__name__}: {error}", "folder": None}


def _hub() -> dict[str, Any]:
    """The Hub's settings; of the token only whether there is one."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    if os.environ.get("HF_TOKEN"):
        token = "set by HF_TOKEN"
    else:
        token_file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
        token = "saved by a login" if token_file.is_file() else "none"
    return {
        "home": str(home),
        "endpoint": re.sub(r"//[^/@]*@", "//", os.environ.get("HF_ENDPOINT", "https://huggingface.co")),
        "offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
        "token": token,
    }


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows of a dotted name and a text."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is None:
            rows.append((f"{prefix}{name}", "-"))
        else:
            rows.append((f"{prefix}{name}", str(value).lower() if isinstance(value, bool) else str(value)))
    return rows
