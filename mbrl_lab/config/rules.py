"""Rules: the values that each setting may have, by its dotted name, as a function and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

INT64 = 2**63 - 1


def integer(low: int, high: int = INT64) -> tuple[Callable[[Any], bool], str]:
    allowed = f"a whole number from {low}" + (f" to {high}" if high < INT64 else "")
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high, allowed


def number(low: float, high: float = float("inf"), above: bool = False) -> tuple[Callable[[Any], bool], str]:
    allowed = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < float("inf") else "")

    def holds(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and (low < x if above else low <= x) and x <= high

    return holds, allowed


def one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda x: any(x == v and type(x) is type(v) for v in values), " | ".join(map(str, values)).lower()


def numbers(low: float) -> tuple[Callable[[Any], bool], str]:
    """A number, or a list of some."""
    holds, allowed = number(low)
    return lambda x: holds(x) or (isinstance(x, Sequence) and not isinstance(x, str) and all(map(holds, x))), (
        f"{allowed}, or a list of such numbers"
    )


def optional(rule: tuple[Callable[[Any], bool], str]) -> tuple[Callable[[Any], bool], str]:
    holds, allowed = rule
    return lambda x: x is None or holds(x), f"null or {allowed}"


def size() -> tuple[Callable[[Any], bool], str]:
    """[height, width]."""
    whole = integer(1, 4096)[0]

    def holds(x: Any) -> bool:
        return isinstance(x, Sequence) and not isinstance(x, str) and len(x) == 2 and all(map(whole, x))

    return holds, "[height, width], e.g. [84, 84]"


def odd() -> tuple[Callable[[Any], bool], str]:
    """A number of bins, or none."""
    whole = integer(0, 10_000)[0]
    return lambda x: whole(x) and (x == 0 or (x % 2 == 1 and x > 1)), "0 or an odd whole number from 3 to 9999"


def text(what: str) -> tuple[Callable[[Any], bool], str]:
    return lambda x: isinstance(x, str) and bool(x), what


def some_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    allowed = f"a list of {', '.join(values)}"
    return (
        lambda x: isinstance(x, Sequence) and not isinstance(x, str) and bool(x) and all(v in values for v in x),
        allowed,
    )


def schedule() -> tuple[Callable[[Any], bool], str]:
    """[from, to, at first epoch, at last epoch]."""

    def holds(x: Any) -> bool:
        whole = isinstance(x, Sequence) and len(x) == 4 and all(isinstance(n, int) for n in x)
        return whole and 1 <= x[0] <= x[1] and 0 <= x[2] < x[3]

    allowed = "[from, to, first, last]: lengths from 1, from <= to, and epochs after the warm-up from 0, first < last"
    return holds, f"{allowed}, e.g. [1, 15, 20, 150]"


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": integer(0),
    "steps": integer(1),
    "log_every": integer(1),
    "replay.capacity": integer(2),
    "eval.every": integer(0),
    "eval.episodes": integer(1),
    "eval.final_episodes": integer(1),
    "eval.num": integer(1, 4096),
    "eval.shared": one_of(True, False),
    "init_from": optional(text("a run's folder")),
    "init_checkpoint": text("last, best or a checkpoint's folder"),
    "init_parts": optional(some_of("dynamics", "policy", "value")),
    "stop.window": integer(1),
    "checkpoint.every": integer(0),
    "checkpoint.keep_last": integer(1, 1000),
    "checkpoint.best": one_of(*(f"eval/return{kind}" for kind in ("", "_iqm", "_min", "_max")), "eval/length"),
    "video.every": integer(0),
    "video.final": integer(0),
    "video.steps": integer(0),
    "launcher.workers": optional(integer(1, 4096)),
    "launcher.per_gpu": integer(1, 4096),
    "launcher.wait": one_of(True, False),
    "launcher.minutes": integer(1),
    "launcher.requeues": integer(0),
    "launcher.memory_gb": optional(integer(1)),
    "launcher.cpus": optional(integer(1, 4096)),
    "launcher.gpus": integer(0, 64),
    "launcher.at_once": integer(1),
    "launcher.signal_seconds": integer(1),
    "runtime.threads": integer(1, 4096),
    "runtime.precision": one_of("auto", "fp32", "bf16"),
    "runtime.compile": one_of(True, False),
    "env.num": integer(1, 65536),
    "env.asynchronous": one_of(True, False),
    "env.task": text("DOMAIN-TASK, e.g. hopper-stand"),
    "env.max_steps": optional(integer(1)),
    "env.frame_skip": integer(1),
    "env.action_bound": optional(number(0, 1e9, above=True)),
    "env.flatten": one_of(True, False),
    "env.channels": one_of("auto", "first", "last"),
    "env.to_bytes": one_of(True, False),
    "env.grayscale": one_of(True, False),
    "env.resize": optional(size()),
    "env.score.random": number(-1e9, 1e9),
    "env.score.human": number(-1e9, 1e9),
    "env.threshold": number(-1e9, 1e9),
    "algo.warmup": integer(2),
    "replay.init": optional(text("a folder of .npz files, or minari:NAME")),
    "algo.every": integer(1),
    "algo.update.batch": integer(1),
    "algo.update.number": integer(1),
    "algo.update.every": integer(1),
    "algo.update.catch_up": integer(1),
    "algo.rollouts.starts": integer(1),
    "algo.rollouts.epoch": integer(1),
    "algo.rollouts.keep": integer(1),
    "algo.rollouts.length": schedule(),
    "algo.real_ratio": optional(number(0, 1)),
    "algo.uncertainty.max": number(0),
    "algo.uncertainty.bonus": number(0),
    "algo.rollouts.adaptive": one_of(True, False),
    "algo.priority_exponent": number(0, 1),
    "algo.importance_exponent": number(0, 1),
    "algo.importance_steps": integer(0),
    "algo.horizon": integer(1),
    "algo.pretrain": integer(0),
    "algo.hybrid": integer(0),
    "algo.reward_clip": number(0),
    "value.update.batch": integer(1),
    "value.update.number": integer(1),
    "value.update.every": integer(1),
    "value.update.catch_up": integer(1),
    "value.reward_clip": number(0),
    "encoder.hidden": integer(0, 65536),
    "encoder.width": integer(1, 64),
    "env.frame_stack": integer(1, 64),
    "env.serve": one_of(True, False),
    "dynamics.trainer.batch": integer(1),
    "dynamics.trainer.holdout": number(0, 0.9),
    "dynamics.trainer.max_holdout": integer(1),
    "dynamics.trainer.patience": integer(0),
    "dynamics.trainer.gain": number(0, 1),
    "dynamics.trainer.max_updates": integer(0),
    "dynamics.trainer.bootstrap": one_of(True, False),
    "dynamics.trainer.events": number(0, 1),
    "dynamics.trainer.terminal_fraction": number(0, 1),
    "dynamics.trainer.accumulate": integer(1),
    "dynamics.trainer.latents": one_of("recomputed", "stored"),
    "dynamics.members": integer(1, 1000),
    "dynamics.imagination.elites": integer(1, 1000),
    "dynamics.width": integer(1, 65536),
    "dynamics.depth": integer(0, 100),
    "dynamics.history": integer(1, 64),
    "dynamics.unroll": integer(1, 1000),
    "dynamics.patch": integer(1, 256),
    "dynamics.target": one_of("levels", "delta"),
    "dynamics.regression.predicts": one_of("delta", "next"),
    "dynamics.regression.target_scale": one_of("each", "common"),
    "dynamics.regression.gaussian": one_of(True, False),
    "dynamics.imagination.propagation": one_of("ts_inf", "ts1", "expectation"),
    "dynamics.optim.lr": number(0, above=True),
    "dynamics.optim.weight_decay": numbers(0),
    "dynamics.optim.clip": number(0),
    "dynamics.regression.noise": number(0),
    "dynamics.regression.norm": one_of(True, False),
    "dynamics.regression.dropout": number(0, 0.99),
    "dynamics.length": integer(2),
    "dynamics.state.size": integer(1, 65536),
    "dynamics.state.gaussian": one_of(True, False),
    "dynamics.state.consistency": number(0),
    "dynamics.state.simplex": integer(2, 65536),
    "dynamics.state.rho": number(0, 1, above=True),
    "dynamics.state.units": integer(1, 65536),
    "dynamics.state.blocks": integer(1, 65536),
    "dynamics.state.groups": integer(1, 65536),
    "dynamics.state.classes": integer(2, 65536),
    "dynamics.decode": one_of(True, False),
    "dynamics.bins": odd(),
    "dynamics.optim.anneal_updates": integer(0),
    "dynamics.termination.bounds": one_of(True, False),
    "dynamics.termination.hazard": number(0),
    "policy.bins": odd(),
    "policy.gradient": one_of("reinforce", "dynamics"),
    "policy.width": integer(1, 65536),
    "policy.depth": integer(0, 100),
    "policy.gamma": number(0, 1),
    "policy.tau": number(0, 1, above=True),
    "policy.target.tau": number(0, 1, above=True),
    "policy.optim.clip": number(0),
    "policy.optim.anneal_updates": integer(0),
    "policy.optim.actor_tau": number(0, 1, above=True),
    "policy.resets.anneal_updates": integer(0),
    "policy.objective.entropy_coef": number(0),
    "policy.optim.lr": number(0, above=True),
    "policy.target.double": one_of(True, False),
    "policy.head.dueling": one_of(True, False),
    "policy.target.n_step": integer(1, 1000),
    "policy.resets.n_step_start": integer(1, 1000),
    "policy.resets.gamma_start": number(0, 1),
    "policy.resets.every": integer(0),
    "policy.resets.until": integer(0),
    "policy.resets.shrink": number(0, 1),
    "policy.optim.random_shift": integer(0, 1000),
    "policy.optim.random_intensity": number(0, 0.49),
    "policy.optim.eps": number(0, above=True),
    "policy.optim.weight_decay": number(0, 1e4),
    "policy.target.acts": one_of(True, False),
    "policy.head.norm": one_of(True, False),
    "policy.head.atoms": integer(1, 10_000),
    "policy.head.v_min": number(-1e9, 1e9),
    "policy.head.v_max": number(-1e9, 1e9),
    "policy.target.every": integer(1),
    "policy.exploration.epsilon_start": number(0, 1),
    "policy.exploration.epsilon_end": number(0, 1),
    "policy.exploration.epsilon_updates": integer(0),
    "policy.exploration.epsilon_eval": number(0, 1),
    "policy.head.loss": one_of("huber", "squared"),
    "policy.horizon": integer(1, 1000),
    "policy.normalise_obs": one_of(True, False),
    "policy.renorm.momentum": number(0, 1),
    "policy.renorm.warmup": integer(0),
    "policy.optim.policy_delay": integer(1),
    "policy.critic.number": integer(1, 1000),
    "policy.critic.width": integer(1, 65536),
    "policy.critic.target_subset": optional(integer(1, 1000)),
    "policy.critic.norm": one_of(True, False),
    "policy.critic.dropout": number(0, 0.99),
    "policy.critic.bins": odd(),
    "policy.norm": one_of(True, False),
    "policy.optim.actor_lr": number(0, above=True),
    "policy.optim.critic_lr": number(0, above=True),
    "policy.optim.alpha_lr": number(0),
    "policy.temperature.alpha": number(0, above=True),
    "policy.temperature.entropy_fraction": number(0, 1),
    "policy.std": number(0, above=True),
    "policy.gae_lambda": number(0, 1),
    "policy.optim.epochs": integer(1),
    "policy.optim.minibatches": integer(1),
    "policy.objective.ratio_clip": number(0, above=True),
    "policy.objective.value_clip": number(0),
    "policy.objective.value_coef": number(0),
    "policy.entropy_coef": number(0),
    "policy.normalise.advantage": one_of(True, False),
    "policy.normalise.obs": one_of(True, False),
    "policy.normalise.reward": one_of(True, False),
}
