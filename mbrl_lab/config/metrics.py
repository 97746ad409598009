"""Metrics: the meaning of each logged name. docs/metrics.md is made from this table, and tests compare runs with it.

Names: `model/{train,holdout,openloop,rollout}/{obs,reward,termination}/NUMBER`, `policy/`, `planner/`, `actions/`,
`train/`, `eval/`, `final/`, `time/`. A row holds the mean of each over its measurements since the last row.
"""

from __future__ import annotations

import re

EPISODES = {
    "return": "mean return of whole episodes",
    "return_std": "their standard deviation",
    "return_iqm": "their interquartile mean",
    "return_min": "the smallest of them",
    "return_max": "the largest of them",
    "length": "mean steps of an episode",
    "hns": "human-normalised score, where env.score is known",
}

IMAGES = {"reward": "rewards other than 0", "termination": "terminations"}

MEANINGS: dict[str, str] = {
    "step": "environment steps of training so far",
    "frames": "step times env.frame_skip",
    "replay/size": "environment steps in replay",
    "replay/weight": "mean importance weight of a batch that was drawn by priority",
    "runtime/bits": "precision of the networks: 16 (bf16) or 32 (fp32)",
    "train/return": "mean return of the training episodes that finished since the last row",
    "train/length": "mean steps of these",
    **{f"eval/{name}": f"evaluation while training: {what}" for name, what in EPISODES.items()},
    **{f"final/{name}": f"evaluation of the final policy: {what}" for name, what in EPISODES.items()},
    "actions/<k>": "fraction of action k in training since the last row; discrete actions",
    "actions/top": "the largest of these fractions",
    "actions/mean_abs": "mean of |action|; continuous actions",
    "actions/std_abs": "standard deviation of |action|",
    "actions/at_bounds": "fraction of actions at -1 or 1",
    "model/train/loss": "loss of the model over the updates of a fit; below zero is possible if Gaussian",
    "model/train/obs/loss": "its part for observations, or their reconstruction",
    "model/train/reward/loss": "its part for rewards",
    "model/train/termination/loss": "its part for terminations: cross-entropy",
    "model/train/consistency": "latent: loss between the predicted and the encoded next state",
    "model/train/latent/rmse": "latent: root mean square distance between these two",
    "model/train/latent/std": "latent: mean standard deviation of its dimensions over steps; near 0 it has collapsed",
    "model/train/latent/usage": "RSSM: fraction of the classes in use, by the entropy of their frequencies",
    "model/train/kl": "RSSM: KL of posterior and prior in nats",
    "model/train/kl_prior": "RSSM: the part of the loss that trains the prior",
    "model/train/kl_posterior": "RSSM: the part of the loss that trains the posterior",
    "model/train/posterior_entropy": "RSSM: in nats, summed over latents",
    "model/train/gradient_norm": "norm of the gradient before it was clipped",
    "model/train/updates": "gradient steps of a fit",
    "model/holdout/loss": "lowest error on held-out steps, mean over members: squared error of standardised targets",
    "model/holdout/obs/rmse": "one-step error on held-out steps, in standard deviations of the change",
    "model/holdout/reward/rmse": "the same of the reward",
    "model/holdout/termination/error": "mean of the rates of missed and of false terminations: 0.5 is chance",
    "model/holdout/std": "standard deviation over the members' means, root mean square",
    "model/holdout/coverage_<level>": "fraction of targets in the central 50, 80, 95 % intervals",
    "model/openloop/obs/changed_f1_<steps>": "images: F1 of the changing pixels, after this number of predicted steps",
    "model/openloop/obs/tiles_right_<steps>": "images: fraction of the changing tiles that are predicted correctly",
    "model/openloop/obs/<object>_recall_<steps>": "images: fraction of starts from which an object (ball ...) is found",
    **{f"model/openloop/{kind}/precision": f"images: precision for {what}, at 0.5" for kind, what in IMAGES.items()},
    **{f"model/openloop/{kind}/recall": f"images: recall for {what}, at 0.5" for kind, what in IMAGES.items()},
    **{f"model/openloop/{kind}/average_precision": f"images: for {what}" for kind, what in IMAGES.items()},
    **{
        f"model/openloop/{kind}/calibration": "images: sum of probabilities divided by the true count; 1 is calibrated"
        for kind in IMAGES
    },
    "model/openloop/trusted_horizon": "images: steps that rollouts may have, by the open-loop errors; 0: none",
    "model/openloop/obs/error_<steps>": "model.json: median error after this number of predicted steps",
    "model/openloop/obs/std_<steps>": "model.json: standard deviation over the model's samples at that step",
    "model/openloop/reward/rmse": "model.json: error of the rewards on fresh episodes",
    "model/openloop/termination/at_terminations": "model.json: mean predicted probability where an episode terminated",
    "model/openloop/termination/elsewhere": "model.json: the same at all other steps",
    "model/rollout/length": "steps that the rollouts of algo.rollouts, or of ppo, may have, by the schedule",
    "model/rollout/continue": "mean number of steps that they had: fewer if they terminated or the members disagreed",
    "model/rollout/reward": "mean imagined reward of a step",
    "model/rollout/disagreement": "mean disagreement of the members in the start states of rollouts",
    "planner/predicted": "predicted return of a plan over its horizon; in model.json on fresh episodes",
    "planner/achieved": "model.json: return that followed",
    "planner/correlation": "model.json: correlation of the two",
    "policy/loss": "DDQN: mean loss over valid windows; PPO: the negative clipped objective",
    "policy/value_loss": "PPO: squared error of the value",
    "policy/actor_loss": "SAC, actor-critic: loss of the actor",
    "policy/critic_loss": "SAC, actor-critic: loss of the critics",
    "policy/real_critic_loss": "Dreamer with algo.hybrid: loss of the critic on real steps",
    "policy/q": "mean of Q(s, a), over the critics too, for the actions of the batch; svg: of the imagined rollouts",
    "policy/value": "actor-critic: mean value of imagined states by the target critic",
    "policy/return": "actor-critic: mean lambda-return",
    "policy/return_range": "actor-critic: range by which returns are divided if it is above 1",
    "policy/imagined_reward": "actor-critic and svg: mean imagined reward",
    "policy/imagined_termination": "actor-critic: mean imagined probability of a termination",
    "policy/entropy": "entropy of the policy in nats",
    "policy/alpha": "SAC: the temperature",
    "policy/epsilon": "DDQN: probability of a random action",
    "policy/kl": "PPO: approximate KL from the policy that acted",
    "policy/clip_fraction": "PPO: fraction of steps whose ratio was clipped",
    "policy/explained_variance": "PPO: fraction of the returns' variance that the value explains",
    "policy/gradient_norm": "norm of the gradient before it was clipped",
    "time/seconds": "seconds of training and evaluation",
    "time/evaluation": "the part of these for evaluations",
    "time/processor": "processor seconds of both, of all threads; without environments in their own processes",
    "time/sps": "training steps per second",
    "time/plan": "seconds for one planning step",
}


def meaning(name: str) -> str | None:
    """The meaning of a logged name; None for an unknown one."""
    for known, what in MEANINGS.items():
        if known == name or ("<" in known and re.fullmatch(re.sub(r"<\w+>", r"\\w+", known), name)):
            return what
    return None


def table() -> str:
    """docs/metrics.md."""
    rows = [f"| `{name}` | {what} |" for name, what in MEANINGS.items()]
    return "\n".join([INTRODUCTION, "", "| name | meaning |", "| --- | --- |", *rows]) + "\n"


INTRODUCTION = """# Metrics

This table has every name in `metrics.jsonl`, and those of `diagnostics/model.json` that are not logged. A row holds the
mean of each metric over its measurements since the last row. Measurements of time are under `time/`; all others are the
same in every run of one config and seed on one machine. `stop.metric` may be any metric that is logged during training;
for the name of an earlier version the error message has the new one. This page is made by `python benchmarks/options.py
--write` from [config/metrics.py](../mbrl_lab/config/metrics.py)."""
