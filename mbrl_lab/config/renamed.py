"""Renamed settings, classes and metrics: for an old name the error message has the new one, in one line.

Each rename adds a line to a table below, old name first. Old names are rejected, not translated.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from mbrl_lab.config.arguments import arguments

KEYS: dict[str, str] = {
    "algo.fit": "dynamics.trainer",
    "dynamics.ends": "dynamics.termination",
    "dynamics.trainer.parts": "dynamics.trainer.objects",
    "env.ends": "env.termination",
    "env.parts": "env.objects",
    "algo.rollout": "algo.rollouts.length",
    "algo.epoch": "algo.rollouts.epoch",
    "algo.keep": "algo.rollouts.keep",
    "algo.earn": "algo.rollouts.adaptive",
    "algo.max_uncertainty": "algo.uncertainty.max",
    "algo.explore_bonus": "algo.uncertainty.bonus",
    "algo.every": "algo.update.every",
    "algo.updates": "algo.update.number",
    "algo.updates_every": "algo.update.every",
    "value.batch": "value.update.batch",
    "value.updates": "value.update.number",
    "value.every": "value.update.every",
    "dynamics.predicts": "dynamics.regression.predicts",
    "dynamics.target_scale": "dynamics.regression.target_scale",
    "dynamics.noise": "dynamics.regression.noise",
    "dynamics.norm": "dynamics.regression.norm",
    "dynamics.dropout": "dynamics.regression.dropout",
    "dynamics.elites": "dynamics.imagination.elites",
    "dynamics.propagation": "dynamics.imagination.propagation",
    "dynamics.lr": "dynamics.optim.lr",
    "dynamics.clip": "dynamics.optim.clip",
    "dynamics.weight_decay": "dynamics.optim.weight_decay",
    "dynamics.anneal_updates": "dynamics.optim.anneal_updates",
    "dynamics.reward_fn": "dynamics.known.reward_fn",
    "dynamics.termination_fn": "dynamics.known.termination_fn",
    "dynamics.latent": "dynamics.state.size",
    "dynamics.consistency": "dynamics.state.consistency",
    "dynamics.units": "dynamics.state.units",
    "dynamics.blocks": "dynamics.state.blocks",
    "dynamics.groups": "dynamics.state.groups",
    "dynamics.classes": "dynamics.state.classes",
    "algo.ends": "dynamics.trainer.terminal_fraction",
    "algo.accumulate": "dynamics.trainer.accumulate",
    "algo.latents": "dynamics.trainer.latents",
    "policy.critics": "policy.critic.number",
    "policy.target_subset": "policy.critic.target_subset",
    "policy.norm": "policy.critic.norm",
    "policy.dropout": "policy.critic.dropout",
    "policy.alpha": "policy.temperature.alpha",
    "policy.target_entropy": "policy.temperature.target_entropy",
    "policy.entropy_share": "policy.temperature.entropy_fraction",
    "policy.actor_lr": "policy.optim.actor_lr",
    "policy.critic_lr": "policy.optim.critic_lr",
    "policy.actor_tau": "policy.optim.actor_tau",
    "policy.actor.tau": "policy.optim.actor_tau",
    "policy.alpha_lr": "policy.optim.alpha_lr",
    "policy.double": "policy.target.double",
    "policy.n_step": "policy.target.n_step",
    "policy.random_shift": "policy.optim.random_shift",
    "policy.dueling": "policy.head.dueling",
    "policy.n_step_start": "policy.resets.n_step_start",
    "policy.gamma_start": "policy.resets.gamma_start",
    "policy.reset_every": "policy.resets.every",
    "policy.reset_until": "policy.resets.until",
    "policy.shrink": "policy.resets.shrink",
    "policy.atoms": "policy.head.atoms",
    "policy.v_min": "policy.head.v_min",
    "policy.v_max": "policy.head.v_max",
    "policy.target_every": "policy.target.every",
    "policy.loss": "policy.head.loss",
    "policy.lr": "policy.optim.lr",
    "policy.epochs": "policy.optim.epochs",
    "policy.minibatches": "policy.optim.minibatches",
    "policy.ratio_clip": "policy.objective.ratio_clip",
    "policy.value_clip": "policy.objective.value_clip",
    "policy.value_coef": "policy.objective.value_coef",
    "policy.normalise_advantage": "policy.normalise.advantage",
    "policy.normalise_obs": "policy.normalise.obs",
    "policy.normalise_reward": "policy.normalise.reward",
    "policy.epsilon_start": "policy.exploration.epsilon_start",
    "policy.epsilon_end": "policy.exploration.epsilon_end",
    "policy.epsilon_updates": "policy.exploration.epsilon_updates",
    "policy.epsilon_eval": "policy.exploration.epsilon_eval",
    "policy.clip": "policy.optim.clip",
    "policy.tau": "policy.target.tau",
    "policy.entropy_coef": "policy.objective.entropy_coef",
}
"""Dotted setting -> dotted setting. An entry covers everything below it, too: `dynamics.ends` answers
`dynamics.termination.bounds`. `group=option` -> `group=option` is a config file that was renamed."""

CONSTANTS = (
    *(f"planner.{key}" for key in ("alpha", "init_std", "min_std", "uniform_mix", "decay", "keep_elites")),
    *(f"policy.{key}" for key in ("td_lambda", "unimix", "min_std", "max_std", "actor")),
    *(f"dynamics.{key}" for key in ("balance", "unimix", "kl_prior", "kl_posterior", "free_nats")),
    *(f"dynamics.termination.{key}" for key in ("width", "depth", "lr")),
    "encoder.channels",
    "policy.optim.beta1",
)
"""Settings that became constants."""

GONE: dict[str, str] = {
    "algo.batch": "it is algo.update.batch; with algo=mpc dynamics.trainer.batch; ppo and random have none",
    "algo.starts": "it is algo.rollouts.starts of mbpo, algo.update.batch of dreamer",
    "algo.reward_clip": "mpc, dreamer and random have none",
    **dict.fromkeys(CONSTANTS, "its default was the only value in use, and is a constant of the code now"),
    "dynamics.gaussian": "it is dynamics.regression.gaussian of ensemble, dynamics.state.gaussian of latent",
    "dynamics.trainer.reward_clip": "models learn all rewards as they are",
    "fit": "dynamics= chooses the trainer, too; its settings are dynamics.trainer.*",
    "policy.anneal_updates": "it is policy.resets.anneal_updates of ddqn, policy.optim.anneal_updates of others",
}
"""Dotted setting -> what to do now, for a setting without a successor."""

TARGETS: dict[str, str] = {
    "mbrl_lab.dynamics.Ends": "mbrl_lab.dynamics.TerminationModel",
    "mbrl_lab.dynamics.Frames": "mbrl_lab.dynamics.FrameModel",
    "mbrl_lab.dynamics.Grid": "mbrl_lab.dynamics.GridModel",
    "mbrl_lab.dynamics.parts.breakout": "mbrl_lab.env.objects.breakout",
    "mbrl_lab.dynamics.parts.spaceinvaders": "mbrl_lab.env.objects.spaceinvaders",
    "mbrl_lab.dynamics.Fit": "mbrl_lab.dynamics.EnsembleTrainer",
    "mbrl_lab.dynamics.FitVisual": "mbrl_lab.dynamics.ImageTrainer",
    "mbrl_lab.policy.ddqn.Optim": "mbrl_lab.policy.ddqn.DDQNOptim",
    "mbrl_lab.policy.ddqn.TargetNetwork": "mbrl_lab.policy.ddqn.TDTarget",
}
"""`_target_` -> `_target_`: classes and functions that configs name by their path."""


METRICS: dict[str, str] = {
    "model/ball_recall_1": "model/openloop/obs/ball_recall_1",
    "model/ball_recall_10": "model/openloop/obs/ball_recall_10",
    "model/ball_recall_2": "model/openloop/obs/ball_recall_2",
    "model/ball_recall_5": "model/openloop/obs/ball_recall_5",
    "model/changed_f1_1": "model/openloop/obs/changed_f1_1",
    "model/changed_f1_10": "model/openloop/obs/changed_f1_10",
    "model/changed_f1_2": "model/openloop/obs/changed_f1_2",
    "model/changed_f1_5": "model/openloop/obs/changed_f1_5",
    "model/consistency": "model/train/consistency",
    "model/coverage_50": "model/holdout/coverage_50",
    "model/coverage_80": "model/holdout/coverage_80",
    "model/coverage_95": "model/holdout/coverage_95",
    "model/decode": "model/train/obs/loss",
    "model/disagreement": "model/rollout/disagreement",
    "model/distance": "model/train/latent/rmse",
    "model/earned_length": "model/openloop/trusted_horizon",
    "model/end": "model/train/termination/loss",
    "model/end_at_ends": "model/openloop/termination/at_terminations",
    "model/end_average_precision": "model/openloop/termination/average_precision",
    "model/end_calibration": "model/openloop/termination/calibration",
    "model/end_elsewhere": "model/openloop/termination/elsewhere",
    "model/end_loss": "model/train/termination/loss",
    "model/end_precision": "model/openloop/termination/precision",
    "model/end_recall": "model/openloop/termination/recall",
    "model/error": "model/holdout/obs/rmse",
    "model/error_at_10": "model/openloop/obs/error_10",
    "model/error_end": "model/holdout/termination/error",
    "model/error_reward": "model/holdout/reward/rmse",
    "model/gradient_norm": "model/train/gradient_norm",
    "model/holdout_error": "model/holdout/loss",
    "model/kl": "model/train/kl",
    "model/kl_posterior": "model/train/kl_posterior",
    "model/kl_prior": "model/train/kl_prior",
    "model/latent_std": "model/train/latent/std",
    "model/latent_usage": "model/train/latent/usage",
    "model/loss": "model/train/loss",
    "model/loss_end": "model/train/termination/loss",
    "model/loss_frame": "model/train/obs/loss",
    "model/loss_reward": "model/train/reward/loss",
    "model/one_step_error": "model/openloop/obs/error_1",
    "model/paddle_recall_1": "model/openloop/obs/paddle_recall_1",
    "model/paddle_recall_10": "model/openloop/obs/paddle_recall_10",
    "model/paddle_recall_2": "model/openloop/obs/paddle_recall_2",
    "model/paddle_recall_5": "model/openloop/obs/paddle_recall_5",
    "model/posterior_entropy": "model/train/posterior_entropy",
    "model/reward": "model/train/reward/loss",
    "model/reward_average_precision": "model/openloop/reward/average_precision",
    "model/reward_calibration": "model/openloop/reward/calibration",
    "model/reward_error": "model/openloop/reward/rmse",
    "model/reward_precision": "model/openloop/reward/precision",
    "model/reward_recall": "model/openloop/reward/recall",
    "model/rollout_alive": "model/rollout/continue",
    "model/rollout_length": "model/rollout/length",
    "model/rollout_reward": "model/rollout/reward",
    "model/spread": "model/holdout/std",
    "model/spread_at_10": "model/openloop/obs/std_10",
    "model/tiles_right_1": "model/openloop/obs/tiles_right_1",
    "model/tiles_right_10": "model/openloop/obs/tiles_right_10",
    "model/tiles_right_2": "model/openloop/obs/tiles_right_2",
    "model/tiles_right_5": "model/openloop/obs/tiles_right_5",
    "model/updates": "model/train/updates",
    "planner/planned": "planner/predicted",
    "planner/score": "planner/predicted",
    "policy/imagined_end": "policy/imagined_termination",
    "policy/real_loss": "policy/real_critic_loss",
}
"""Logged metric -> logged metric, as in `stop.metric`."""


def new_name(key: str) -> str:
    """The name that a setting has today, which is its own unless it was renamed."""
    return next((f"{KEYS[old]}{key.removeprefix(old)}" for old in prefixes(key) if old in KEYS), key)


def answer_key(key: str) -> str | None:
    """One line about a setting, or a `group=option`, whose name is old; None for any other."""
    if (new := new_name(key)) != key:
        return f"{key} is now {new}"
    return next((f"{key} is gone: {GONE[old]}" for old in prefixes(key) if old in GONE), None)


def answer_config(config: Mapping[str, Any]) -> str | None:
    """One line about the first old name in a config of plain values; None where there is none.

    A setting that its class still takes is not old: a name may be in use by one policy and renamed in another.
    """
    for key, value, parent in entries(config):
        leaf = key.rpartition(".")[2]
        if leaf == "_target_" and isinstance(value, str) and value in TARGETS:
            return f"{key} is {value}, which is now {TARGETS[value]}"
        if (key in KEYS or key in GONE) and not takes(parent.get("_target_"), leaf):
            return answer_key(key)
    return None


def entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Dotted key, value, and the mapping that holds it, of everything in a nested mapping."""
    for key, value in config.items():
        yield f"{prefix}{key}", value, config
        if isinstance(value, Mapping):
            yield from entries(value, f"{prefix}{key}.")


def takes(target: Any, argument: str) -> bool:
    """Whether a class or function of this package, named by its path, has an argument of this name today."""
    if not str(target).startswith("mbrl_lab."):
        return target is not None  # a class of the user's own has its own names
    if not exists(target):
        return False
    parameters = arguments(pkgutil.resolve_name(target))
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def exists(target: str) -> bool:
    """Whether there is a class or function of this path."""
    try:
        return callable(pkgutil.resolve_name(target))
    except (ImportError, AttributeError, ValueError):
        return False


def prefixes(key: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
