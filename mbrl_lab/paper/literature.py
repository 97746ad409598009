"""Literature: which papers a part of a run is from, and their entries in references.bib."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium

BIB = Path(__file__).with_name("references.bib")

PARTS: Mapping[str, tuple[str, ...]] = {
    "MPC": ("chua2018",),
    "MBPO": ("janner2019",),
    "Dreamer": ("hafner2020", "hafner2023"),
    "SAC": ("haarnoja2018", "haarnoja2019", "christodoulou2019"),
    "CrossQ": ("bhatt2024",),
    "SVG": ("heess2015", "feinberg2018", "amos2021", "kubo2025"),
    "DDQN": ("vanhasselt2016", "bellemare2017", "hessel2018", "schwarzer2023"),
    "PPO": ("schulman2017", "schulman2016"),
    "ActorCritic": ("hafner2023",),
    "RandomShooting": ("nagabandi2018",),
    "CEM": ("rubinstein1999",),
    "ICEM": ("pinneri2020",),
    "MPPI": ("williams2017",),
    "Ensemble": ("lakshminarayanan2017", "chua2018"),
    "RSSM": ("hafner2019", "hafner2023"),
    "Latent": (),
    "FrameModel": (),
    "GridModel": (),
    "Analytic": (),
    "Random": (),
    "OffPolicy": (),
    "OnPolicy": (),
}
"""Class -> keys. A class that is not here has a mark for the author, who knows its paper."""

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "make_atari": ("bellemare2013",),
    "AtariVector": ("bellemare2013",),
    "MinAtar": ("young2019",),
    "MinAtarVector": ("young2019",),
    "make_dmc": ("tassa2018",),
}
"""Function or class that makes the environment -> keys."""

TOOLS = ("paszke2019", "towers2024", "yadan2019")
STATISTICS = "agarwal2021"


class Entry(NamedTuple):
    """An entry of references.bib."""

    source: str  # as in the file
    short: str  # Chua et al. 2018
    text: str  # for a list of references


@cache
def library() -> dict[str, Entry]:
    """Every entry, by its key."""
    sources = re.findall(r"^@\w+\{.*?^\}$", BIB.read_text(encoding="utf-8"), re.M | re.S)
    return {source.partition("{")[2].partition(",")[0]: read_entry(source) for source in sources}


def read_entry(source: str) -> Entry:
    """An entry with fields of one line each."""
    fields = {key: value.replace("{", "").replace("}", "") for key, value in re.findall(r"(\w+) = \{(.*)\}", source)}
    authors = [" ".join(reversed(name.split(", "))) for name in fields["author"].split(" and ")]
    last = [name.partition(", ")[0] for name in fields["author"].split(" and ")]
    named = last[0] if len(last) == 1 else " and ".join(last) if len(last) == 2 else f"{last[0]} et al."
    where = next(fields[key] for key in ("booktitle", "journal", "howpublished") if key in fields)
    return Entry(
        source, f"{named} {fields['year']}", f"{', '.join(authors)} ({fields['year']}). {fields['title']}. {where}."
    )


def environment_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The papers of a run's environment, beside gymnasium's."""
    env = config.get("env") or {}
    made = env.get("make_vector") or env.get("make") or {}
    name = str(made.get("_target_")).rpartition(".")[2]
    known = gymnasium.registry.get(str(made.get("id")))
    simulated = known is not None and "mujoco" in str(known.entry_point)
    return ENVIRONMENTS.get(name, ("todorov2012",) if simulated else ())
