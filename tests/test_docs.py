"""What the pages say is so: links lead somewhere, commands compose, settings exist, and the examples run."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shlex
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mbrl_lab.app import make_run
from mbrl_lab.cli import compare as comparison
from mbrl_lab.cli import sweep as sweeping
from mbrl_lab.cli import tune as tuning
from mbrl_lab.cli.data import parser as data_parser
from mbrl_lab.cli.evaluate import parser
from mbrl_lab.cli.export import parser as export_parser
from mbrl_lab.cli.paper import parser as paper_parser
from mbrl_lab.cli.play import parser as play_parser
from mbrl_lab.cli.publish import parser as publish_parser
from mbrl_lab.cli.report import parser as report_parser
from mbrl_lab.config import CONF, check, compose_config
from mbrl_lab.config import composition as config
from mbrl_lab.config.messages import flat_keys
from mbrl_lab.tune.space import read_space

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "outputs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
FILES = (
    "py",
    "md",
    "yaml",
    "yml",
    "json",
    "jsonl",
    "csv",
    "bin",
    "txt",
    "mp4",
    "png",
    "pt",
    "toml",
    "log",
    "journal",
    "html",
    "safetensors",
    "onnx",
    "tex",
    "bib",
    "pdf",
)
NOT_SETTINGS = ("hydra", "torch", "mbrl_lab")


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link's part after # may be: headings in lower case, with dashes for blanks and no other signs."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{title(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{title(page)}: {link}"


def settings_of(file: Path) -> list[str]:
    """The dotted names that a config file sets, by its package."""
    text = file.read_text()
    header = re.search(r"^# @package (\S+)", text, re.M)
    package = header[1] if header else ".".join(file.parent.relative_to(CONF).parts)
    tree = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(tree, dict), file
    prefix = "" if package in ("_global_", "") else f"{package}."
    return flat_keys({str(k): v for k, v in tree.items()}, prefix)


SETTINGS = {key for file in CONF.rglob("*.yaml") for key in settings_of(file)}


def named_settings(page: Path) -> Iterator[str]:
    """`a.b.c` in code font that can be no file and no part of a package; of `a.b=c` what stands before the sign."""
    for code in re.findall(r"`'?([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", prose(page)):
        if code.split(".")[0] not in NOT_SETTINGS and code.split(".")[-1] not in FILES:
            yield code


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_settings_exist(page: Path) -> None:
    assert not (unknown := sorted(set(named_settings(page)) - SETTINGS)), f"{title(page)}: {unknown}"


def test_the_reader_of_settings_finds_them() -> None:
    found = [key for page in PAGES for key in named_settings(page)]
    assert {"dynamics.trainer.batch", "planner.horizon", "dynamics.known.termination_fn", "logger.wandb.mode"} <= set(
        found
    )


def commands(page: Path) -> list[list[str]]:
    """The command lines with scripts/... in a page's shell blocks, as words without `python`."""
    lines = [line for text in blocks(page, "bash") for line in text.splitlines()]
    words = [shlex.split(line.replace("$RUN", "outputs/demo"), comments=True) for line in lines]
    return [line[1:] for line in words if len(line) > 1 and line[1].startswith("scripts/")]


def sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Every combination of the comma lists; what stands in brackets is one value."""
    pairs = [o.partition("=") for o in overrides]
    parted = [(key, [values] if values.startswith("[") else values.split(",")) for key, _, values in pairs]
    yield from itertools.product(*[[f"{key}={value}" for value in values] for key, values in parted])  # type: ignore[misc]


def examples(language: str, folder: str) -> dict[str, str]:
    """Files that the pages show whole: blocks that begin with a path under `folder`, or with a package and a path."""
    first = re.compile(rf"(?:# @package \S+\n)?# ({folder}/\S+)\n")
    texts = [text for page in PAGES for text in blocks(page, language)]
    return {found[1]: text for text in texts if (found := first.match(text))}


@pytest.fixture(scope="module")
def conf_with_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config tree as if the examples had been added."""
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(CONF, root / "conf")
    for path, text in examples("yaml", "conf").items():
        (root / path).write_text(text)
    return root / "conf"


