"""Several runs in one figure: return against real steps and against seconds, interquartile means over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from mbrl_lab.report.curves import read_metrics, series
from mbrl_lab.report.figure import COLOURS, GREY, legend, make_panels, save, set_labels
from mbrl_lab.report.tables import Row
from mbrl_lab.scores import interquartile_mean, interval, performance_profile
from mbrl_lab.tracking.folder import RunFolder, no_run
from mbrl_lab.tracking.settings import ABSENT, MAY_CHANGE, flatten

Array = NDArray[np.float64]

IGNORED = MAY_CHANGE | {"seed", "hydra", "log_every"}
"""Settings that may differ between runs of one group."""

MANY = 3
"""Maximum number of settings in a label; if runs differ in more, and in no override, it is their folder's name."""


PROFILE_POINTS = 101
"""Scores at which a performance profile is drawn."""

LONGEST = 60
"""Letters of a label made of overrides; if one is longer, labels are the folders' names, where these differ."""


class Curve(NamedTuple):
    """A run's evaluations during training: mean returns by real steps and by seconds of training."""

    folder: Path
    seed: int
    settings: dict[str, Any]  # flat, without IGNORED
    overrides: dict[str, str]
    steps: Array  # [N]
    seconds: Array  # [N] without evaluations
    returns: Array  # [N]
    final: float = math.nan  # mean return of the final policy; NaN: not evaluated yet


