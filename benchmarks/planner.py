"""Model evaluations a second of a CEM plan at mbrl-lib's CartPole setting, with mbrl-lib's own beside it on request.

    python benchmarks/planner.py --threads 2
    python benchmarks/planner.py --threads 2 --mbrl-lib ../mbrl-lib

Setting: 350 sequences, 5 iterations, 20 particles, horizon 15; 7 Gaussian members of 4 x 200, a member drawn at every
step (TS1). Like for like, rewards and ends are computed; "heads" learns both, which mbrl-lib cannot for ends. Each
round times every variant once, so that a busy machine slows all of them; the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from mbrl_lab.app import compile_parts
from mbrl_lab.dynamics import Ends, Ensemble
from mbrl_lab.env import physics
from mbrl_lab.planner import CEM
from mbrl_lab.types import EnvSpec

CONF = Path(__file__).parents[1] / "conf"
SPEC = EnvSpec((4,), torch.float32, 1, discrete=False)
POPULATION, ITERATIONS, PARTICLES, HORIZON, MEMBERS, WIDTH, DEPTH = 350, 5, 20, 15, 7, 200, 4
EVALUATIONS = POPULATION * ITERATIONS * PARTICLES * HORIZON
Plan = Callable[[], object]


def settings(file: str, **changes: Any) -> dict[str, Any]:
    """A config file's arguments, with changes."""
    given = {str(k): v for k, v in OmegaConf.to_container(OmegaConf.load(CONF / f"{file}.yaml")).items()}  # type: ignore[union-attr]
    return {k: v for k, v in given.items() if k not in ("_target_", "_partial_")} | changes


def ours(device: str, heads: bool, propagation: str, bfloat16: bool, compiled: bool) -> Plan:
    """One plan of our CEM with our ensemble."""
    net = {"members": MEMBERS, "elites": MEMBERS, "width": WIDTH, "depth": DEPTH, "gaussian": True}
    known = {"reward_fn": _survived, "termination_fn": physics.cartpole_termination}
    learned = {"reward_fn": None, "termination_fn": None}
    ends = partial(Ends, width=64, depth=2, lr=3e-3, separate=False, certain=False, hazard=0.0)
    changes: dict[str, Any] = net | {"ends": ends} | {"propagation": propagation} | (learned if heads else known)
    model = Ensemble(SPEC, **settings("dynamics/ensemble", **changes)).to(device)
    model.ends.seen.fill_(True)
    model.freeze()
    if compiled:
        compile_parts(model)
    search = {"population": POPULATION, "elites": 35, "iterations": ITERATIONS, "particles": PARTICLES}
    planner = CEM(**settings("planner/cem", horizon=HORIZON, **search))
    warm, obs = planner.start(SPEC, 1, device), torch.zeros(1, 4, device=device)

    def plan() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            planner.plan(model, obs, warm)

    return plan


def _survived(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return (~physics.cartpole_termination(obs, action, next_obs)).float()


def theirs(device: str, path: str, heads: bool, propagation: str) -> Plan:
    """One plan of mbrl-lib's CEM with mbrl-lib's ensemble; with `heads` its rewards are learned, its ends never."""
    models, planning, rewards, ends = _imported(path)
    silu = {"_target_": "torch.nn.SiLU"}
    how = {"ts1": "random_model", "ts_inf": "fixed_model"}[propagation]
    net = models.GaussianMLP(
        5, 4 + heads, device, DEPTH, MEMBERS, WIDTH, propagation_method=how, activation_fn_cfg=silu
    )
    model = models.OneDTransitionRewardModel(
        net, target_is_delta=True, normalize=True, normalize_double_precision=True, learned_rewards=heads
    )
    spaces = SimpleNamespace(observation_space=None, action_space=None)
    world = models.ModelEnv(spaces, model, ends.cartpole, None if heads else rewards.cartpole)
    cem = {
        "_target_": "mbrl.planning.CEMOptimizer",
        "num_iterations": ITERATIONS,
        "elite_ratio": 0.1,
        "population_size": POPULATION,
        "alpha": 0.1,
        "lower_bound": None,
        "upper_bound": None,
        "device": device,
        "return_mean_elites": True,
    }
    low, high = np.array([-1.0]), np.array([1.0])
    agent = planning.TrajectoryOptimizerAgent(OmegaConf.create(cem), low.tolist(), high.tolist(), HORIZON)
    agent.set_trajectory_eval_fn(lambda obs, plans: world.evaluate_action_sequences(plans, obs, PARTICLES))
    return lambda: agent.act(np.zeros(4, dtype=np.float32))


def _imported(path: str) -> list[ModuleType]:
    """mbrl-lib's models, planning, reward functions and termination functions."""
    sys.path.insert(0, path)
    unused = {name for name in ("termcolor", "tqdm") if importlib.util.find_spec(name) is None}
    sys.modules.update({name: ModuleType(name) for name in unused})  # for its logger and its trainer
    names = ("models", "planning", "env.reward_fns", "env.termination_fns")
    found = [importlib.import_module(f"mbrl.{name}") for name in names]
    for name in unused:
        del sys.modules[name]  # torch.compile looks for them
    return found


def variants(device: str, path: str | None, propagation: str, bfloat16: bool, compiled: bool) -> dict[str, Plan]:
    """Everything to be timed, by name."""
    kinds = {
        "fp32": (False, False),
        "fp32 compiled": (False, True),
        "bf16": (True, False),
        "bf16 compiled": (True, True),
    }
    wanted = {k: v for k, v in kinds.items() if v[0] <= bfloat16 and v[1] <= compiled}
    found: dict[str, Plan] = {}
    for heads in (False, True):
        suffix = ", heads" if heads else ""
        if path is not None:
            found[f"mbrl-lib fp32{suffix}"] = theirs(device, path, heads, propagation)
        for name, kind in wanted.items():
            found[f"ours {name}{suffix}"] = ours(device, heads, propagation, *kind)
    return found


def seconds(plan: Plan, device: str) -> float:
    """Wall time of one plan."""
    start = time.perf_counter()
    plan()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--propagation", default="ts1", choices=["ts1", "ts_inf"])
    parser.add_argument("--bf16", action="store_true", help="autocast too; slow on a processor without bfloat16")
    parser.add_argument("--compile", action="store_true", help="compiled too; compiling takes a minute")
    parser.add_argument("--mbrl-lib", metavar="PATH", help="a checkout of facebookresearch/mbrl-lib")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = variants(given.device, given.mbrl_lib, given.propagation, given.bf16, given.compile)
    for plan in found.values():
        plan()
    rounds = [[seconds(plan, given.device) for plan in found.values()] for _ in range(given.rounds)]
    rates = [EVALUATIONS / statistics.median(times) for times in zip(*rounds, strict=True)]
    for name, rate in zip(found, rates, strict=True):
        ratio = f"  {rate / rates[0]:5.2f} x" if given.mbrl_lib else ""
        print(f"{name:32} {rate / 1e6:6.3f} M evaluations/s  {EVALUATIONS / rate * 1e3:7.0f} ms a plan{ratio}")


if __name__ == "__main__":
    main()
