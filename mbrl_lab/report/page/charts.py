"""Charts as Vega-Lite specifications: plain data, which the page's script draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mbrl_lab.report.compare import Array, Group, aligned, profile_grid
from mbrl_lab.report.figure import COLOURS
from mbrl_lab.report.page.groups import Environment, final_scores, with_evaluations
from mbrl_lab.report.tables import Row
from mbrl_lab.scores import interquartile_mean, interval, performance_profile

Spec = dict[str, Any]

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES: tuple[list[int], ...] = ([], [6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3])
"""Marks and dashes differ as well as colours, for those who see no difference in colours, and for grey paper."""

HEIGHT = 260


def style(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, dash and shape of each label."""
    return [
        {"colour": COLOURS[k % len(COLOURS)], "dash": DASHES[k % len(DASHES)], "shape": SHAPES[k % len(SHAPES)]}
        for k in range(len(labels))
    ]


def curve_rows(groups: Sequence[Group]) -> list[Row]:
    """IQM and interval at each evaluation that all seeds of a group have."""
    rows: list[Row] = []
    for group in map(with_evaluations, groups):
        if not group.curves:
            continue
        steps, seconds, returns = aligned(group)
        if len(steps):
            low, high = interval(returns)
            for columns in zip(steps, seconds, interquartile_mean(returns), low, high, strict=True):
                names = ("steps", "seconds", "IQM", "low", "high")
                numbers = dict(zip(names, map(rounded, columns), strict=True))
                rows.append({"group": group.label, "seeds": len(group.curves)} | numbers)
    return rows


def seed_rows(groups: Sequence[Group]) -> list[Row]:
    """Every evaluation of every seed."""
    return [
        {"group": group.label, "seed": curve.seed, "run": number}
        | {"steps": rounded(s), "seconds": rounded(t), "return": rounded(r)}
        for group in groups
        for number, curve in enumerate(group.curves)
        for s, t, r in zip(curve.steps, curve.seconds, curve.returns, strict=True)
    ]


def curve_chart(environment: Environment, labels: Sequence[str], x: str) -> Spec:
    """Return against `x`, steps or seconds: IQM and interval of each group, and every seed on demand."""
    title = {"steps": "environment steps", "seconds": "seconds of training"}[x]
    across = {"field": x, "type": "quantitative", "title": title, "axis": {"format": "~s", "tickCount": 8}}
    common = {"x": across, **by_group(labels)}
    shown = [tooltip("group"), *(number_tooltip(key) for key in ("IQM", "low", "high", "steps", "seconds", "seeds"))]

    curves = [
        layer({"type": "area", "opacity": 0.18}, common, y=up("low"), y2={"field": "high"}),
        layer({"type": "line", "strokeWidth": 2}, common, y=up("IQM")),
        layer({"type": "point", "filled": True, "size": 36}, common, y=up("IQM"), tooltip=shown),
    ]
    of_seed = [tooltip("group"), tooltip("seed"), number_tooltip("return"), number_tooltip("steps")]
    seed = layer(
        {"type": "line", "strokeWidth": 1, "opacity": 0.6, "point": {"size": 9, "opacity": 0.6}},
        common,
        y=up("return"),
        detail={"field": "run"},
        tooltip=of_seed,
    )
    layers = [
        {"data": {"values": seed_rows(environment.groups)}, "transform": [visible("seeds")], **seed},
        {"data": {"values": curve_rows(environment.groups)}, "transform": [visible()], "layer": curves},
    ]
    if environment.threshold is not None:
        mark = {"type": "rule", "strokeDash": [4, 4], "color": "currentColor", "opacity": 0.6, "aria": False}
        level = {"values": [{"threshold": environment.threshold}]}
        layers.append({"data": level, "mark": mark, "encoding": {"y": up("threshold")}})
    return chart(layers, f"Return of evaluations on {environment.name} against {title}. The numbers are in a table.")


