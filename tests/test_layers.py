"""Arrows go down: who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "astroad_jax"

LEVELS = {
    "types": 0, "config": 0, "errors": 0, "faults": 0, "files": 0, "sampling": 0, "__init__": 0,
    "nets": 1, "preprocess": 1,
    "engine": 2, "methods": 2, "data": 2, "analysis": 2,
    "analysis.protocol": 3,
    "app": 4, "cli": 4, "__main__": 4,
}  # fmt: skip
WINGS = {"engine", "methods", "data", "analysis"}
# library -> where it may be imported at all
HOMES = {
    "tensorflow": ("data",),
    "tensorflow_datasets": ("data",),
    "sklearn": ("analysis",),
    "scipy": ("analysis",),
    "matplotlib": ("analysis.plots", "analysis.galleries"),
    "statmorph": ("analysis",),
    "photutils": ("analysis",),
    "astropy": ("data",),
    "h5py": ("data",),
    "PIL": ("data",),
    "flax": ("nets", "methods"),
    "optax": ("methods",),
    "orbax": ("engine.checkpoint",),
    "typer": ("cli",),
    "pandas": ("data",),
    "lsdb": ("app",),
    "hats": ("app",),
    "dask": ("app",),
    "distributed": ("app",),
}
# imported inside functions only, so that importing the package stays cheap
LAZY = {
    "tensorflow",
    "tensorflow_datasets",
    "sklearn",
    "scipy",
    "matplotlib",
    "astropy",
    "h5py",
    "PIL",
    "photutils",
    "pyarrow",
    "orbax",
    "statmorph",
    "tqdm",
    "pandas",
    "lsdb",
    "hats",
    "dask",
    "distributed",
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def level(module: str) -> int:
    if module in LEVELS:
        return LEVELS[module]
    return LEVELS[module.partition(".")[0]]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported module names, and whether the import stands at the top of the file (type checking apart)."""
    tree = ast.parse(path.read_text())
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def own(name: str) -> str | None:
    """Module of this package that an import names, None for others."""
    if not name.startswith("astroad_jax."):
        return None
    parts = name.split(".")[1:]
    while parts and not ((PACKAGE / Path(*parts)).with_suffix(".py").exists() or (PACKAGE / Path(*parts)).is_dir()):
        parts = parts[:-1]
    return ".".join(parts) or "__init__"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_go_down(path):
    module = name_of(path)
    wing = module.partition(".")[0]
    for name, _ in imports(path):
        target = own(name)
        if target is None:
            continue
        other = target.partition(".")[0]
        assert level(target) <= level(module), f"{module} imports {target}, which is above it"
        if level(module) == level(target) == 2 and wing in WINGS:
            assert other == wing, f"{module} imports {target}: the wings do not know each other"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_home(path):
    module = name_of(path)
    for name, at_top in imports(path):
        library = name.partition(".")[0]
        homes = HOMES.get(library)
        if homes is not None:
            assert any(module == home or module.startswith(f"{home}.") for home in homes), f"{module} imports {library}"
        assert not (library in LAZY and at_top), f"{module} imports {library} at the top"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 50, f"{name_of(path)}.{node.name}"


def test_everything_public_has_a_docstring():
    missing = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        missing += [] if ast.get_docstring(tree) else [name_of(path)]
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                missing.append(f"{name_of(path)}.{node.name}")
    assert not missing
