"""The model card: what the Hub shows of an agent, and reads as metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mbrl_lab.hub.extra import require

LIBRARY = "mbrl_lab"


@dataclass(frozen=True)
class Facts:
    """What a card says of an agent."""

    algo: str
    env: str
    command: str
    results: dict[str, Any]
    files: Sequence[str]
    """In the folder, beside the card."""
    hardware: str
    commit: str | None
    """Of this package, when the run began."""
    python: str

    @property
    def title(self) -> str:
        return f"{self.algo} on {self.env}"

    @property
    def score(self) -> str:
        """As the Hub's leaderboards read it."""
        return f"{self.results['mean_reward']:.2f} +/- {self.results['std_reward']:.2f}"


def card(facts: Facts, repo: str | None, license: str | None) -> str:
    """README.md of a repository: metadata between dashes, then text."""
    return f"---\n{metadata(facts, license)}\n---\n\n{text(facts, repo)}"


def metadata(facts: Facts, license: str | None) -> str:
    """YAML with the fields that the Hub reads, among them model-index."""
    hub = require("huggingface_hub")
    result = hub.EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type=facts.env,
        dataset_name=facts.env,
        metric_type="mean_reward",
        metric_name="mean_reward",
        metric_value=facts.score,
        verified=False,
    )
    data = hub.ModelCardData(
        library_name=LIBRARY,
        license=license,
        pipeline_tag="reinforcement-learning",
        tags=[facts.env, facts.algo, "deep-reinforcement-learning", "reinforcement-learning", LIBRARY],
        model_name=facts.algo,
        eval_results=[result],
    )
    return str(data.to_yaml()).strip()


def text(facts: Facts, repo: str | None) -> str:
    """The card's page."""
    results, where = facts.results, f"hf:{repo}" if repo else "FOLDER"
    chance = "" if results["is_deterministic"] else ", with random actions as `policy.exploration.epsilon_eval` says"
    pictures = "\n![Returns](curve.png)\n" if "curve.png" in facts.files else ""
    code = f" at commit `{facts.commit}`" if facts.commit else ""
    return f"""# {facts.title}

An agent that was trained with mbrl_lab{code}.
Mean return {facts.score} over {results["n_eval_episodes"]} episodes at
step {results["step"]:,} of training, evaluated on {results["eval_datetime"][:10]}{chance}.
{pictures}
## Use it

```bash
pip install "mbrl_lab[hub]"
mbrl-lab evaluate {where} --episodes {results["n_eval_episodes"]}
```

```python
from mbrl_lab import load_run

runner = load_run("{where}")
print([episode.ret for episode in runner.evaluate(10)])
```

Loading runs no code from this repository: `model.safetensors` holds tensors alone, and `config.yaml` may name parts of
mbrl_lab only.

## Train it again

```bash
{facts.command}
```

`config.yaml` is the complete config, `constraints.txt` has the versions of all packages, Python was {facts.python}.
Trained on {facts.hardware}.
"""
