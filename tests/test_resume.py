"""A run that was stopped in the middle of an episode ends as if it had not been, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from other_process import forked
from recipes import RECIPES, small
from runs import metrics
from torch.utils._pytree import tree_leaves

from mbrl_lab import make_run
from mbrl_lab.app import compose_config
from mbrl_lab.cli.train import AT_ONCE, resumed_line, run
from mbrl_lab.cli.train import main as train_command
from mbrl_lab.config.metrics import meaning
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.checkpoint import Checkpoint, Damaged, read
from mbrl_lab.tracking.folder import RunFolder, RunRefused
from mbrl_lab.tracking.state import module_state


class Stopped(Exception):
    """The machine is gone."""


def arguments(recipe: str, *more: str) -> list[str]:
    algo, env, *rest = small(recipe)
    return [algo[5:], env[4:], *rest, "log_every=40", "eval.every=60", *more]


def whole(words: list[str], folder: Path) -> Runner:
    runner = make_run(*words, folder=folder)
    runner.run()
    runner.envs.close()
    return runner


def stopped(words: list[str], folder: Path, after: int) -> Runner:
    """Run until `after` steps of the loop were taken, and no further."""
    runner = make_run(*words, folder=folder)
    advance, taken = runner.advance, iter(range(after))

    def advance_or_stop() -> None:
        if next(taken, None) is None:
            raise Stopped
        advance()

    runner.advance = advance_or_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        runner.run()
    runner.envs.close()
    return runner


def same(a: Any, b: Any) -> bool:
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def assert_same_run(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    unknown = {name for row in metrics(a) for name in row if meaning(name) is None}
    assert not unknown, "mbrl_lab/config/metrics.py says what each logged name means"
    for name in ("episodes.jsonl", "actions.bin"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert best_step(a) == best_step(b)
    one, other = (Checkpoint(RunFolder(path).last).load() for path in (a, b))
    assert one is not None and other is not None
    for loaded in (one, other):
        del loaded.state["seconds"], loaded.state["processor"], loaded.state["evaluating"]
        del loaded.state["tracker"]["metrics"]  # bytes, of which times take more or fewer
        for numbers in loaded.state["metrics"].values():
            numbers.pop("time/plan", None)
    for key in one.state:
        assert same(one.state[key], other.state[key]), f"{key} differs at the end"
    assert same(last_steps(one.steps), last_steps(other.steps)), "replay differs at the end"


def best_step(folder: Path) -> int | None:
    best = Checkpoint(RunFolder(folder).best).load()
    return best and best.state["step"]


def saved_state(folder: Path) -> dict[str, Any]:
    saved = Checkpoint(RunFolder(folder).last).load()
    assert saved is not None
    return saved.state


def last_steps(chunks: Any) -> list[torch.Tensor]:
    """[T, B] per field, whatever chunks they came in."""
    return [torch.cat(field) for field in zip(*(step for _, step in chunks), strict=True)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_and_resumes_exactly(recipe: str, tmp_path: Path) -> None:
    words = arguments(recipe, "checkpoint.every=37", "seed=2")
    a = whole(words, tmp_path / "a")
    rows = metrics(tmp_path / "a")
    assert [row["step"] for row in rows] == [40, 60, 80, 120, 150]
    assert "eval/return" in rows[1] and "final/return" in rows[-1]
    assert a.folder.status()["state"] == "done"
    stopped(words, tmp_path / "b", 133)
    assert metrics(tmp_path / "b")[-1]["step"] == 120, "a row since the checkpoint at 111 is there, to be cut"
    first = saved_state(tmp_path / "b")
    stopped(words, tmp_path / "b", 38)  # from 111, where what the fit at 100 said waits for the next row, to 149
    second = saved_state(tmp_path / "b")
    assert (first["step"], second["step"]) == (111, 148)
    assert any(len(x["envs"]["actions"][0]) for x in (first, second)), "one stands in the middle of an episode"
    b = whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert same(module_state(a.algo), module_state(b.algo))
    assert RunFolder(tmp_path / "b").status()["attempt"] == 3


PPO = ["policy.normalise.obs=true", "policy.normalise.reward=true", "policy.optim.anneal_updates=9", "algo.horizon=10"]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("mpc_discrete", ["dynamics.trainer.bootstrap=true"]), ("ppo_continuous", PPO)],
    ids=["mpc", "ppo"],
)
def test_several_environments_and_a_full_ring_resume_exactly(recipe: str, options: list[str], tmp_path: Path) -> None:
    words = arguments(recipe, "env.num=3", "checkpoint.every=50", "replay.capacity=110", *options, "steps=220")
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 61)  # 183 steps
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("mpc_discrete", ["planner=icem", "planner.elites=4", "planner.iterations=2"]),
        ("mpc_discrete", ["value=ddqn"]),
        (
            "mpc_continuous",
            ["planner=random_shooting", "dynamics.imagination.propagation=ts1", "dynamics.regression.noise=0.01"],
        ),
        (
            "mpc_continuous",
            ["dynamics.regression.gaussian=true", "planner=icem", "planner.elites=4", "planner.iterations=2"],
        ),
    ],
    ids=["icem", "value", "random_shooting", "gaussian"],
)
def test_other_planners_and_models_resume_exactly(recipe: str, options: list[str], tmp_path: Path) -> None:
    kept = [word for word in arguments(recipe) if not word.startswith("planner.")]
    words = [*kept, *options, "planner.population=16", "planner.horizon=5"]
    words += ["steps=170", "dynamics.trainer.max_updates=3", "eval.every=0", "checkpoint.every=41"]
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 140)
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_the_control_suite_resumes_exactly(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    words = ["sac", "dmc", "env.task=point_mass-hard", "env.frame_skip=40", "debug=smoke", "video.final=0", "steps=60"]
    words += ["log_every=20", "eval.every=0", "eval.final_episodes=1", "eval.num=1", "checkpoint.every=37", "seed=2"]
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 45)
    assert len(saved_state(tmp_path / "b")["envs"]["actions"][0]) == 11, "in the second episode, of 25 steps"
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


BBF = [
    *[
        "algo.update.every=1",
        "algo.priority_exponent=0.5",
        "policy.resets.every=30",
        "policy.resets.n_step_start=5",
        "policy.resets.gamma_start=0.9",
    ],
    *["policy.resets.anneal_updates=20", "policy.head.atoms=11", "policy.head.dueling=true"],
]


def test_priorities_resets_and_what_they_anneal_resume_exactly(tmp_path: Path) -> None:
    words = arguments("ddqn_discrete", "env.num=2", "checkpoint.every=37", "replay.capacity=90", *BBF)
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 73)
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_an_attempt_without_a_checkpoint_resumes_from_the_start(tmp_path: Path) -> None:
    words = arguments("random_discrete", "checkpoint.every=0")
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 100)
    assert metrics(tmp_path / "b") and not (tmp_path / "b" / "checkpoints" / "last").exists()
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("kept", [2, 3])
def test_where_the_newest_two_checkpoints_are_damaged_an_older_one_is_resumed_if_it_was_kept(
    kept: int, tmp_path: Path
) -> None:
    words = arguments("random_discrete", "checkpoint.every=10", f"checkpoint.keep_last={kept}", "eval.every=0")
    stopped(words, tmp_path / "run", 35)
    last = tmp_path / "run" / "checkpoints" / "last"
    assert (last / "state.prev2.pt").exists() == (kept == 3)
    for name in ("state.pt", "state.prev.pt"):
        (last / name).write_bytes(b"damaged")
    if kept == 2:
        with pytest.raises(Damaged, match="is damaged"):
            whole(words, tmp_path / "run")
    else:
        saved = read(last / "state.prev2.pt")["state"]["step"]
        assert stopped(words, tmp_path / "run", 0).steps == saved > 0


def test_a_done_run_resumes_for_more_steps(tmp_path: Path) -> None:
    words = arguments("random_continuous", "eval.every=0", "eval.final_episodes=1")
    whole([*words, "steps=83"], tmp_path / "b")
    whole([*words, "steps=151"], tmp_path / "b")
    whole([*words, "steps=151"], tmp_path / "a")
    without_final = [row for row in metrics(tmp_path / "b") if "final/return" not in row]
    assert without_final == metrics(tmp_path / "a")[:-1]
    assert metrics(tmp_path / "b")[-1] == metrics(tmp_path / "a")[-1]


STOP = ["stop.metric=train/length", "stop.target=22", "stop.window=3", "steps=2000", "log_every=40", "eval.every=0"]
STOP += ["env.make.max_episode_steps=40"]


def test_a_run_that_is_good_enough_stops_where_it_would_have(tmp_path: Path) -> None:
    words = arguments("random_discrete", *STOP, "checkpoint.every=37", "eval.final_episodes=1", "seed=1")
    a = whole(words, tmp_path / "a")
    assert 160 < a.steps < 2000, "its window was not full in one of the two attempts"
    stopped(words, tmp_path / "b", a.steps - 30)
    assert len(Checkpoint(RunFolder(tmp_path / "b").last).load().state["monitor"]["values"]) == 3  # type: ignore[union-attr]
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_run_that_stopped_early_resumes_with_a_higher_target(tmp_path: Path) -> None:
    words = arguments("random_discrete", *STOP, "eval.final_episodes=1")
    first = whole(words, tmp_path).steps
    with pytest.raises(RunRefused, match="is done"):
        make_run(*words, folder=tmp_path)
    assert whole([*words, "stop.metric=null", "stop.target=null", "steps=600"], tmp_path).steps == 600 > first


def test_a_signal_saves_and_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments("random_discrete", "checkpoint.every=0")
    whole(words, tmp_path / "a")
    runner = make_run(*words, folder=tmp_path / "b")
    advance = runner.advance

    def with_a_signal() -> None:
        advance()
        if runner.steps == 77:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runner, "advance", with_a_signal)
    with pytest.raises(SystemExit) as stop:
        runner.run()
    assert stop.value.code == 128 + signal.SIGTERM
    status = runner.folder.status()
    assert (status["state"], status["step"]) == ("preempted", 77)
    # What to do comes after the line of progress.
    progress, last = capsys.readouterr().err.splitlines()[-2:]
    assert "77/" in progress and last.startswith("stopped: the same command")
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_signal_after_the_final_evaluation_is_heard_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = arguments("random_discrete", "eval.every=0")
    whole(words, tmp_path / "a")
    runner = make_run(*words, folder=tmp_path / "b")
    log = runner.log

    def with_a_signal() -> None:
        if "final/return" in runner.metrics.sums:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it was not heard")
        log()

    monkeypatch.setattr(runner, "log", with_a_signal)
    with pytest.raises(SystemExit) as stop:
        runner.run()
    assert stop.value.code == 128 + signal.SIGTERM and runner.folder.status()["state"] == "preempted"
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_killed_process_and_a_preempted_one_resume(tmp_path: Path) -> None:
    words = [*arguments("mpc_discrete"), "steps=150", "checkpoint.every=33", "log_every=10", "eval.every=90"]
    words += ["planner.horizon=3", "planner.population=8", "dynamics.trainer.max_updates=3", "eval.final_episodes=1"]
    whole(words, tmp_path / "a")
    folder = tmp_path / "b"
    line = [f"algo={words[0]}", f"env={words[1]}", *words[2:], f"hydra.run.dir={folder}"]

    def train(step: int, number: signal.Signals) -> int | None:
        """The exit code of the command in a process that gets a signal after a step."""
        advance = Runner.advance

        def advance_and_signal(runner: Runner) -> None:
            advance(runner)
            if runner.steps == step:
                os.kill(os.getpid(), number)

        def work() -> None:
            Runner.advance = advance_and_signal  # type: ignore[method-assign]
            train_command(line)

        process = forked(work, tmp_path)
        process.join()
        return process.exitcode

    assert train(80, signal.SIGKILL) == -signal.SIGKILL
    assert metrics(folder)[-1]["step"] == 80, "rows since the checkpoint at 66 are there, to be cut"
    assert RunFolder(folder).status()["state"] == "running"
    assert train(120, signal.SIGTERM) == 128 + signal.SIGTERM, (tmp_path / "err").read_text()
    assert ", attempt 2; the last attempt was killed\n" in (tmp_path / "out").read_text()
    assert RunFolder(folder).status()["state"] == "preempted"
    whole(words, folder)
    assert RunFolder(folder).status()["state"] == "done" and RunFolder(folder).status()["attempt"] == 3
    assert_same_run(tmp_path / "a", folder)


@pytest.mark.parametrize(
    ("state", "error", "how"),
    [
        ("preempted", None, "preempted by a signal"),
        ("running", None, "killed"),
        ("failed", "x is wrong\nso fix it", "a failure: x is wrong"),
        ("failed", "Traceback ...:\n  line\nKeyError: 3", "a failure: KeyError: 3"),
        ("failed", "killed by SIGKILL", "killed by SIGKILL"),
        ("failed", AT_ONCE, "stopped immediately by a second Ctrl-C"),
        ("done", None, "done"),
    ],
)
def test_the_line_of_a_resume_says_how_the_last_attempt_stopped(
    state: str, error: str | None, how: str, tmp_path: Path
) -> None:
    before = {"state": state, "error": error, "step": 77, "attempt": 1}
    folder = RunFolder(tmp_path)
    late = ", before its first checkpoint (checkpoint.every)"
    assert resumed_line(folder, before) == f"resumed   at step 0, attempt 2; the last attempt was {how}{late}"
    Checkpoint(folder.last).save({"step": 1040})
    assert resumed_line(folder, before) == f"resumed   at step 1,040, attempt 2; the last attempt was {how}"


def test_a_second_interrupt_is_noted_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(runner: Runner) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", interrupted)
    words = ["algo=random", "env=cartpole", "debug=smoke"]
    with pytest.raises(KeyboardInterrupt):
        run(compose_config(words), tmp_path, words)
    status = RunFolder(tmp_path).status()
    assert (status["state"], status["error"]) == ("failed", AT_ONCE)


def test_a_first_interrupt_preempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Runner.advance

    def interrupted(runner: Runner) -> None:
        advance(runner)
        if runner.steps == 60:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Runner, "advance", interrupted)
    words = ["algo=random", "env=cartpole", "debug=smoke"]
    with pytest.raises(KeyboardInterrupt):
        run(compose_config(words), tmp_path, words)
    status = RunFolder(tmp_path).status()
    assert (status["state"], status["step"], status["error"]) == ("preempted", 60, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("late", ["mbrl_lab.cli.train.draw", "mbrl_lab.tracking.tracker.Tracker.film_final"])
def test_a_signal_while_pictures_are_drawn_leaves_the_run_done_and_names_what_draws_them(
    late: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("it was not heard")

    monkeypatch.setattr(late, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            train_command(["algo=random", "debug=smoke", "steps=20", "video.final=1", f"hydra.run.dir={tmp_path}"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 128 + number and RunFolder(tmp_path).status()["state"] == "done"
    stops = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped")]
    assert len(stops) == 1 and stops[0].startswith("stopped: the run is done, ")
    assert f"python scripts/evaluate.py {tmp_path} draws its pictures" in stops[0]


def test_a_run_older_than_a_setting_resumes_with_its_default(tmp_path: Path) -> None:
    words = ["debug=smoke", "experiment=planet_cartpole"]

    def resume(*more: str) -> None:
        make_run("mpc", "cartpole", *words, *more, folder=tmp_path, steps=200).envs.close()

    resume()
    stored = RunFolder(tmp_path).config()
    del stored["init_parts"], stored["replay"]["device"], stored["dynamics"]["optim"]["clip"]
    del stored["algo"]["dynamics"]["optim"]["clip"]
    OmegaConf.save(stored, tmp_path / "config.yaml")
    with pytest.raises(RunRefused, match=r"\n  dynamics.optim.clip: \(absent\) -> 2.5$"):
        resume("dynamics.optim.clip=2.5")
    resume()
    del stored["planner"]["horizon"], stored["algo"]["planner"]["horizon"]  # which debug=smoke changes
    OmegaConf.save(stored, tmp_path / "config.yaml")
    with pytest.raises(RunRefused, match=r"\n  planner.horizon: \(absent\) -> 3$"):
        resume()


def test_stored_latents_resume_exactly(tmp_path: Path) -> None:
    model = [
        "dynamics.state.units=16",
        "dynamics.state.groups=4",
        "dynamics.state.classes=4",
        "algo.hybrid=2",
        "dynamics.trainer.accumulate=2",
    ]
    words = arguments("dreamer_grid", "env.num=2", "checkpoint.every=37", "dynamics.trainer.latents=stored", *model)
    words += [
        "steps=200",
        "replay.capacity=120",
        "dynamics.optim.anneal_updates=30",
        "policy.optim.anneal_updates=20",
        "policy.optim.actor_tau=0.1",
    ]
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 83)
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("mbpo_continuous", ["policy=svg", "algo.real_ratio=0.5", "algo.update.catch_up=3", "policy.horizon=2"]),
        ("sac_continuous", ["policy=crossq", "policy.critic.width=16"]),
        ("sac_continuous", ["policy.normalise_obs=true", "policy.critic.norm=true"]),
    ],
    ids=["svg", "crossq", "normalised"],
)
def test_other_policies_resume_exactly(recipe: str, options: list[str], tmp_path: Path) -> None:
    words = arguments(recipe, "checkpoint.every=37", *options)
    whole(words, tmp_path / "a")
    stopped(words, tmp_path / "b", 73)
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
