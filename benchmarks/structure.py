"""How hard is the code to read? Counts over the package, and the path from one environment step to a gradient.

    python benchmarks/structure.py                 # this checkout
    python benchmarks/structure.py ../older        # another one, with the packages of this environment

Static: lines, comments, the widest constructors, type tests on parts (isinstance of a class of another folder of parts,
hasattr and getattr of a name) and the definitions of a world model (base classes and protocols that declare `imagine`,
`observe` or `features`, and those that trainers and algorithms ask a model to be).
Traced: the loop while models and policies learn; files of the package that it entered, those that only log or count
apart, and the greatest number of the package's functions that were open at once when a loss was differentiated.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PARTS = ("dynamics", "planner", "policy", "algo", "nets")
ASKING = (*PARTS, "report", "runner", "evaluation", "app")
"""Folders and modules in which a type test on a part counts."""

LOGGING = ("tracking", "monitor")
"""Folders and modules of the loop that are not about the step itself: they write the log, and warn."""

PATHS = {
    "DDQN on Atari": ("ddqn", "breakout"),
    "SAC": ("sac", "pendulum"),
    "MBPO on pixels": ("mbpo", "breakout"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--trace", nargs=2, metavar=("ALGO", "ENV"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trace:
        trace(*args.trace)
        return 0

    package = args.checkout.resolve() / "mbrl_lab"
    files = sorted(package.rglob("*.py"))
    trees = {file.relative_to(package): ast.parse(file.read_text()) for file in files}
    lines = sum(len(file.read_text().splitlines()) for file in files)
    own, at_end = comments(files)
    print(f"lines of the package            {lines}, {sum(map(code_lines, files))} of them code")
    print(f"comments, lines of their own    {own} ({1000 * own / lines:.0f} in a thousand)")
    print(f"comments at the end of a line   {at_end}")
    print(f"widest constructors             {', '.join(f'{name} {n}' for name, n in constructors(trees)[:5])}")
    tests = list(type_tests(trees))
    print(f"type tests on parts             {len(tests)}")
    for line in tests:
        print(f"    {line}")
    models = list(world_models(trees))
    print(f"definitions of a world model    {len(models)}: {', '.join(models)}")
    for name, (algo, env) in PATHS.items():
        command = [sys.executable, str(Path(__file__).resolve()), str(args.checkout), "--trace", algo, env]
        environment = os.environ | {"PYTHONPATH": str(args.checkout.resolve()), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(f"{name:32}{done.stdout.strip() or done.stderr.strip().splitlines()[-1]}")
    return 0


def code_lines(file: Path) -> int:
    """Lines that are neither blank nor a comment nor part of a docstring."""
    text = file.read_text()
    prose = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(n not in prose and bool(line.strip()) and not line.strip().startswith("#") for n, line in lines)


def comments(files: list[Path]) -> tuple[int, int]:
    """Comments on lines of their own, and at the ends of lines; notes to tools do not count."""
    own = at_end = 0
    for file in files:
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:", "# mypy")):
                alone = token.line.strip().startswith("#")
                own, at_end = own + alone, at_end + (not alone)
    return own, at_end


def constructors(trees: dict[Path, ast.Module]) -> list[tuple[str, int]]:
    """Arguments of each class's constructor, or fields of a dataclass, the most first."""
    found = []
    for node in classes(trees):
        inits = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
        for init in inits:
            found.append((node.name, len(init.args.args) + len(init.args.kwonlyargs) - 1))
        if not inits and any("dataclass" in ast.unparse(x) for x in node.decorator_list):
            found.append((node.name, sum(isinstance(x, ast.AnnAssign) for x in node.body)))
    return sorted(found, key=lambda pair: -pair[1])


def classes(trees: dict[Path, ast.Module]) -> Iterator[ast.ClassDef]:
    """Every class of the package."""
    for tree in trees.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def type_tests(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Where a part is asked which class it has, or whether it has an attribute."""
    home = {
        node.name: file.parts[0]
        for file, tree in trees.items()
        if file.parts[0] in PARTS
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for file, tree in trees.items():
        folder = file.with_suffix("").parts[0]
        if folder not in ASKING:
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 2):
                continue
            wanted = ast.unparse(node.args[1])
            names = {x.id for x in ast.walk(node.args[1]) if isinstance(x, ast.Name)}
            foreign = any(home.get(name, folder) != folder for name in names) or wanted == "nn.Module"
            asks_name = node.func.id in ("hasattr", "getattr") and folder != "nets"
            if (node.func.id == "isinstance" and foreign) or asks_name:
                yield f"{file}:{node.lineno}: {ast.unparse(node)}"


VERBS = {"imagine", "observe", "features", "unroll", "update", "recall", "fit"}
"""What a world model is asked for."""


def world_models(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Classes that say what a world model has to be: protocols, and bases with methods that others must write."""
    for node in classes(trees):
        methods = [x for x in node.body if isinstance(x, ast.FunctionDef)]
        open_ones = {x.name for x in methods if declares_only(x)} & VERBS
        protocol = any("Protocol" in ast.unparse(base) for base in node.bases)
        about_models = {"imagine", "observe", "recall", "unroll", "features"} & {x.name for x in methods}
        trained = protocol and any(word in node.name for word in ("Fit", "Model", "Visual", "Dreamt"))
        if (open_ones or protocol) and (about_models or trained) and "Polic" not in node.name:
            yield node.name


def declares_only(method: ast.FunctionDef) -> bool:
    """Whether its body is a docstring, `...` or an error that another class is to replace."""
    abstract = any("abstractmethod" in ast.unparse(x) for x in method.decorator_list)
    rest = [x for x in method.body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
    return abstract or not rest or (len(rest) == 1 and "NotImplementedError" in ast.unparse(rest[0]))


def trace(algo: str, env: str) -> None:
    """Print files and open functions of the loop in ten steps in which models and policies learn."""
    from reference import ENVS, words  # beside this file: it makes a run small

    import mbrl_lab
    from mbrl_lab import make_run

    family = next(family for family, name in ENVS.items() if name == env)
    with tempfile.TemporaryDirectory() as folder:
        runner = make_run(algo, env, *words(f"{algo}_{family}")[2:], "steps=110", "eval.every=0", folder=folder)
        watch = Watch(Path(str(mbrl_lab.__file__)).parent)
        advance = runner.advance

        def watched() -> None:
            sys.setprofile(watch.profile if 95 <= runner.steps < 105 else None)
            advance()
            sys.setprofile(None)

        runner.advance = watched  # type: ignore[method-assign]
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run()
    logging = [file for file in watch.files if file.startswith(LOGGING)]
    print(f"{len(watch.files) - len(logging)} files, {watch.deepest} calls; and {len(logging)} files that log")


class Watch:
    """Counts the package's files and its open functions while it is in force."""

    def __init__(self, package: Path) -> None:
        self.package, self.files, self.deepest = str(package), Counter[str](), 0

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.package):
            self.files[frame.f_code.co_filename.removeprefix(f"{self.package}{os.sep}")] += 1
            if "differentiate" in frame.f_code.co_name:
                self.deepest = max(self.deepest, self.open(frame))

    def open(self, frame: FrameType | None) -> int:
        """Functions of the package between the loop and this frame."""
        count = 0
        while frame is not None and frame.f_code.co_name != "advance":
            count += frame.f_code.co_filename.startswith(self.package) and not frame.f_code.co_name.startswith("<")
            frame = frame.f_back
        return count


if __name__ == "__main__":
    sys.exit(main())