class Group(NamedTuple):
    """Runs that differ only by their seeds."""

    label: str
    curves: list[Curve]


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The folders of runs in and below some places. ValueError if a place has none."""
    found: list[Path] = []
    for place in places:
        # wandb keeps a config.yaml of its own inside of a run's folder.
        configs = (path for path in place.rglob("config.yaml") if "wandb" not in path.relative_to(place).parts)
        runs = sorted({path.parent for path in configs}, key=natural)
        if not runs:
            raise ValueError(no_run(place))
        found += [run for run in runs if run not in found]
    return found


def natural(path: Path) -> list[Any]:
    """A sort key that puts 2 before 10."""
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", str(path))]


def read_run(folder: Path) -> Curve:
    """The curve of a run so far."""
    home = RunFolder(folder)
    config = home.config() or {}
    settings = flatten({k: v for k, v in config.items() if k not in IGNORED})

    # Overrides name the groups of a figure: they are what the user varied.
    overrides = {k: v for k, sign, v in (word.lstrip("+").partition("=") for word in home.overrides()) if sign}
    kept = {k: v for k, v in overrides.items() if k.split(".")[0] not in IGNORED}

    # Time of evaluations is excluded: the algorithm does not need them.
    rows = read_metrics(home.metrics)
    steps, seconds, evaluating, returns = series(rows, "time/seconds", "time/evaluation", "eval/return")
    final = last(series(rows, "final/return")[1])
    return Curve(folder, int(config.get("seed", 0)), settings, kept, steps, seconds - evaluating, returns, final)


def environment_name(run: Curve) -> str:
    """The environment's gymnasium id, game, task or file, whichever the settings contain, with Atari's protocol.

    Returns of two protocols must not be compared.
    """
    known = (
        run.settings.get("env.make.id"),
        run.settings.get("env.game"),
        run.settings.get("env.task"),
        run.overrides.get("env"),
    )
    name, protocol = next(filter(None, known), run.folder.parent.name), run.settings.get("env.protocol")
    return f"{name} ({protocol})" if protocol else str(name)


def threshold_of(settings: Mapping[str, Any]) -> float | None:
    """The environment file's `threshold`, or gymnasium's `reward_threshold`, if there is one."""
    given = settings.get("env.threshold")
    known = gymnasium.registry.get(str(settings.get("env.make.id")))
    return given if given is not None else known.reward_threshold if known else None


def grouped(curves: Sequence[Curve]) -> list[Group]:
    """Groups of runs with equal settings, in the order of the runs, named by their differences."""
    # Compared as text: a list has no hash, and an absent setting differs from any value.
    differing = [k for k in keys_of(c.settings for c in curves) if len({str(value(c.settings, k)) for c in curves}) > 1]
    kinds: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        kinds.setdefault(tuple(str(value(curve.settings, k)) for k in differing), []).append(curve)
    groups = list(kinds.values())
    return [Group(label, group) for label, group in zip(labels(groups, differing), groups, strict=True)]


def labels(groups: Sequence[Sequence[Curve]], differing: Sequence[str]) -> list[str]:
    """A name for each group: the first override in which all differ, alone or with algo, or settings, or a folder."""
    first = [group[0] for group in groups]
    if len(first) == 1:
        return [shown_value(first[0], "algo") or first[0].folder.name]
    differing_overrides = [
        k for k in keys_of(c.overrides for c in first) if len({shown_value(c, k) for c in first}) > 1
    ]

    # One override, then algo and one override, then all of them: the shortest label that distinguishes all groups.
    for keys in (*([k] for k in differing_overrides), *(["algo", k] for k in differing_overrides), differing_overrides):
        named = [", ".join(filter(None, (shown_word(k, shown_value(c, k)) for k in keys))) for c in first]
        if all(named) and len(set(named)) == len(first):
            break
    else:
        named = []

    # Runs that were started one by one may differ in a dozen overrides, which no legend has room for.
    folders = [re.sub(r"-?seed\d+.*", "", c.folder.name) or c.folder.name for c in first]
    if named and (max(map(len, named)) <= LONGEST or len(set(folders)) < len(first)):
        return named
    if not named and len(differing) <= MANY:
        return [", ".join(shown_word(k, value(c.settings, k)) for k in differing) for c in first]
    return folders


def shown_value(curve: Curve, key: str) -> str:
    """The value of a setting, or the override that chose a group, or the class of a group; otherwise empty."""
    chosen = str(curve.settings.get(f"{key}._target_", "")).split(".")[-1].lower()
    return str(curve.settings.get(key, curve.overrides.get(key, chosen)))


def shown_word(key: str, given: Any) -> str:
    """`algo=sac` is shown as sac, a dotted setting by its last name."""
    if given in ("", ABSENT) or key == "env":
        return ""
    return str(given) if key == "algo" else f"{key.split('.')[-1]} {given}"


def value(settings: Mapping[str, Any], key: str) -> Any:
    return settings.get(key, ABSENT)


def keys_of(trees: Any) -> list[str]:
    return list(dict.fromkeys(key for tree in trees for key in tree))


def draw_comparison(groups: Sequence[Group], title: str, threshold: float | None, *paths: Path) -> Path:
    """Two panels: interquartile mean of the return over seeds, with an interval, against real steps and seconds."""
    figure, axes = make_panels(2, 2, title)
    # Colours repeat where there are more groups than colours.
    for group, colour in zip(groups, COLOURS * (1 + len(groups) // len(COLOURS)), strict=False):
        steps, seconds, returns = aligned(group)
        low, high = interval(returns)
        for at, x in zip(axes, (steps, seconds), strict=True):
            at.plot(
                x, interquartile_mean(returns), "o-", color=colour, markersize=2.5, linewidth=1.4, label=group.label
            )
            at.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)

    for at, unit in zip(axes, ("environment steps", "seconds of training"), strict=True):
        if threshold is not None:
            at.axhline(threshold, color=GREY, linestyle="--", linewidth=0.9)
        set_labels(at, "Return, IQM over seeds, 95 % interval", unit)
        at.xaxis.set_major_formatter(EngFormatter(sep=""))

    legend(axes[0])
    return save(figure, *paths)


def draw_profile(scores: Sequence[tuple[str, Array]], title: str, *paths: Path) -> Path:
    """One panel: the fraction of each group's runs, of [S] scores, above each score, with an interval."""
    figure, (axes,) = make_panels(1, 1, title)
    grid = profile_grid([values for _, values in scores])
    for (label, values), colour in zip(scores, COLOURS * (1 + len(scores) // len(COLOURS)), strict=False):
        fraction, low, high = performance_profile(grid, values)
        axes.step(grid, fraction, where="post", color=colour, linewidth=1.4, label=label)
        axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.2, linewidth=0)
    set_labels(axes, "Fraction of runs above a return, 95 % interval", "final return")
    legend(axes)
    return save(figure, *paths)


def profile_grid(scores: Sequence[Array]) -> Array:
    """The scores at which a performance profile is drawn: from below the lowest run to above the highest."""
    every = np.concatenate(scores)
    # With equal scores there is no range, and the profile is a single step in the middle.
    margin = 0.05 * (float(np.ptp(every)) or 1.0)
    return np.linspace(every.min() - margin, every.max() + margin, PROFILE_POINTS)


def aligned(group: Group) -> tuple[Array, Array, Array]:
    """[N] steps at which all runs were evaluated, [N] mean seconds by then, [S, N] returns."""
    # Seeds may be at different steps while they run; a mean needs all of them.
    common = sorted(set.intersection(*(set(c.steps.tolist()) for c in group.curves)))
    at = [np.searchsorted(c.steps, common) for c in group.curves]
    seconds = np.array([c.seconds[i] for c, i in zip(group.curves, at, strict=True)])
    returns = np.array([c.returns[i] for c, i in zip(group.curves, at, strict=True)])
    return np.array(common), seconds.mean(0), returns


def first_reaching(x: Array, returns: Array, threshold: float | None) -> float:
    """The first of `x` at which the return reaches the threshold; infinite if it never does."""
    if threshold is None or not (returns >= threshold).any():
        return math.inf
    return float(x[np.argmax(returns >= threshold)])


def by_run(groups: Sequence[Group], threshold: float | None) -> list[Row]:
    """A row for each run, for a CSV file."""
    return [
        {
            "environment": environment_name(c),
            "of": group.label,
            "seed": c.seed,
            "folder": str(c.folder),
            "steps": last(c.steps),
            "seconds": last(c.seconds),
            "return": last(c.returns),
            "threshold": math.nan if threshold is None else threshold,
            "steps_to_threshold": finite(first_reaching(c.steps, c.returns, threshold)),
            "seconds_to_threshold": finite(first_reaching(c.seconds, c.returns, threshold)),
        }
        for group in groups
        for c in group.curves
    ]


def by_group(groups: Sequence[Group], threshold: float | None) -> list[Row]:
    """A row for each group, for a terminal: the return at the last evaluation that all its seeds have."""
    rows = []
    for group in groups:
        steps, seconds, returns = aligned(group)
        row: Row = {"of": group.label, "seeds": len(group.curves), "steps": whole(last(steps))}
        row |= {"seconds": whole(last(seconds))} | score_columns(returns[:, -1:])
        rows.append(row | threshold_columns(group, threshold))
    return rows


def score_columns(returns: Array) -> Row:
    """Mean and IQM over seeds of one return each, and the interval of the IQM, of [S, 1]; dashes for [S, 0].

    One seed has no interval.
    """
    if not returns.size:
        return dict.fromkeys(("mean", "IQM", "95 % of IQM"), "-")
    low, high = interval(returns)
    return {
        "mean": f"{returns.mean():.1f}",
        "IQM": f"{last(interquartile_mean(returns)):.1f}",
        "95 % of IQM": range_text(last(low), last(high), ".1f"),
    }


def range_text(low: float, high: float, form: str) -> str:
    """The two ends of an interval; a dash if it is unknown."""
    return f"{low:{form}} to {high:{form}}" if math.isfinite(low) else "-"


def threshold_columns(group: Group, threshold: float | None) -> Row:
    """Number of seeds that reached the threshold; medians over seeds of the steps and seconds that it took.

    Dashes for a group without runs.
    """
    if threshold is None:
        return {}
    names = (f"reached {threshold:g}", "after steps", "after seconds")
    if not group.curves:
        return dict.fromkeys(names, "-")

    took = [first_reaching(c.steps, c.returns, threshold) for c in group.curves]
    time = [first_reaching(c.seconds, c.returns, threshold) for c in group.curves]
    reached = f"{sum(map(math.isfinite, took))} of {len(took)}"
    medians = [whole(float(np.median(x))) for x in (took, time)]
    return dict(zip(names, [reached, *medians], strict=True))


def last(x: Array) -> float:
    return float(x[-1]) if len(x) else math.nan


def finite(x: float) -> float:
    return x if math.isfinite(x) else math.nan


def whole(x: float) -> str:
    return f"{x:,.0f}" if math.isfinite(x) else "-"
