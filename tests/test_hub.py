"""mbrl-lab publish, and agents that are loaded from a folder or from the Hub: equal returns, and no foreign code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import Hub, serving
from recipes import small

from mbrl_lab import load_run, make_run
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli.compare import main as compare
from mbrl_lab.cli.data import main as data
from mbrl_lab.cli.evaluate import main as evaluate
from mbrl_lab.cli.paper import main as paper
from mbrl_lab.cli.publish import main as publish
from mbrl_lab.cli.report import main as report
from mbrl_lab.hub import Agent, write_bundle

hub = pytest.importorskip("huggingface_hub")
torch_file = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's own upload

REPO = "ann/cartpole"
FILES = ["README.md", "command.txt", "config.yaml", "constraints.txt", "curve.png", "model.safetensors", "results.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of PPO, which standardises observations, with a final evaluation of 3 episodes and a secret."""
    algo, env, *rest = small("ppo_discrete")
    folder = tmp_path_factory.mktemp("runs") / "mine"
    words = ["eval.every=100", "eval.episodes=1", "eval.final_episodes=3", "logger=[jsonl,tensorboard]"]
    runner = make_run(algo[5:], env[4:], *rest, *words, folder=folder)
    runner.run()
    runner.envs.close()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy; what is fetched comes into a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "draw_report", lambda runner, name: [])
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub of its own, and ann's token."""
    with serving() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
        # Read by the library when it was imported.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield made


def returns(place: Path | str) -> list[float]:
    runner = load_run(place, device="cpu")
    with closing(runner.envs):
        return [episode.ret for episode in runner.evaluate(4)]


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line of an error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    return line


def test_a_folder_acts_as_the_run_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish([str(run), "--out", "agent", "--license", "mit"]) == 0
    assert sorted(path.name for path in Path("agent").iterdir()) == FILES
    assert returns("agent") == returns(run)
    assert capsys.readouterr().out.splitlines()[0].startswith("agent     PPO on CartPole-v1: mean return ")
    assert evaluate(["agent", "--episodes", "2", "--video", "1"]) == 0
    played = json.loads(Path("agent-results/evaluations/last-2.json").read_text())["played"]
    assert [episode["return"] for episode in played] == returns(run)[:2]
    assert Path("agent-results/videos/evaluation-last-0.mp4").exists()
    assert sorted(path.name for path in Path("agent").iterdir()) == FILES, "what was published stays as it is"


def test_what_a_published_agent_lacks_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish([str(run), "--out", "agent"]) == 0
    capsys.readouterr()
    for command, argv, what in (
        (evaluate, ["--episode", "train:0"], "logged episodes"),
        (evaluate, ["--model"], "replay on which its model could be validated"),
        (evaluate, ["--logger", "wandb"], "run in Weights & Biases"),
        (publish, ["--out", "again"], "checkpoint to publish"),
        (compare, [], "curves to compare"),
        (report, [], "curves to report"),
        (paper, ["--out", "again"], "curves to write about"),
    ):
        for place in ("agent", f"hf:{REPO}"):  # nothing is asked of the Hub
            line = error_of(capsys, command([place, *argv]))
            assert (
                line == f"error: {place} is a published agent, which has no {what}: name the folder of the run itself"
            )
    for place in ("agent", f"hf:{REPO}"):
        line = error_of(capsys, data(["export", place, "--out", "data"]))
        assert line.startswith(f"error: {place} is a published agent, which has no replay to export: name")
    assert sorted(path.name for path in Path("agent").iterdir()) == FILES and not Path("data").exists()


def test_another_checkpoint_is_published_by_its_folder(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "last", "kept")
    assert evaluate([str(run), "--episodes", "2", "--checkpoint", "kept"]) == 0
    assert publish([str(run), "--checkpoint", "kept", "--out", "agent"]) == 0
    results = json.loads(Path("agent/results.json").read_text())
    assert results["n_eval_episodes"] == 2 and results["checkpoint"].endswith("-kept")


