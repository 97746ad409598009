"""init_from: a run that begins with the weights of another one, copied to the bit, and every way it can be rejected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics
from test_resume import assert_same_run, stopped, whole

from mbrl_lab import load_run, make_run
from mbrl_lab.cli import train as cli_train
from mbrl_lab.config import ConfigError, check, compose_config
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.state import module_state, optimizers

SHORT = ["runtime.device=cpu", "video.final=0", "eval.episodes=1", "eval.final_episodes=1", "log_every=40"]
TINY = [*SHORT, "eval.every=60", "checkpoint.every=50", "policy.width=16"]
SOFT = ["policy.critic.number=2", "policy.critic.norm=false"]
DDQN = [
    "ddqn",
    "cartpole",
    *TINY,
    "algo.warmup=40",
    "steps=120",
    "preset=none",
    "policy.exploration.epsilon_updates=100",
]
SAC = ["sac", "pendulum", *TINY, "algo.warmup=40", "steps=60", "algo.update.every=5", *SOFT]
MBPO = ["mbpo", "pendulum", *TINY, "algo.warmup=50", "steps=60", "dynamics.width=16", "debug=smoke", *SOFT]
MPC = [
    "mpc",
    "cartpole",
    *SHORT,
    "debug=smoke",
    "planner.population=16",
    "planner.horizon=4",
    "algo.warmup=50",
    "steps=60",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each, at its end."""
    home = tmp_path_factory.mktemp("sources")
    for name, words in {"ddqn": DDQN, "sac": SAC, "mbpo": MBPO, "mpc": MPC}.items():
        whole([*words, "seed=7"], home / name)
    return {path.name: path for path in home.iterdir()}


def weights(folder: Path, checkpoint: str = "last") -> dict[str, Any]:
    """What the algo had learned by a checkpoint."""
    loaded = Checkpoint(RunFolder(folder).checkpoint(checkpoint)).load()
    assert loaded is not None
    return dict(loaded.state["algo"]["weights"])


