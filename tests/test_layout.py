"""Who may import whom: the table of levels, enforced; and what importing costs."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# Every file and folder directly in codec/. A new one needs a line here.
LEVELS = {
    "cli": 5,
    "train": 4,
    "lm": 4,
    "evaluate": 3,
    "transcode": 3,
    "shards": 3,
    "model": 2,
    "discriminators": 2,
    "corpora": 2,
    "quantize": 1,
    "layers": 1,
    "losses": 1,
    "audio": 1,
    "bitstream": 1,
    "tokens": 1,
    "choose": 0,
    "distributed": 0,
    "lazy": 0,
    "settings": 0,
    "whole": 0,
}
# The names that `import codec` offers come from levels 1 and 2: whoever uses them from inside stands above those.
PUBLIC_NAMES_LEVEL = 2

# The only places of packages that are heavy, or that not every installation can load.
HOMES = {
    "constriction": {"bitstream"},
    "accelerate": {"train"},
    "torchaudio": {"losses", "train"},
    "matplotlib": {"evaluate"},
    "pesq": {"evaluate"},
    "pystoi": {"evaluate"},
    "datasets": {"corpora"},
    "pyarrow": {"corpora", "shards"},
    "ray": {"shards"},
    "transformers": {"lm"},
}

# Packages that import what they offer when it is asked for: parts of them do without torch.
LAZY = {"codec", "model", "shards"}

MODULES = sorted((ROOT / "codec").rglob("*.py"))


class Import(NamedTuple):
    """An imported module: "codec.quantize.vector" is of the package codec and the piece quantize."""

    module: str
    line: int

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def piece(self) -> str | None:
        """The file or folder directly in codec/; None for another package, or for codec's own public names."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "codec" and len(parts) > 1 else None


def piece_of(path: Path) -> str:
    return path.relative_to(ROOT / "codec").parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[Import]:
    """All of them, inside functions too: an import that comes late still points somewhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(module, node.lineno) for module in modules_named_by(node, path))


def modules_named_by(node: ast.ImportFrom, path: Path) -> list[str]:
    module = node.module or ""
    if node.level:
        package = ("codec", *path.relative_to(ROOT / "codec").parts)[: -node.level]
        module = ".".join([*package, module]).rstrip(".")
    # In `from codec import quantize` the piece stands among the names.
    return (
        [f"codec.{alias.name}" if alias.name in LEVELS else "codec" for alias in node.names]
        if module == "codec"
        else [module]
    )


def points_down(importer: str, imported: Import) -> bool:
    if imported.package != "codec" or imported.piece == importer:
        return True
    level = LEVELS[importer]
    if imported.piece is None:
        return level > PUBLIC_NAMES_LEVEL
    # The pieces at the bottom are single files, of which one may build on another.
    return LEVELS[imported.piece] < level or LEVELS[imported.piece] == level == 0


def offences(allowed: Callable[[str, Import], bool]) -> list[str]:
    """Imports inside the package, but for its list of public names, for which `allowed(piece, import)` is false."""
    return [
        f"{path.relative_to(ROOT)}:{imported.line} imports {imported.module}"
        for path in MODULES
        if path != ROOT / "codec/__init__.py"
        for imported in imports_of(path)
        if not allowed(piece_of(path), imported)
    ]


def test_every_piece_of_the_package_has_a_level() -> None:
    pieces = {piece_of(path) for path in MODULES} - {"__init__"}
    assert pieces <= LEVELS.keys(), "new pieces need a line in LEVELS"


def test_imports_point_down_only() -> None:
    assert offences(points_down) == []


@pytest.mark.parametrize(
    ("importer", "statement", "allowed"),
    [
        ("model", "from codec.quantize import ResidualVQ", True),
        ("model", "from .codec import Codec", True),
        ("settings", "from codec.choose import choose", True),
        ("cli", "from codec import Codec", True),
        ("evaluate", "import codec.model.codec", True),
        ("quantize", "import codec.model", False),
        ("evaluate", "from codec.train.data import crops", False),
        ("bitstream", "from codec import audio", False),
        ("layers", "from ..losses import spectral", False),
        ("choose", "from codec import quantize", False),
        ("model", "def f():\n    from codec import Codec", False),
    ],
)
def test_the_rule_tells_down_from_up_and_sideways(importer: str, statement: str, allowed: bool) -> None:
    path = ROOT / "codec" / importer / "module.py"
    (node,) = [node for node in ast.walk(ast.parse(statement)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else modules_named_by(node, path)
    assert all(points_down(importer, Import(name, 1)) for name in names) == allowed


@pytest.mark.parametrize("package", HOMES)
def test_a_special_package_is_imported_only_where_it_is_at_home(package: str) -> None:
    assert offences(lambda piece, imported: imported.package != package or piece in HOMES[package]) == []


def test_quantize_needs_torch_and_einops_alone() -> None:
    known = {"codec", "torch", "einops", *sys.stdlib_module_names}
    assert offences(lambda piece, imported: piece != "quantize" or imported.package in known) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py" and path.parent.name not in LAZY], ids=piece_of
)
def test_an_init_file_holds_names_alone(path: Path) -> None:
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        text = ast.unparse(statement)
        names = isinstance(statement, ast.Assign) and text.startswith("__all__ =")
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        assert names or docstring or isinstance(statement, ast.Import | ast.ImportFrom), (
            f"line {statement.lineno}: {text}"
        )


def test_importing_the_package_loads_nothing_that_only_a_part_needs() -> None:
    loaded = run_python("import codec, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert "codec" in loaded
    assert set(loaded).isdisjoint(HOMES)


def test_importing_the_package_is_quick() -> None:
    assert cpu_seconds("import codec") < 2


def test_asking_the_program_for_help_is_quick() -> None:
    assert cpu_seconds("import sys; sys.argv = ['codec', '--help']; from codec.cli.main import main; main()") < 1.5


def cpu_seconds(code: str) -> float:
    """The best of three. Of the CPU, not of the clock, which on a busy machine measures the others."""
    report = "import atexit, sys, time; atexit.register(lambda: print('', time.process_time(), file=sys.stderr)); "
    return min(float(run_python(report + code, stream="stderr").split()[-1]) for _ in range(3))


def run_python(code: str, stream: str = "stdout") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stderr if stream == "stderr" else done.stdout
