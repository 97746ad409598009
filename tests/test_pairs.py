"""Every algorithm with every model, policy and planner on every family: it learns, or is rejected before anything runs.

Parts are those of conf/, as small as can be. A pair is driven by steps that were recorded once, past its first fit and
an update of its policy.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from recipes import env_of

from mbrl_lab.app import env_makers
from mbrl_lab.config import CONF, ConfigError, build, check, compose_config
from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay
from mbrl_lab.runner import TRAIN
from mbrl_lab.types import EnvSpec, Metrics, Step

FAMILIES = {
    "discrete": ["env=cartpole"],
    "continuous": ["env=pendulum"],
    "grid": [f"env={env_of('grid')}"],
    "pixels": ["env=gym", "family=pixels", "env.id=Pictured", "env.frame_stack=4"],
}
ENCODER = {"discrete": "vector", "continuous": "vector", "grid": "grid", "pixels": "nature"}
PLANNER = {"discrete": "mppi", "continuous": "cem", "grid": "mppi", "pixels": "mppi"}

MODELS = ("analytic", "ensemble", "frames", "grid", "implicit", "latent", "rssm_xs")
"""rssm_s and rssm_m are larger, and nothing else."""
LATENT = ("implicit", "latent", "rssm_xs")
"""Those with features of their own."""
POLICIES = ("ddqn", "sac", "crossq", "svg", "ppo", "actor_critic")
DISCRETE = ("ddqn", "sac", "ppo", "actor_critic")
PLANNERS = ("random_shooting", "cem", "icem", "mppi")

TINY: dict[str, Any] = {
    **{"algo.warmup": 12, "algo.update.batch": 4, "algo.update.number": 1, "algo.update.every": 8},
    **{"algo.rollouts.starts": 4, "algo.rollouts.epoch": 1000, "algo.pretrain": 1, "algo.horizon": 6},
    **{
        "dynamics.width": 8,
        "dynamics.depth": 1,
        "dynamics.members": 2,
        "dynamics.imagination.elites": 2,
        "dynamics.state.size": 8,
        "dynamics.state.simplex": 4,
    },
    **{
        "dynamics.length": 4,
        "dynamics.state.units": 8,
        "dynamics.state.blocks": 2,
        "dynamics.state.groups": 2,
        "dynamics.state.classes": 2,
    },
    **{"dynamics.trainer.batch": 4, "dynamics.trainer.max_updates": 2, "dynamics.trainer.patience": 0},
    **{"planner.population": 6, "planner.elites": 2, "planner.horizon": 2, "planner.iterations": 2},
    **{"policy.width": 8, "policy.depth": 1, "policy.optim.epochs": 1, "policy.optim.minibatches": 2},
    **{"value.update.batch": 4, "value.update.every": 8},
}

Pair = tuple[str, str, str, str]
"""(algorithm, family, model or "", policy, planner or value)."""

PAIRS: list[Pair] = [
    *product(("ddqn", "sac", "ppo"), FAMILIES, ("",), POLICIES),
    *product(("mbpo", "dreamer"), FAMILIES, MODELS, POLICIES),
    *product(("tdmpc",), FAMILIES, MODELS, ("sac",)),
    *product(("tdmpc",), FAMILIES, ("implicit",), [policy for policy in POLICIES if policy != "sac"]),
    *((("mpc", family, model, PLANNER[family])) for family, model in product(FAMILIES, MODELS)),
    *(
        ("mpc", family, "ensemble", p)
        for family in ("discrete", "continuous")
        for p in PLANNERS
        if p != PLANNER[family]
    ),
    *(
        ("mpc", family, model, f"{PLANNER[family]}+{value}")
        for family, model, value in product(FAMILIES, MODELS, ("ddqn", "sac"))
    ),
]


RUNS = {
    *product(("ddqn", "sac"), FAMILIES, ("",), ("sac",)),
    *product(("ddqn", "sac"), ("discrete", "grid", "pixels"), ("",), ("ddqn",)),
    *product(("ddqn", "sac"), ("continuous",), ("",), ("crossq",)),
    *product(("ppo",), FAMILIES, ("",), ("ppo",)),
    *product(("ppo",), ("discrete", "continuous"), ("",), ("actor_critic",)),
    *product(("mpc",), ("discrete", "continuous"), ("ensemble",), PLANNERS),
    *product(("mpc",), ("discrete",), ("analytic", "ensemble", *LATENT), ("mppi", "mppi+ddqn", "mppi+sac")),
    *product(("mpc",), ("continuous",), ("analytic", "ensemble", *LATENT), ("cem", "cem+sac")),
    *product(("mpc",), ("grid",), ("analytic", "grid", *LATENT), ("mppi", "mppi+ddqn", "mppi+sac")),
    *product(("mpc",), ("pixels",), ("frames", *LATENT), ("mppi", "mppi+ddqn", "mppi+sac")),
    *product(("mbpo",), ("discrete",), ("analytic", "ensemble", *LATENT), DISCRETE),
    *product(
        ("mbpo",), ("continuous",), ("analytic", "ensemble", *LATENT), ("sac", "crossq", "svg", "ppo", "actor_critic")
    ),
    *product(("mbpo",), ("grid",), ("analytic", "grid"), ("ddqn", "sac", "ppo")),
    *product(("mbpo",), ("pixels",), ("frames",), ("ddqn", "sac", "ppo")),
    *product(("mbpo",), ("grid", "pixels"), LATENT, DISCRETE),
    *product(("dreamer",), ("discrete", "continuous"), ("analytic", "ensemble", *LATENT), ("actor_critic",)),
    *product(("dreamer",), ("grid", "pixels"), LATENT, ("actor_critic",)),
    *product(("tdmpc",), FAMILIES, ("implicit",), ("sac",)),
}
"""All that learn; the others are rejected."""


@cache
def base(family: str) -> DictConfig:
    """A run's config without parts, and its recorded steps."""
    return compose_config(["algo=random", *FAMILIES[family]])