def began(words: list[str], folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """The weights that such a run begins with."""
    runner = make_run(*words, folder=folder, **settings)
    runner.envs.close()
    assert not any(opt.state for opt in optimizers(runner.algo).values()), "an optimizer remembers another run"
    return dict(module_state(runner.algo)["weights"])


@pytest.mark.parametrize(("name", "words"), [("ddqn", DDQN), ("sac", SAC), ("mbpo", MBPO), ("mpc", MPC)])
def test_weights_and_statistics_are_copied_to_the_bit_but_no_counters(
    name: str, words: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    saved, now = weights(sources[name]), began(words, tmp_path, init_from=sources[name])
    assert now.keys() == saved.keys()
    fresh = {key for key, x in now.items() if x.ndim == 0 and x.dtype == torch.int64}
    assert all(torch.equal(x, saved[key]) for key, x in now.items() if key not in fresh)
    assert all(int(now[key]) == 0 < int(saved[key]) for key in fresh)
    assert ("policy.updates" in fresh) == (name == "ddqn") and bool(now["ready"])


def test_the_sheet_lists_what_is_copied(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = began(DDQN, tmp_path, init_from=sources["ddqn"])
    copied = [x for key, x in now.items() if key.startswith("policy.") and key != "policy.updates"]
    learned = sum(x.numel() for x in copied if x.is_floating_point())
    assert capsys.readouterr().out.splitlines() == [
        f"init      {sources['ddqn'] / 'checkpoints' / 'last'}, step 120",
        "          ready: 1 tensors, 0 parameters",
        f"          policy: {len(copied)} tensors, {learned:,} parameters",
        "          not copied: optimizers, replay, policy.updates",
    ]


def test_another_checkpoint(sources: dict[str, Path], tmp_path: Path) -> None:
    best = weights(sources["ddqn"], "best")
    kept = shutil.copytree(sources["ddqn"] / "checkpoints" / "best", tmp_path / "kept")
    for k, checkpoint in enumerate(("best", str(kept))):
        now = began([*DDQN, f"init_checkpoint={checkpoint}"], tmp_path / str(k), init_from=sources["ddqn"])
        assert all(torch.equal(x, best[key]) for key, x in now.items() if key != "policy.updates")
    assert any(not torch.equal(x, weights(sources["ddqn"])[key]) for key, x in best.items()), "best is last here"


def test_a_part_is_copied_from_another_algo(sources: dict[str, Path], tmp_path: Path) -> None:
    """SAC's policy for MBPO, and MBPO's back; the rest begins as it would have."""
    fresh = began(MBPO, tmp_path / "fresh")
    now = began([*MBPO, "init_parts=[policy]"], tmp_path / "a", init_from=sources["sac"])
    saved = weights(sources["sac"])
    assert all(torch.equal(x, saved[key]) for key, x in now.items() if key.startswith("policy."))
    assert all(torch.equal(x, fresh[key]) for key, x in now.items() if not key.startswith("policy."))
    assert any(key.startswith("model.") for key in now) and not bool(now["ready"])
    both = began([*MBPO, "init_parts=[policy,dynamics]"], tmp_path / "b", init_from=sources["mbpo"])
    saved = weights(sources["mbpo"])
    assert all(torch.equal(x, saved[key]) for key, x in both.items() if key != "ready")


def test_it_trains_on_and_resumes_exactly_without_its_source(sources: dict[str, Path], tmp_path: Path) -> None:
    source = shutil.copytree(sources["ddqn"], tmp_path / "source")
    words = [*DDQN, f"init_from={source}", "seed=1"]
    runner = whole(words, tmp_path / "a")
    saved = weights(source)
    assert any(
        not torch.equal(x, saved[key])
        for key, x in module_state(runner.algo)["weights"].items()
        if key != "policy.updates"
    )
    fresh = whole([*DDQN, "seed=1"], tmp_path / "fresh")
    assert metrics(tmp_path / "a")[0] != metrics(tmp_path / "fresh")[0] and fresh.steps == runner.steps
    stopped(words, tmp_path / "b", 30)  # before its first checkpoint: it begins again
    stopped(words, tmp_path / "b", 77)
    shutil.rmtree(source)
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    loaded = load_run(tmp_path / "b")
    loaded.envs.close()
    assert loaded.steps == 120


def test_the_command_line_shows_it_once(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_train, "draw", lambda runner: [])
    algo, env, *rest = DDQN
    words = [f"algo={algo}", f"env={env}", *rest, f"init_from={sources['ddqn']}"]
    for steps, times in ((60, 1), (80, 0)):
        given = [*words, f"steps={steps}"]
        cli_train.run(compose_config(given), tmp_path, given)
        assert capsys.readouterr().out.count("\ninit      ") == times
    assert RunFolder(tmp_path).config()["init_from"] == str(sources["ddqn"])


def test_weights_that_do_not_fit_are_rejected_in_a_line(sources: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[list[str], str, str]] = [
        (
            [*DDQN, "policy.width=8"],
            "ddqn",
            r"does not fit: policy\.\S+ is \[16, 4\] there, \[8, 4\] here, .* and \d+ more",
        ),
        (
            DDQN,
            "sac",
            r"does not fit \(OffPolicy there, OffPolicy here\): only it has policy\.\S+, .*only this run has",
        ),
        (DDQN, "mpc", r"does not fit \(MPC there, OffPolicy here\): only it has model\..* init_parts=\[policy\] or"),
        (
            [*DDQN, "init_parts=[dynamics]"],
            "mpc",
            r"init_parts names dynamics, which this run does not have; it has policy",
        ),
        ([*MBPO, "init_parts=[dynamics]"], "sac", r"dynamics, which the run in .*sac does not have; it has policy"),
        ([*MPC, "init_parts=[value]"], "mpc", r"init_parts names value, which this run does not have; it has dynamics"),
        ([*DDQN, "init_checkpoint=bets"], "ddqn", r"bets holds no checkpoint; init_checkpoint can be last, best or a"),
    ]
    for k, (words, source, said) in enumerate(cases):
        with pytest.raises(ConfigError, match=said) as rejected:
            make_run(*words, folder=tmp_path / str(k), init_from=sources[source])
        assert "\n" not in str(rejected.value)
        assert not (tmp_path / str(k)).exists(), "nothing is left of a run that cannot begin"


def test_a_source_that_is_no_run(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, said in {"nowhere": "there is no such folder of a run", "empty": "holds no checkpoint; "}.items():
        with pytest.raises(ConfigError, match=said):
            make_run(*DDQN, folder=tmp_path / "run", init_from=tmp_path / source)
    with pytest.raises(ConfigError, match="this run's own folder: name another run, or leave it out"):
        make_run(*DDQN, folder=tmp_path / "run", init_from=tmp_path / "run")
    (tmp_path / "odd").mkdir()
    odd = Checkpoint(RunFolder(tmp_path / "odd").last)
    odd.save({"step": 3})
    with pytest.raises(ConfigError, match="is no checkpoint of a run"):
        make_run(*DDQN, folder=tmp_path / "run", init_from=tmp_path / "odd")
    odd.newest.write_bytes(b"cut short")
    with pytest.raises(ConfigError, match=r"^init_from is .*odd, which cannot be read: .*state.pt is damaged"):
        make_run(*DDQN, folder=tmp_path / "run", init_from=tmp_path / "odd")
    (tmp_path / "odd" / "config.yaml").write_text("algo: [")
    with pytest.raises(ConfigError, match=r"^init_from is .*odd, which cannot be read: .*config.yaml is damaged"):
        make_run(*DDQN, folder=tmp_path / "run", init_from=tmp_path / "odd")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("init_from=3", "init_from is 3; it must be null or a run's folder"),
        ("init_checkpoint=null", "init_checkpoint is None; it must be last, best or a checkpoint's folder"),
        ("init_parts=[planner]", "init_parts is .*; it must be null or a list of dynamics, policy, value"),
        ("init_parts=policy", "init_parts is 'policy'; it must be null or a list of"),
        ("init_parts=[]", "init_parts is .*; it must be null or a list of"),
    ],
)
def test_settings_that_cannot_be(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(compose_config(["algo=random", word]))
