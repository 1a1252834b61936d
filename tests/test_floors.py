"""The house: rooms in one order, imports that point down it, no circle; files that are short and explained."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ebmcli"

ROOMS = (
    *("text", "errors", "_version", "consent", "storage", "networks", "native", "random", "engine", "potential"),
    *("sampler", "recipe", "media", "hub", "data", "models", "evaluation", "longrun", "training", "landscape"),
    *("inspection", "publish", "bench", "cli", "__main__"),
)
"""The rooms of the house from the ground up: each may import those before it. docs/architecture.md describes them."""

CORE = (*("text", "errors", "_version", "consent", "networks", "native", "random", "engine", "potential", "sampler"),)
"""Rooms that need torch and numpy only."""

BARE = ("storage.disk", "storage.files", "storage.locks", "storage.private")
"""Modules that the core takes from elsewhere: they need the standard library only."""

NOT_IN_CORE = [
    "typer",
    "click",
    "rich",
    "pydantic",
    "huggingface_hub",
    "PIL",
    "safetensors",
    "tomlkit",
    "imageio",
    "matplotlib",
]
"""Packages without which the core must import."""

HEAVY = [
    "PIL",
    "arviz_stats",
    "av",
    "datasets",
    "huggingface_hub",
    "imageio",
    "matplotlib",
    "numpy",
    "pyarrow",
    "scipy",
    "tomlkit",
    "torch",
    "torchmetrics",
    "resource",
    "tomllib",
    "html",
    "inspect",
    "shutil",
    "copy",
]
"""Packages that a function may import by itself: they cost start-up time, or are not there on every system."""

LAZY: frozenset[tuple[str, str]] = frozenset(
    {
        ("data.images", "data.remote"),
        ("landscape.draw", "media"),
        ("landscape.draw", "media.plots"),
        ("longrun.report", "_version"),
        ("models.origin", "models.checkpoint"),
        ("potential", "publish.pretrained"),
        ("recipe.files", "recipe.mistakes"),
        ("sampler.metropolis", "random.streams"),
    }
)
"""Modules of ours that another imports inside a function, outside `cli`, where each command imports what it runs."""

UPWARD = {
    # There is one class Potential: the core samples from it, and a user calls the Hub's methods on it, as on the
    # Hub's own classes. Those four methods import what does their work when they are called, and nothing else does.
    ("potential", "publish.pretrained"),
    ("potential", "models.checkpoint"),  # for the types of their arguments only
}
"""The arrows that run up, and why each may."""

LONGEST_FILE = 415
"""Lines of a module; about 400 is meant."""
LONGEST_COMMAND = 75
"""Lines of a function in `cli`; about 60 is meant, and a command has a line for each of its options."""


class Import(NamedTuple):
    """One name that a file imports."""

    line: int
    target: str
    """the module's full name"""
    inside: bool
    """whether a function does"""


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.parts)


