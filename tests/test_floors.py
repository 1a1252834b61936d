"""The package's floors: imports point downwards, the lower two need torch and numpy only; files are short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ebmcli"

FLOORS = {
    0: "consent cores device errors storage.disk storage.files storage.kinds storage.locks "
    "storage.paths storage.plain storage.private text types",
    1: "trainer diagnostics chains sampler potential networks optimizers guard philox",
    2: "landscape evaluation longrun recipe checkpoint hub run learning diagnosis sweep preflight sampling card bench "
    "data media models films convert foreign shortrun pretrained storage "
    "state_dicts verify",
    3: "cli __main__",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}

NOT_BELOW = (
    "typer",
    "click",
    "rich",
    "pydantic",
    "huggingface_hub",
    "PIL",
    "safetensors",
    "tomlkit",
    "imageio",
)
"""Packages without which floors 0 and 1 must import."""

LONGEST = 450
"""Lines of a module; about 400 is meant."""

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.parts)


def module_name(path: Path) -> str:
    """`ebmcli.sampler.path` for `ebmcli/sampler/path.py`, `ebmcli.sampler` for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def floor_of(module: str) -> int | None:
    """The floor a module of ours is on, by its own name or its folder's; None for one that is on no floor."""
    parts = module.split(".")[1:]
    return FLOOR.get(".".join(parts[:2]), FLOOR.get(parts[0])) if parts else None


def is_low(module: str) -> bool:
    """Whether a module is on floor 0 or 1; the package's own `__init__` counts, everything imports it."""
    return module == "ebmcli" or floor_of(module) in (0, 1)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, inside functions too."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else base


def test_every_module_is_on_a_floor() -> None:
    """A new module gets its floor here, or the rules below would not see it."""
    nowhere = [name for name in MODULES if name != "ebmcli" and floor_of(name) is None]
    assert not nowhere, f"on no floor (see FLOORS in {Path(__file__).name}): {nowhere}"


def test_imports_point_downwards() -> None:
    """No module imports one from a floor above its own."""
    wrong = []
    for name, path in MODULES.items():
        own = floor_of(name)
        for line, target in imports(path):
            above = floor_of(target) if target.split(".")[0] == "ebmcli" else None
            if own is not None and above is not None and above > own:
                wrong.append(f"{path.relative_to(ROOT)}:{line} (floor {own}) imports {target} (floor {above})")
    assert not wrong, "\n".join(wrong)


def test_lower_floors_name_torch_and_numpy_only() -> None:
    """Floors 0 and 1 import the standard library, torch and numpy only, inside functions too."""
    allowed = {"ebmcli", "torch", "numpy"} | set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in MODULES.items()
        if is_low(name)
        for line, target in imports(path)
        if target.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_lower_floors_import_with_the_rest_blocked(python) -> None:
    """They really do where the other packages cannot be found, whichever module is imported first."""
    low = [name for name in MODULES if is_low(name)]
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_BELOW!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}")
sys.meta_path.insert(0, Block())
for name in {low!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "ebmcli"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"{{name}}: {{error}}")
assert not set({NOT_BELOW!r}) & set(sys.modules)
print("ok")
"""
    assert python("-c", code, check=0).stdout.strip() == "ok"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_documented(path: Path) -> None:
    """Under about 400 lines; a docstring in the module, in public functions, classes and methods."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST, f"{path.name} has {text.count(chr(10))} lines; split it"
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