@pytest.fixture
def with_examples(conf_with_examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config tree and the package as if the examples had been added."""
    monkeypatch.setattr(config, "CONF", conf_with_examples)
    for path, text in examples("python", "mbrl_lab").items():
        module = types.ModuleType(path.removesuffix(".py").replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(text, path, "exec"), module.__dict__)


LINES = [(title(page), line) for page in PAGES for line in commands(page)]
assert len(LINES) > 20, LINES


@pytest.mark.parametrize(("page", "line"), LINES, ids=[" ".join(line) for _, line in LINES])
def test_commands_compose(page: str, line: list[str], with_examples: None) -> None:
    script, *words = line
    assert (ROOT / script).exists()
    if script == "scripts/evaluate.py":
        parser().parse_args(words)
        return
    if script == "scripts/play.py":
        play_parser().parse_args(words)
        return
    if script == "scripts/report.py":
        report_parser().parse_args(words)
        return
    if script == "scripts/paper.py":
        paper_parser().parse_args(words)
        return
    if script == "scripts/export.py":
        export_parser().parse_args(words)
        return
    if script == "scripts/publish.py":
        publish_parser().parse_args(words)
        return
    if script == "scripts/data.py":
        data_parser().parse_args(words)
        return
    if script == "scripts/compare.py":
        args = comparison.parser().parse_intermixed_args(words)
        algos = comparison.algos_of(args) if args.env else ()
        for algo in algos:
            check(compose_config(comparison.words(algo, args.env, 0, args.steps, args.words)))
        return
    if script == "scripts/sweep.py":
        sweeping.parser().parse_args(words)
        return
    if script == "scripts/tune.py":
        read_space(tuning.parser().parse_intermixed_args(words).space)
        return
    if "--explain" in words:
        key = words.pop(words.index("--explain") + 1)
        assert key in SETTINGS or (CONF / key).is_dir(), key
    overrides = [word for word in words if "=" in word]
    assert set(words) - set(overrides) <= {"-m", "--cfg", "job", "--explain"}
    for one in sweep(overrides) if {"-m", "launcher=parallel", "launcher=slurm"} & set(words) else [overrides]:
        check(compose_config(list(one)))


EXAMPLES = [
    "env=double_pendulum",
    "planner=exhaustive",
    "dynamics=huber",
    "policy=linear_q",
    "algo=sticky",
    "experiment=mine",
    "logger=returns",
]


@pytest.mark.parametrize("part", EXAMPLES)
def test_examples_run(part: str, with_examples: None, tmp_path: Path) -> None:
    words = dict(word.split("=") for word in ("algo=mpc", "env=cartpole", part))
    small = ["debug=smoke", "steps=102", "eval.every=0", "eval.final_episodes=1", "video.final=0"]
    if part.startswith("policy"):
        words["algo"] = "ddqn"
    if part.startswith("logger"):
        words["algo"] = "random"
        small = [*small, "logger.returns.metric=final/return"]
    if words["algo"] == "mpc":
        small += ["dynamics.trainer.max_updates=2", "planner.horizon=2"]
    others = [] if part.startswith(("algo", "env")) else [part]
    runner = make_run(words["algo"], words["env"], *others, *small, folder=tmp_path / "run")
    runner.run()
    runner.envs.close()
    assert runner.folder.status()["state"] == "done"
    if part == "logger=returns":
        assert re.fullmatch(r"102 \d+\.\d\n", (tmp_path / "run" / "returns.txt").read_text())


PYTHON = [(title(page), text) for page in PAGES for text in blocks(page, "python")]
assert len(PYTHON) > 5, PYTHON


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[f"{page}-{k}" for k, (page, _) in enumerate(PYTHON)])
def test_python_blocks_compile_and_import_what_exists(page: str, text: str) -> None:
    assert unknown_imports(ast.parse(text, page)) == []


def unknown_imports(tree: ast.Module) -> list[str]:
    """The names of this package that an example imports and that do not exist."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [(str(node.module), alias.name) for node in imports for alias in node.names]
    ours = [(module, name) for module, name in names if module.split(".")[0] == "mbrl_lab"]
    return [f"{module}.{name}" for module, name in ours if not hasattr(importlib.import_module(module), name)]


def test_the_reader_of_imports_finds_names_that_are_gone() -> None:
    tree = ast.parse(
        "import torch\nfrom mbrl_lab import make_run, nothing\ndef f():\n    from mbrl_lab.ops import gone"
    )
    assert unknown_imports(tree) == ["mbrl_lab.nothing", "mbrl_lab.ops.gone"]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    shown = re.findall(r"(?:^ {4}|^|`)make ([a-z0-9-]+)", page.read_text(), re.M)
    assert set(shown) <= targets, title(page)
