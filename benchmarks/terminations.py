"""How well terminations are learned from the steps of CartPole runs: by classifiers alone, and by bounds first.

Probe states are steps that did not terminate, with the position or the angle drawn again, to just beyond the true
edges. Sides of the track that the run never reached are left out, since nothing can be known of them.

    python benchmarks/terminations.py outputs/2025-01-01/run-mpc-cartpole-*
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mbrl_lab.dynamics import TerminationModel
from mbrl_lab.dynamics.ensemble_trainer import balanced
from mbrl_lab.env.physics import cartpole_termination
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.types import Step, Transition

MEMBERS, UPDATES, PROBES = 5, 2_300, 20_000


def transitions(run: Path) -> Transition:
    """[N]: what a run's replay holds."""
    loaded = Checkpoint(RunFolder(run).last).load()
    assert loaded is not None, f"{run} holds no checkpoint"
    chunks = [rows for _, rows in loaded.steps]
    steps = Step(*(torch.cat(field) for field in zip(*chunks, strict=True)))
    flat = Transition(*(x.flatten(0, 1) for x in steps.transitions()))
    return Transition(*(x[flat.valid] for x in flat))


def fitted(t: Transition, bounds: bool) -> TerminationModel:
    """TerminationModel after as many updates as a run of 2,500 steps makes."""
    torch.manual_seed(0)
    ends = TerminationModel(MEMBERS, t.next_obs.shape[-1], bounds=bounds, hazard=0.0)
    ends.observe(t.next_obs, t.terminal)
    over, every = t.terminal.nonzero().flatten(), torch.arange(len(t.terminal))
    for _ in range(UPDATES if ends.unexplained else 0):
        rows = balanced(over, every, torch.Size([MEMBERS, 256]))
        ends.update(Transition(*(x[rows] for x in t)))
    return ends


def probes(t: Transition) -> Tensor:
    """[PROBES, 4] states around the edges that the run has met."""
    alive = t.next_obs[~t.terminal]
    x = alive[torch.randint(len(alive), (PROBES,))]
    half = PROBES // 2
    x[:half, 0] = torch.empty(half).uniform_(-2.6, 2.6)
    x[half:, 2] = torch.empty(PROBES - half).uniform_(-0.26, 0.26)
    met = t.next_obs[t.terminal, 0]
    return x[((x[:, 0] > -2.4) | (met < -2.4).any()) & ((x[:, 0] < 2.4) | (met > 2.4).any())]


def predicted(ends: TerminationModel, x: Tensor) -> Tensor:
    """[N]: whether an end is likelier than not, by bounds and the mean of the classifiers."""
    going_on = ends.within_bounds(x, x)
    if layers := ends.freeze(torch.arange(MEMBERS)):
        going_on = going_on * ends.classify(layers, x.expand(MEMBERS, -1, -1)).mean(0)
    return going_on < 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("run                  ends seen   by           missed ends   false ends")
    for run in given.runs:
        t = transitions(run)
        torch.manual_seed(1)
        x = probes(t)
        truth = cartpole_termination(x, torch.zeros(len(x)), x)
        for name, bounds in (("classifiers", False), ("bounds", True)):
            end = predicted(fitted(t, bounds), x)
            missed, false = (~end & truth).sum() / truth.sum(), (end & ~truth).sum() / (~truth).sum()
            print(f"{run.name:20} {int(t.terminal.sum()):9}   {name:12} {missed:11.1%}   {false:10.2%}", flush=True)


if __name__ == "__main__":
    main()
