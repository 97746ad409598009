"""The direction of imports: each layer of the package knows only those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mbrl_lab"
LAYERS = [
    "types",
    "hardware",
    "ops",
    "nets",
    "priorities",
    "replay",
    "protocols",
    "env",
    "dynamics",
    "planner",
    "policy",
    "algo",
    "tracking",
    "scores",
    "monitor",
    "runner",
    "report",
    "config",
]
TOP = {
    "",
    "arithmetic",
    "app",
    "cli",
    "data",
    "doctor",
    "export",
    "hub",
    "paper",
    "play",
    "sweep",
    "tune",
    "trust",
    "warm_start",
}  # what puts a run together may import everything
NARROWER: dict[str, set[str]] = {"tracking": {"types", "protocols", "hardware", "ops", "env"}}

FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(file: Path) -> list[str]:
    """`mbrl_lab/env/atari.py` -> [env, atari], `mbrl_lab/env/__init__.py` -> [env]."""
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def layer(file: Path) -> str:
    return (dotted(file) or [""])[0]


def allowed(name: str) -> set[str]:
    """The layers that layer `name` may import from, itself among them."""
    return NARROWER.get(name, set(LAYERS[: LAYERS.index(name)])) | {name}


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from at_run_time(other)
        else:
            yield child
            yield from at_run_time(child)


def names_imported(nodes: Iterable[ast.AST], package: list[str]) -> Iterator[list[str]]:
    """The dotted names that nodes of a module import, those of `from` included; `package` resolves relative ones."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = above + (node.module.split(".") if node.module else [])
            yield from ([*source, alias.name] for alias in node.names)


def layers_imported(source: str, package: list[str]) -> set[str]:
    """The parts of mbrl_lab that a module's source imports; "" is mbrl_lab itself, as in `import mbrl_lab`."""
    names = names_imported(at_run_time(ast.parse(source)), package)
    inside = [[*name, ""] for name in names if name[0] == "mbrl_lab"]
    return {name[1] if name[1] in {*LAYERS, *TOP} else "" for name in inside}


def package_of(file: Path) -> list[str]:
    """The package relative imports in `file` start from."""
    return ["mbrl_lab", *file.parent.relative_to(PACKAGE).parts]


def test_every_module_has_its_place() -> None:
    assert {layer(file) for file in FILES} <= {*LAYERS, *TOP}


@pytest.mark.parametrize("file", [f for f in FILES if layer(f) in LAYERS], ids=lambda f: ".".join(dotted(f)))
def test_imports_point_up(file: Path) -> None:
    forbidden = layers_imported(file.read_text(), package_of(file)) - allowed(layer(file))
    assert not forbidden, f"{layer(file)} may import from {sorted(allowed(layer(file)))}, not from {sorted(forbidden)}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\nfrom mbrl_lab.types import Step", {"types"}),
        ("import mbrl_lab.runner as r", {"runner"}),
        ("from mbrl_lab import ops, make_run", {"ops", ""}),
        ("import mbrl_lab", {""}),
        ("from . import atari\nfrom ..replay import Replay", {"env", "replay"}),
        ("def late():\n    from mbrl_lab.algo.mpc import MPC", {"algo"}),
        ("if TYPE_CHECKING:\n    import mbrl_lab.algo\nelse:\n    import mbrl_lab.nets", {"nets"}),
    ],
)
def test_the_reader_of_imports(source: str, expected: set[str]) -> None:
    assert layers_imported(source, ["mbrl_lab", "env"]) == expected


def modules_imported(file: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports, under TYPE_CHECKING and inside functions too."""
    found = set()
    for name in names_imported(ast.walk(ast.parse(file.read_text())), package_of(file)):
        parts = name[1:] if name[0] == "mbrl_lab" else ["", ""]
        while parts and ".".join(parts) not in modules:
            parts = parts[:-1]  # a name that the module defines
        found |= {".".join(parts)} if name[0] == "mbrl_lab" else set()
    return found


def circle_in(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in turn; none: []."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_modules_import_each_other_even_for_types() -> None:
    modules = {".".join(dotted(file)): file for file in FILES}
    imports = {name: modules_imported(file, set(modules)) - {name} for name, file in modules.items()}
    assert sum(map(len, imports.values())) > 300, "the reader finds them"
    assert not circle_in(imports)


def test_circles_under_type_checking_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_imports.PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text("if TYPE_CHECKING:\n    from mbrl_lab.b import B\n")
    (tmp_path / "b.py").write_text("def late():\n    from mbrl_lab import a\n")
    imports = {name: modules_imported(tmp_path / f"{name}.py", {"", "a", "b"}) for name in ("a", "b")}
    assert imports == {"a": {"b"}, "b": {"a"}} and set(circle_in(imports)) == {"a", "b"}


def callers_of_instantiate(node: ast.AST, names: set[str], owner: str = "<module>") -> Iterator[str]:
    """The innermost function around each call of Hydra's instantiate, which a module knows by `names`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func) in names:
            yield owner
        inner = child.name if isinstance(child, ast.FunctionDef) else owner
        yield from callers_of_instantiate(child, names, inner)


def names_of_instantiate(tree: ast.AST) -> set[str]:
    """What a module may call Hydra's instantiate, whatever it imported it as."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    aliases = [alias for node in imports if (node.module or "").startswith("hydra") for alias in node.names]
    bound = {alias.asname or alias.name for alias in aliases if alias.name in ("instantiate", "call")}
    return bound | {"hydra.utils.instantiate", "utils.instantiate", "hydra.utils.call", "utils.call"}


def test_one_function_calls_instantiate() -> None:
    trees = {".".join(dotted(file)): ast.parse(file.read_text()) for file in FILES}
    callers = {
        (name, f) for name, tree in trees.items() for f in callers_of_instantiate(tree, names_of_instantiate(tree))
    }
    assert len(callers) == 1, f"one function builds everything, not {sorted(callers)}"