@cache
def recorded(family: str) -> tuple[EnvSpec, list[Step]]:
    """Steps of random actions in two environments."""
    torch.manual_seed(0)
    envs = env_makers(base(family))[1](2, TRAIN)
    steps = [envs.reset()]
    for _ in range(13):
        steps.append(envs.step(envs.spec.sample(2)))
    envs.close()
    return envs.spec, steps


@cache
def part(group: str, name: str) -> DictConfig:
    """A file of conf/ with those that it inherits from in the same folder."""
    cfg = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(cfg, DictConfig)
    inherited = [entry for entry in cfg.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    merged = OmegaConf.merge(*(part(group, other) for other in inherited), cfg)
    assert isinstance(merged, DictConfig)
    return merged


def config(pair: Pair) -> DictConfig:
    """A pair's config, tiny."""
    algo, family, model, other = pair
    planner, _, policy = other.partition("+") if algo == "mpc" else ("", "", other)
    planner = "mppi" if algo == "tdmpc" else planner
    parts = {"algo": algo, "encoder": ENCODER[family], "dynamics": model, "policy": policy, "planner": planner}
    cfg = base(family).copy()
    OmegaConf.set_struct(cfg, False)
    for group, name in parts.items():
        cfg.pop(group, None)
        if name:
            cfg[group] = part(group, name).copy()
    if model in LATENT:
        cfg.policy_encoder = part("encoder", "vector")
    if algo == "mpc" and policy:
        cfg.merge_with(OmegaConf.load(CONF / "value" / f"{policy}.yaml"))
        cfg.pop("defaults")
    if algo == "mbpo":
        cfg.algo.rollouts.length = [2, 2, 0, 1]
        own_rollouts = policy in ("ppo", "actor_critic")
        from_features = policy == "svg" and model in LATENT
        cfg.algo.real_ratio = None if own_rollouts else 1.0 if from_features else 0.5
    if algo == "tdmpc":
        cfg.planner.proposals = 2
    if "every" in cfg.algo:
        cfg.algo.every = 1000
    for key, value in TINY.items():
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, value)
    return cfg


def built(pair: Pair) -> Algo | str:
    """The algorithm, or why there is none."""
    cfg = config(pair)
    try:
        check(cfg)
        algo: Algo = build(cfg.algo)(recorded(pair[1])[0])
        algo.allocate_memory()
    except (ConfigError, ValueError) as error:
        return str(error)
    return algo


def drive(algo: Algo, family: str) -> Metrics:
    """Act and learn along the recorded steps; what was measured on the way."""
    spec, steps = recorded(family)
    replay, carry, metrics = Replay(spec, 100, 2, seed=0), None, {}
    replay.add(steps[0])
    for now, (before, step) in enumerate(pairwise(steps)):
        action, carry = algo.act(before, carry, explore=True)
        assert action.shape == step.action.shape and action.dtype == step.action.dtype
        replay.add(step)
        metrics |= algo.learn(replay, 2 * now, 2 * now + 2)
    action, _ = algo.act(steps[-1], carry, explore=False)
    assert action.shape == steps[-1].action.shape
    return metrics


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_learns_or_is_rejected_in_one_line(pair: Pair) -> None:
    torch.manual_seed(0)
    algo = built(pair)
    if isinstance(algo, str):
        assert "\n" not in algo and ("try " in algo or "must be" in algo), algo
        assert pair not in RUNS, algo
        return
    assert pair in RUNS
    metrics = drive(algo, pair[1])
    assert all(torch.as_tensor(value).isfinite().all() for value in metrics.values())
    names = {name.partition("/")[0] for name in metrics}
    learns = {"model"} if pair[2] not in ("", "analytic") else set()
    learns |= {"policy"} if pair[0] != "mpc" or "+" in pair[3] else set()
    assert learns <= names, names


def test_the_pairs_are_as_many_as_the_docs_say() -> None:
    assert set(PAIRS) >= RUNS
    said = f"{len(RUNS)} of {len(PAIRS)} pairs"
    assert said in (CONF.parent / "docs" / "design.md").read_text(), said


@pytest.mark.parametrize("model", ["ensemble", "latent"])
def test_scales_of_a_value_are_those_of_observations_and_features_have_none(model: str) -> None:
    """Features of another size than observations once ended in an error."""
    torch.manual_seed(0)
    cfg = config(("mpc", "continuous", model, "cem+sac"))
    cfg.policy.normalise_obs = True
    check(cfg)
    algo = build(cfg.algo)(recorded("continuous")[0])
    algo.allocate_memory()
    drive(algo, "continuous")
    assert algo.value is not None
    taken = bool((algo.value.policy.inputs.mean != 0).any())
    assert taken == (model == "ensemble")