def profile_chart(strata: Sequence[tuple[str, Sequence[Array]]], labels: Sequence[str], x: str, where: str) -> Spec:
    """Performance profile: the fraction of runs above each score, with 95 % intervals.

    Args:
        strata: label, and scores [S] in each environment.
        labels: of all groups of the report.
        x: title of the axis of scores.
        where: environment, or environments, for the description.
    """
    grid = profile_grid([values for _, group in strata for values in group])
    rows: list[Row] = []
    for label, group in strata:
        for columns in zip(grid, *performance_profile(grid, *group), strict=True):
            numbers = dict(zip(("score", "fraction", "low", "high"), map(rounded, columns), strict=True))
            rows.append({"group": label} | numbers)

    common = {"x": {"field": "score", "type": "quantitative", "title": x}, **by_group(labels)}
    shown = [tooltip("group"), *(number_tooltip(key) for key in ("score", "fraction", "low", "high"))]
    fraction = {"type": "quantitative", "title": "fraction of runs above", "axis": {"format": "%"}}
    steps = {"interpolate": "step-after"}
    layers = [
        layer({"type": "area", "opacity": 0.14, **steps}, common, y={"field": "low", **fraction}, y2={"field": "high"}),
        layer({"type": "line", **steps}, common, y={"field": "fraction", **fraction}, tooltip=shown),
    ]
    curves = {"data": {"values": rows}, "transform": [visible()], "layer": layers}
    return chart([curves], f"Performance profile on {where}: fraction of runs above each score.")


def by_group(labels: Sequence[str]) -> Spec:
    """Colour, dash and shape of a group. The page has a legend of its own, which is a list of switches."""
    styles = style(labels)
    encoding = {"color": "colour", "strokeDash": "dash", "shape": "shape"}
    return {
        channel: {
            "field": "group",
            "type": "nominal",
            "legend": None,
            "scale": {"domain": list(labels), "range": [s[key] for s in styles]},
        }
        for channel, key in encoding.items()
    }


def layer(mark: Spec, common: Spec, **channels: Any) -> Spec:
    """A layer with the channels that its mark has; screen readers get the tables instead of a mark for each point."""
    unused = {"point": {"strokeDash"}, "line": {"shape"}, "area": {"shape", "strokeDash"}}[mark["type"]]
    kept = {key: value for key, value in common.items() if key not in unused}
    return {"mark": {**mark, "aria": False}, "encoding": {**kept, **channels}}


def up(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "title": "return", "scale": {"zero": False}}


def tooltip(field: str) -> Spec:
    return {"field": field, "type": "nominal"}


def number_tooltip(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "format": ",.5~g"}


def visible(condition: str = "true") -> Spec:
    """The rows of groups that the page's switches leave visible."""
    return {"filter": f"{condition} && indexof(hidden, datum.group) < 0"}


def chart(layers: Sequence[Spec], description: str) -> Spec:
    """A chart as wide as its place on the page, in the colours of the page's text; Shift and the wheel zoom."""
    zoom = "wheel![event.shiftKey]"
    pan = "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!"
    by_hand = {"select": {"type": "interval", "zoom": zoom, "translate": pan}, "bind": "scales"}
    first, *others = layers
    # A selection belongs to one view. With `bind: scales` all layers share its scales.
    bound = deepest({**first}, {"params": [{"name": "window", **by_hand}]})
    text = {f"{part}Color": "currentColor" for part in ("label", "title", "tick", "domain", "grid")}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit", "contains": "padding"},
        "background": None,
        "params": [{"name": "hidden", "value": []}, {"name": "seeds", "value": False}],
        "layer": [bound, *others],
        "config": {
            "axis": {
                **text,
                "gridOpacity": 0.15,
                "titleFontWeight": "normal",
                "labelFontSize": 11,
                "titleFontSize": 12,
            },
            "view": {"stroke": None},
        },
    }


def deepest(tree: Spec, more: Spec) -> Spec:
    """Add to the innermost first layer."""
    if "layer" in tree:
        inner, *others = tree["layer"]
        return {**tree, "layer": [deepest(inner, more), *others]}
    return {**tree, **more}


def profile_strata(environment: Environment) -> list[tuple[str, list[Array]]]:
    """Label and scores of each group on one environment."""
    scored = [(group.label, final_scores(group)[0]) for group in environment.groups]
    return [(label, [scores]) for label, scores in scored if len(scores)]


def rounded(x: float) -> float | None:
    """Six significant digits, to keep the page small; None for what JSON has no number for."""
    return float(f"{x:.6g}") if math.isfinite(x) else None