def test_the_card_has_what_the_hub_reads(run: Path) -> None:
    facts = write_bundle(Agent.of(run, "last"), Path("agent"), REPO, "mit")
    loaded = hub.ModelCard.load("agent/README.md")
    assert (loaded.data.library_name, loaded.data.license) == ("mbrl_lab", "mit")
    assert {"CartPole-v1", "PPO", "reinforcement-learning"} <= set(loaded.data.tags)
    (result,) = loaded.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("CartPole-v1", "mean_reward", facts.score)
    assert f'load_run("hf:{REPO}")' in loaded.text and "curve.png" in loaded.text

    results = json.loads(Path("agent/results.json").read_text())
    final = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert results["mean_reward"] == final["final/return"] and results["std_reward"] == final["final/return_std"]
    assert (results["n_eval_episodes"], results["is_deterministic"], results["step"]) == (3, True, 150)
    assert "torch==" in Path("agent/constraints.txt").read_text()
    assert Path("agent/command.txt").read_text().startswith("mbrl-lab train algo=ppo env=cartpole")


def test_nothing_private_is_published(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert "tensorboard" in config["logger"]
    config |= {"init_from": "/home/ann/secret", "init_checkpoint": "/home/ann/secret/checkpoints/best"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "overrides.txt").write_text("algo=ppo\ninit_from=/home/ann/secret\n+logger.wandb.entity=ann\n")
    write_bundle(Agent.of(run, "last"), Path("agent"))
    host = json.loads((run / "env.json").read_text())["hardware"]["host"]
    for path in Path("agent").iterdir():
        content = path.read_bytes()
        assert not [word for word in (b"secret", b"tensorboard:", str(run).encode(), host.encode()) if word in content]


def test_the_evaluation_with_the_most_episodes_counts(run: Path) -> None:
    for episodes in (4, 6):
        assert evaluate([str(run), "--episodes", str(episodes), "--video", "1"]) == 0
    results = Agent.of(run, "last").results
    assert results["n_eval_episodes"] == 6 and results["returns"][:4] == returns(run)
    write_bundle(Agent.of(run, "last"), Path("agent"))
    assert Path("agent/replay.mp4").read_bytes() == (run / "videos" / "evaluation-last-0.mp4").read_bytes()


def test_published_fetched_and_evaluated(run: Path, server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish([str(run), "--repo", REPO, "--private"]) == 0
    repo = server.repos[REPO]
    assert (sorted(repo.files), repo.private, len(repo.commits)) == (FILES, True, 1)
    assert f"publish   {server.url}/{REPO}/commit/{repo.sha()}" in capsys.readouterr().out

    assert returns(f"hf:{REPO}") == returns(run)
    assert evaluate([f"hf:{REPO}", "--episodes", "3"]) == 0
    home, _ = sorted(Path("outputs/hub/ann/cartpole").iterdir())
    assert sorted(path.name for path in home.iterdir()) == [
        "README.md", "config.yaml", "model.safetensors", "results.json"
    ]  # fmt: skip
    written = json.loads((home.with_name(f"{home.name}-results") / "evaluations" / "last-3.json").read_text())
    assert [x["return"] for x in written["played"]] == returns(run)[:3]
    assert len([x for x in server.asked if x.startswith("GET") and x.endswith("model.safetensors")]) == 1, "kept"


def test_a_revision_stays_what_it_was(run: Path, server: Hub) -> None:
    assert publish([str(run), "--repo", REPO]) == 0
    first = server.repos[REPO].sha()
    assert evaluate([str(run), "--episodes", "4"]) == 0
    assert publish([str(run), "--repo", REPO]) == 0, "the same run again"
    assert server.repos[REPO].sha() != first
    load_run(f"hf:{REPO}@{first}").envs.close()
    load_run(f"hf:{REPO}").envs.close()
    assert {path.name for path in Path("outputs/hub/ann/cartpole").iterdir()} == {
        first[:10],
        server.repos[REPO].sha()[:10],
    }


def test_another_agent_is_not_replaced_unasked(run: Path, server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    server.put(REPO, {"results.json": b'{"run": "another", "mean_reward": 12.0}', "config.yaml": b""})
    before = dict(server.repos[REPO].files)
    line = error_of(capsys, publish([str(run), "--repo", REPO]))
    assert line == f"error: {REPO} holds another agent (mean return 12.0): choose another --repo, or give --replace"
    assert server.repos[REPO].files == before

    server.put(REPO, {"pytorch_model.bin": b""})
    assert "holds something else than an agent of mbrl_lab" in error_of(capsys, publish([str(run), "--repo", REPO]))
    assert publish([str(run), "--repo", REPO, "--replace"]) == 0
    assert set(FILES) <= set(server.repos[REPO].files)


@pytest.mark.parametrize(
    ("token", "repo", "words"),
    [
        ("hf_wrong", REPO, "the Hub rejects the token"),
        ("hf_of_bob", REPO, f"this token may not write to {REPO}"),
        ("hf_of_ann", "ann", "--repo is 'ann'; it must be USER/NAME"),
    ],
)
def test_who_may_not_publish(
    run: Path, server: Hub, capsys: pytest.CaptureFixture[str], token: str, repo: str, words: str
) -> None:
    assert words in error_of(capsys, publish([str(run), "--repo", repo, "--token", token]))
    assert not server.repos


def test_without_a_network(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    for call, words in ((publish, [str(run), "--repo", REPO]), (evaluate, [f"hf:{REPO}"])):
        assert "http://127.0.0.1:9 cannot be reached" in error_of(capsys, call(words))
    assert not Path("outputs").exists()


def test_runs_that_cannot_be_published(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").write_text("")
    line = error_of(capsys, publish([str(run), "--out", "agent"]))
    assert line == (
        f"error: {run} has no evaluation of its checkpoint last at step 150: "
        f"mbrl-lab evaluate {run} --checkpoint last --episodes 20"
    )
    assert "holds no run" in error_of(capsys, publish([str(run / "nowhere"), "--out", "agent"]))
    assert "--out FOLDER writes the agent there, --repo" in error_of(capsys, publish([str(run)]))
    shutil.rmtree(run / "checkpoints")
    assert "holds no checkpoint" in error_of(capsys, publish([str(run), "--out", "agent"]))
    assert not Path("agent").exists()


def test_a_folder_is_whole_or_not_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any) -> str:
        raise KeyboardInterrupt

    agent = Agent.of(run, "last")
    monkeypatch.setattr("mbrl_lab.hub.bundle.card", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(agent, Path("agent"))
    assert [path.name for path in Path().iterdir()] == ["run"]
    Path("agent").mkdir()
    Path("agent/mine").touch()
    with pytest.raises(ValueError, match="agent exists and is not an empty folder: choose another --out"):
        write_bundle(agent, Path("agent"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf:ann", "'hf:ann' is no agent on the Hub: write hf:USER/NAME or hf:USER/NAME@REVISION"),
        ("hf:ann/none", "the Hub has no ann/none, or it is private and the token does not see it"),
        ("hf:bob/private", "the Hub has no bob/private"),
        ("hf:bob/other", "bob/other holds no agent of mbrl_lab: it has no config.yaml"),
        ("hf:bob/other@gone", "bob/other has no revision gone"),
        ("hf:bob/cut", "holds no weights of an agent"),
    ],
)
def test_what_cannot_be_fetched(
    run: Path, server: Hub, capsys: pytest.CaptureFixture[str], address: str, words: str
) -> None:
    server.put("bob/private", {"config.yaml": b""}, private=True)
    server.put("bob/other", {"pytorch_model.bin": b""})
    server.put("bob/cut", {"config.yaml": (run / "config.yaml").read_bytes(), "model.safetensors": b"short"})
    assert words in error_of(capsys, evaluate([address]))


def malicious(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A config that would write a file when it is built."""
    attack = {"_target_": "pathlib.Path.touch", "_args_": ["hacked"]}
    node = config
    *path, last = where.split(".")
    for key in path:
        node = node[key]
    node[last] = attack if last != "id" else "hacked_module:Env-v0"
    return config


@pytest.mark.parametrize("where", ["algo", "env.make", "algo.policy.encoder", "env.make.id", "replay.attack"])
def test_a_malicious_repository_runs_nothing(
    run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    write_bundle(Agent.of(run, "last"), Path("agent"))
    config = malicious(yaml.safe_load(Path("agent/config.yaml").read_text()), where)
    code = b"open('hacked', 'w').close()\n"
    server.put(
        "bob/evil",
        {
            "config.yaml": yaml.safe_dump(config).encode(),
            "model.safetensors": Path("agent/model.safetensors").read_bytes(),
            "hacked_module.py": code,
            "sitecustomize.py": code,
            "checkpoints/last/state.pt": b"cos\nsystem\n(S'touch hacked'\ntR.",
        },
    )
    monkeypatch.syspath_prepend(".")
    line = error_of(capsys, evaluate(["hf:bob/evil"]))
    assert where.partition(".")[0] in line
    assert not Path("hacked").exists()
    (home,) = Path("outputs/hub/bob/evil").iterdir()
    assert sorted(path.name for path in home.iterdir()) == ["config.yaml", "model.safetensors"]