def module_name(path: Path) -> str:
    """`ebmcli.sampler.path` for `ebmcli/sampler/path.py`, `ebmcli.sampler` for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room_of(module: str) -> str:
    """`sampler` for `ebmcli.sampler.path`; the package itself, which imports names when they are asked for, is ""."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> Iterator[Import]:
    """Everything that a file imports, for its types too."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(n) for function in functions for n in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, id(node) in inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(node.lineno, inner if inner in MODULES else base, id(node) in inside)


def is_upward(path: Path, found: Import) -> bool:
    """Whether an import is one of those that may run up."""
    return (module_name(path).removeprefix("ebmcli."), found.target.removeprefix("ebmcli.")) in UPWARD


def own(path: Path) -> Iterator[Import]:
    """What a file imports of this package, but for `UPWARD`."""
    return (f for f in imports(path) if f.target.split(".")[0] == "ebmcli" and not is_upward(path, f))


def is_core(module: str) -> bool:
    """Whether a module belongs to the sampling core, or is one that the core takes from elsewhere."""
    return module == "ebmcli" or room_of(module) in CORE or module.removeprefix("ebmcli.") in BARE


def test_every_room_is_in_the_order() -> None:
    """A new room gets its place here, or the rules below would not see it."""
    assert {room_of(name) for name in MODULES} - {""} == set(ROOMS)


def test_imports_point_downwards() -> None:
    """No module imports one of a room above its own, for its types neither."""
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line} ({room_of(name)}) imports {found.target}"
        for name, path in MODULES.items()
        if name != "ebmcli"
        for found in own(path)
        if room_of(found.target) and place[room_of(found.target)] > place[room_of(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_what_may_run_up_does() -> None:
    """Each exception is needed: the import is there, inside a function or for types."""
    used = {
        (name.removeprefix("ebmcli."), found.target.removeprefix("ebmcli."))
        for name, path in MODULES.items()
        for found in imports(path)
        if is_upward(path, found)
    }
    assert used == UPWARD


def test_no_circle() -> None:
    """Modules can be put in one line, each importing those before it only."""
    waiting = {name: {f.target for f in own(path) if f.target in MODULES} - {name} for name, path in MODULES.items()}
    waiting.pop("ebmcli")
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


def test_the_core_names_torch_and_numpy_only() -> None:
    """The sampling core imports the standard library, torch and numpy, inside functions too."""
    allowed = {"ebmcli", "torch", "numpy"} | set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.target}"
        for name, path in MODULES.items()
        if is_core(name)
        for found in imports(path)
        if not is_upward(path, found)
        and (found.target.split(".")[0] not in allowed or (found.target in MODULES and not is_core(found.target)))
    ]
    wrong = [line for line in wrong if not line.startswith("ebmcli/__init__.py")]  # for its types
    assert not wrong, "\n".join(wrong)


def test_the_core_imports_with_the_rest_blocked(python) -> None:
    """It really does where the other packages cannot be found, whichever module is imported first."""
    core = [name for name in MODULES if is_core(name)]
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_IN_CORE!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}")
sys.meta_path.insert(0, Block())
for name in {core!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "ebmcli"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"{{name}}: {{error}}")
import ebmcli
assert ebmcli.Potential.__module__ == "ebmcli.potential"
assert not set({NOT_IN_CORE!r}) & set(sys.modules)
print("ok")
"""
    assert python("-c", code, check=0).stdout.strip() == "ok"


def test_functions_import_what_is_heavy_only() -> None:
    """Outside `cli`, an import stands at the top of its file, unless it costs start-up time or is in `LAZY`."""
    wrong, used = [], set()
    for name, path in MODULES.items():
        if room_of(name) in ("cli", "__main__", ""):
            continue
        for found in imports(path):
            pair = (name.removeprefix("ebmcli."), found.target.removeprefix("ebmcli."))
            if not found.inside or found.target.split(".")[0] in HEAVY:
                continue
            if pair in LAZY:
                used.add(pair)
            else:
                wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.target} inside a function")
    assert not wrong, "\n".join(wrong)
    assert used == LAZY, f"in LAZY, but not in the code: {sorted(LAZY - used)}"


def test_commands_are_thin() -> None:
    """No function in `cli` is long, its signature counted and its docstring not: the work belongs below."""
    wrong = []
    for name, path in MODULES.items():
        if room_of(name) != "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                explained = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                lines = node.end_lineno - node.lineno + 1 - explained
                if lines > LONGEST_COMMAND:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_documented(path: Path) -> None:
    """Under 400 lines; a docstring in the module, in public functions, classes and methods."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE, f"{path.name} has {text.count(chr(10))} lines; split it"
    tree = ast.parse(text)
    if not text.strip():
        return
    bare = [] if ast.get_docstring(tree) else [path.name]
    for node in tree.body:
        bare += undocumented(node)
    assert not bare, f"no docstring: {bare}"


def undocumented(node: ast.stmt, owner: str = "") -> list[str]:
    """Public names without a docstring in a class or function (`_x` is private, `forward` is torch's)."""
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    if node.name.startswith("_") or (owner and node.name == "forward"):
        return []
    name = f"{owner}{node.name}"
    decorated = {ast.unparse(item).split("(")[0].rpartition(".")[2] for item in node.decorator_list}
    bare = [] if ast.get_docstring(node) or decorated & {"overload", "setter", "override"} else [name]
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            bare += undocumented(child, f"{name}.")
    return bare


def test_the_architecture_names_files_that_exist() -> None:
    """Every file and room that docs/architecture.md names is there, and every room is named."""
    import re

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(\.\./([^)#]+)\)", text)
    named = [name for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|cpp))`", text) if not name.startswith("tests/")]
    missing = [p for p in linked if not (ROOT / p).exists()] + [p for p in named if not (PACKAGE / p).exists()]
    assert linked
    assert not missing, f"docs/architecture.md names what is not there: {missing}"
    unnamed = [room for room in ROOMS if f"`{room}" not in text and not room.startswith("_")]
    assert not unnamed, f"docs/architecture.md leaves out {unnamed}"
