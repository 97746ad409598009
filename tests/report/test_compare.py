"""Runs are grouped by what sets them apart, seeds are taken aligned, and thresholds found, all on numbers by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from mbrl_lab.report.compare import (
    Curve,
    Group,
    aligned,
    by_group,
    by_run,
    draw_comparison,
    find_runs,
    first_reaching,
    grouped,
    read_run,
)
from mbrl_lab.scores import (
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
)


def curve(seed: int, overrides: dict[str, str], returns: list[float], **settings: Any) -> Curve:
    steps = 100.0 * np.arange(1, 1 + len(returns))
    return Curve(Path(f"it-seed{seed}"), seed, settings, overrides, steps, steps / 10 + seed, np.array(returns))


def run_at(folder: Path, rows: list[dict[str, float]], words: list[str], **config: Any) -> Path:
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    (folder / "overrides.txt").write_text("\n".join(words))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {"step": 5, "eval/return": 1.0, "time/seconds": 9.0, "time/evaluation": 2.0},
        {"step": 7, "time/seconds": 10.0, "time/evaluation": 2.0},
        {"step": 9, "eval/return": 3.0, "time/seconds": 20.0, "time/evaluation": 5.0},
    ]
    words = ["algo=sac", "seed=4", "video.final=0", "+env.make.x=1", "steps=9"]
    config = {"seed": 4, "algo": {"warmup": 3}, "steps": 9, "video": {"final": 0}}
    found = read_run(run_at(tmp_path / "a", rows, words, **config))
    assert (found.seed, found.settings) == (4, {"algo.warmup": 3})
    assert found.overrides == {"algo": "sac", "env.make.x": "1"}
    assert [x.tolist() for x in (found.steps, found.seconds, found.returns)] == [[5, 9], [7, 15], [1, 3]]


def test_runs_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/members10-seed0", "b/members2-seed0", "c", "c/wandb/run-1/files"):
        run_at(tmp_path / name, [], [])
    found = find_runs([tmp_path / "b", tmp_path])
    assert [path.name for path in found] == ["members2-seed0", "members10-seed0", "c"]
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="d holds no run"):
        find_runs([tmp_path / "d"])


CASES = [
    ([({"algo": "mpc"}, {"a": 1}), ({"algo": "sac"}, {"b": 2})], ["mpc", "sac"]),
    ([({"algo": "mpc", "planner.n": "9"}, {"a": 1}), ({"algo": "sac"}, {"b": 2})], ["mpc", "sac"]),
    ([({}, {"algo._target_": "x.MPC"}), ({"algo": "sac"}, {"algo._target_": "x.Off"})], ["mpc", "sac"]),
    ([({"dynamics.k": "1"}, {"dynamics.k": 1}), ({}, {"dynamics.k": 5})], ["k 1", "k 5"]),
    (
        [({"a.k": x, "a.l": y}, {"a.k": x, "a.l": y}) for x in "12" for y in "34"],
        ["k 1, l 3", "k 1, l 4", "k 2, l 3", "k 2, l 4"],
    ),
    ([({}, {"a.k": 1, "b.m": 2}), ({}, {"a.k": 1, "b.m": 3})], ["m 2", "m 3"]),
    (
        [
            ({"algo": "mbpo", "x": "1"}, {"algo._target_": "x.MBPO", "a.on": True, "a.k": 9}),
            ({"algo": "sac", "x": "2"}, {"a.on": False, "a.k": 1}),
            ({"algo": "sac", "a.on": "true", "a.k": "9", "x": "2"}, {"a.on": True, "a.k": 9}),
        ],
        ["mbpo, on True", "sac, on False", "sac, on True"],
    ),
    (
        [({"algo": "mpc", "p.h": x}, {"p.h": x}) for x in "12"] + [({"algo": "sac"}, {"q": 1})],
        ["mpc, h 1", "mpc, h 2", "sac"],
    ),
]


@pytest.mark.parametrize(("kinds", "expected"), CASES)
def test_groups_are_named_by_how_they_differ(kinds: list[Any], expected: list[str]) -> None:
    curves = [curve(seed, words, [1.0], **settings) for seed in (0, 1) for words, settings in kinds]
    groups = grouped(curves)
    assert [group.label for group in groups] == expected
    assert [[c.seed for c in group.curves] for group in groups] == [[0, 1]] * len(kinds)


def test_a_label_that_no_legend_has_room_for_is_the_folders_name() -> None:
    words = [{f"part.setting_{k}": str(run >> k % 2 & 1) for k in range(8)} for run in range(4)]
    curves = [curve(0, w, [1.0], **{"a": n})._replace(folder=Path(f"tried{n}-seed0")) for n, w in enumerate(words)]
    assert [group.label for group in grouped(curves)] == ["tried0", "tried1", "tried2", "tried3"]
    same = [c._replace(folder=Path("run")) for c in curves]
    assert len({group.label for group in grouped(same)}) == 4, "names of folders must differ"


def test_seeds_alone_make_one_group() -> None:
    (group,) = grouped([curve(seed, {"algo": "sac"}, [1.0], a=1) for seed in range(3)])
    assert group.label == "sac" and len(group.curves) == 3


def test_seeds_are_taken_together_as_far_as_all_have_come() -> None:
    group = Group("x", [curve(0, {}, [1.0, 2.0, 3.0]), curve(2, {}, [3.0, 6.0])])
    steps, seconds, returns = aligned(group)
    assert (steps.tolist(), seconds.tolist(), returns.tolist()) == ([100, 200], [11, 21], [[1, 2], [3, 6]])


def test_the_interval_narrows_with_more_seeds() -> None:
    """Of one seed there is none, of three from lowest to highest; the IQM of normal samples has 1.195 / n variance."""
    assert all(np.isnan(x).tolist() == [True, True] for x in interval(np.array([[4.0, 5.0]])))
    assert [x.tolist() for x in interval(np.array([[1.0], [2.0], [9.0]]))] == [[1.0], [9.0]]
    many = np.random.default_rng(1).normal(size=(400, 1))
    low, high = interval(many)
    center, error = interquartile_mean(many).item(), 1.96 * many.std() * 1.195**0.5 / 20
    assert (low.item(), high.item()) == pytest.approx((center - error, center + error), abs=0.02)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    scores = np.array([[1.0, 50.0], [2.0, 7.0], [900.0, 6.0], [4.0, 5.0]])
    assert interquartile_mean(scores).tolist() == [3.0, 6.5]
    assert interquartile_mean(scores[:3]).tolist() == [301.0, 21.0], "of three seeds the mean"


@pytest.mark.parametrize(("threshold", "expected"), [(2.0, 200), (1.0, 100), (9.0, math.inf), (None, math.inf)])
def test_the_threshold_counts_from_the_first_time(threshold: float | None, expected: float) -> None:
    found = curve(0, {}, [1.0, 2.0, 0.0, 5.0])
    assert first_reaching(found.steps, found.returns, threshold) == expected


def test_tables_by_hand(tmp_path: Path) -> None:
    groups = [
        Group("fast", [curve(k, {}, [k, 5.0, 6.0]) for k in range(3)]),
        Group("slow", [curve(0, {}, [1.0, 2.0, 5.0]), curve(1, {}, [1.0, 2.0, 3.0])]),
    ]
    fast, slow = by_group(groups, 4.0)
    assert fast == {
        "of": "fast",
        "seeds": 3,
        "steps": "300",
        "seconds": "31",
        "mean": "6.0",
        "IQM": "6.0",
        "95 % of IQM": "6.0 to 6.0",
        "reached 4": "3 of 3",
        "after steps": "200",
        "after seconds": "21",
    }
    assert (slow["reached 4"], slow["after steps"], slow["mean"]) == ("1 of 2", "-", "4.0")
    assert "reached 4" not in by_group(groups, None)[0]
    rows = by_run(groups, 4.0)
    assert [row["steps_to_threshold"] for row in rows[:4]] == [200, 200, 200, 300] and len(rows) == 5
    assert math.isnan(rows[4]["steps_to_threshold"]) and rows[4]["return"] == 3
    assert draw_comparison(groups, "title", 4.0, tmp_path / "c.png").stat().st_size > 0


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    (row,) = by_group([Group("alone", [curve(0, {}, [1.0, 2.0])])], None)
    assert (row["mean"], row["IQM"], row["95 % of IQM"]) == ("2.0", "2.0", "-")
    alone = np.array([3.0])
    better, *bounds = probability_of_improvement([(alone, alone + 1)])
    assert better == 0 and np.isnan(bounds).all()
    fraction, low, high = performance_profile(np.array([2.0, 4.0]), alone)
    assert fraction.tolist() == [1, 0] and np.isnan([low, high]).all()
    # One run of X against three of Y: those of Y can be resampled.
    assert not np.isnan(probability_of_improvement([(alone, np.arange(3.0))])).any()


def test_statistics_over_environments_are_those_of_rliable() -> None:
    """rliable 1.2 on the same scores: equal, but for the noise of 2,000 resamples in intervals (50,000 of its IQM)."""
    rng = np.random.default_rng(7)
    x, y = rng.gamma(2, 1, size=(10, 4)).round(3), (rng.gamma(2, 1, size=(8, 4)) + 0.3).round(3)
    for scores, middle, bounds in ((x, 1.46005, (1.1923, 1.7859)), (y, 1.8809375, (1.4298, 2.3822))):
        assert interquartile_mean(scores.ravel()) == pytest.approx(middle, abs=1e-9)
        assert np.concatenate(interval(*np.split(scores, 4, 1))) == pytest.approx(bounds, abs=0.02)

    better = probability_of_improvement(list(zip(x.T, y.T, strict=True)))
    assert better == pytest.approx((0.39375, 0.2625, 0.5375), abs=0.02) and better[0] == pytest.approx(0.39375)
    fraction, low, high = performance_profile(np.linspace(0, 6, 7), *x.T)
    assert fraction == pytest.approx([1, 0.7, 0.225, 0.1, 0.05, 0.025, 0])
    assert (low[1], high[1]) == pytest.approx((0.55, 0.825), abs=0.03)


def test_runs_are_resampled_within_their_environment() -> None:
    """Scores that are equal within each environment leave nothing to chance; pooled, they would."""
    low, high = interval(np.full((3, 1), 1.0), np.full((3, 1), 9.0))
    assert (low.item(), high.item()) == (5.0, 5.0)
    assert probability_of_improvement([(np.ones(3), np.ones(2)), (np.ones(3), np.zeros(2))]) == (0.75, 0.75, 0.75)
