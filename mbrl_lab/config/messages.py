"""Messages for Hydra's errors: a line or two with the given value, the valid ones, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from yaml import YAMLError

from mbrl_lab.config.command_line import as_shell, parsed
from mbrl_lab.config.options import options_of
from mbrl_lab.config.renamed import answer_key, new_name, prefixes
from mbrl_lab.tracking.folder import one_line

SHOWN = 4
"""Maximum number of settings of the same name, of several parts, that a message lists."""


def explain(error: Exception, overrides: Sequence[str], confs: Sequence[Path], keys: Iterable[str]) -> str:
    """A message for an error of composition.

    Args:
        error: what Hydra, OmegaConf or YAML raised.
        overrides: the words of the command line.
        confs: the folders of configs, ours and `--config-dir`.
        keys: the settings that exist without the overrides.
    """
    # Hydra has few exception classes, so most errors can only be distinguished by their texts.
    text = str(error)
    if isinstance(error, YAMLError | UnicodeDecodeError):
        return f"a config file cannot be read: {one_line(error)}"

    # Files and settings that do not exist.
    if "_${family}'" in text:
        return "env names no family: its file must have defaults: [/family: discrete], or another of conf/family"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not (?:find|load) '([^']+)'", text)):
        return missing(found[1], confs)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown(found[1], overrides, confs, list(keys))

    # Overrides that cannot be read, or that Hydra reads as something else.
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), text.splitlines()[0])
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        one = f"; as one text it is written {as_shell(found[1])}" if "," in found[1] and "(" not in found[1] else ""
        return f"{found[1]}: a list of values is a sweep; add -m to run each of them{one}"
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"{found[1]} is a setting already: write it without the +"

    # Groups that cannot be chosen in this way.
    if found := re.search(r"Multiple values for (\w+)\.|(\w+) appears more than once", text):
        return _chosen_twice(found[1] or found[2], overrides)
    if "Error resolving interpolation" in text and any(o.startswith("recipe=") for o in overrides):
        return "recipe follows from algo and the environment's family: choose parts instead, e.g. policy=sac"
    nulls = [o for o in overrides if o.endswith("=null") and o.partition("=")[0] in groups_of(confs)]
    if nulls and "Got NoneType" in text:
        group = nulls[0].partition("=")[0]
        return f"{nulls[0]}: a group cannot be null here; {group} can be: {', '.join(_options(confs, group))}"

    # Anything else: Hydra's first line, and the first of its cause.
    cause = str(error.__cause__ or "").splitlines()[:1]
    return text.splitlines()[0] + "".join(f" ({line})" for line in cause if line not in text)


def deleted_key(error: Exception) -> str:
    """A message for a required key that an override has deleted."""
    text = str(error).splitlines()[0]
    found = re.search(r"Key '([^']+)' is not in struct", text)
    return (
        f"{found[1]} is missing, and every run needs it: remove the override that deletes it, such as ~{found[1]}"
        if found
        else text
    )


def _chosen_twice(group: str, overrides: Sequence[str]) -> str:
    """A message for a group that two files choose: `value=` brings a policy, which other algorithms have themselves."""
    value = next((o for o in overrides if o.startswith("value=")), None)
    if group == "policy" and value is not None:
        start = f"{value}: algo={_algo(overrides)} has a policy, whose value it learns"
        return f"{start}; value= is for algo=mpc, which has none: leave it out"
    return (
        f"{group} is chosen by two files: where the second may replace the first, write override /{group}: NAME in it"
    )


def _algo(overrides: Sequence[str]) -> str:
    """The algorithm that the command line chooses."""
    return next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("algo=")), "mpc")


def _unreadable(given: str, problem: str) -> str:
    key, equals, _ = given.partition("=")
    if not equals:
        return f"cannot read {given!r}: a setting is written key=value"
    if parsed(f"{key}=x") is None:
        return f"cannot read {given!r}: {key!r} cannot be the name of a setting ({problem})"
    if problem.startswith("Lexer"):  # as the parser calls it
        problem = "it has letters that must be quoted"
    return f"cannot read {given!r}: {problem}; as one text it is written {as_shell(given)}"


def missing(name: str, confs: Sequence[Path], given: str | None = None) -> str:
    """A message for a config file `group/value` that does not exist; `given` is the group as the user wrote it."""
    group, _, value = name.rpartition("/")
    if renamed := answer_key(f"{group}={value}"):
        return renamed
    options = _options(confs, group)
    if not options:  # the value itself has a slash
        group, _, value = name.partition("/")
        options = _options(confs, group)

    # Nobody names a recipe: it follows from algo and family, so the message is about these two.
    if group == "recipe":
        algo, _, family = value.rpartition("_")
        known = [o.removeprefix(f"{algo}_") for o in options if o.startswith(f"{algo}_")]
        others = [o.removesuffix(f"_{family}") for o in options if o.endswith(f"_{family}")]
        has, instead = ", ".join(known) or "none", ", ".join(others) or "none"
        start = f"algo={algo} has no recipe for environments of family {family}; it has them for: {has}"
        return f"{start}. For {family} there are algo={instead}"

    group = given or group
    return f"{group}={value} does not exist{did_you_mean(value, options)} {group} can be: {', '.join(options)}"


def _unknown(key: str, overrides: Sequence[str], confs: Sequence[Path], keys: Sequence[str]) -> str:
    given = next((o for o in overrides if re.match(rf"[+~]*{re.escape(key)}(=|$)", o)), key)

    # A group that exists but is not part of this config: the algorithm does not use it. Renamed settings of it come
    # first too, since their new names would be rejected as well.
    head = new_name(key).partition(".")[0].partition("/")[0]
    groups = groups_of(confs)
    if head in groups and head not in {k.partition(".")[0] for k in keys}:
        if head == "launcher":
            return f"{given}: launcher=local has no settings; add launcher=parallel or launcher=slurm"
        return f"{given}: algo={_algo(overrides)} uses no {head}; leave it out"
    names = {p for k in keys for p in prefixes(k)} | groups
    # The new name may belong to another part than the chosen one, which has neither.
    if (renamed := answer_key(key)) and new_name(key) in names | {key}:
        return renamed

    for name in dict.fromkeys([key, new_name(key)]):
        if owners := _owners(name, confs):
            now = "it is" if name == key else f"it is now {name},"
            return f"{given}: {now} a setting of {head}={', '.join(owners)}; the {head} chosen here has none"

    whole = [k for k in keys if k.endswith(f".{key}")][:SHOWN]  # a setting without the part that it belongs to
    meant = f"; did you mean {' or '.join(whole)}?" if whole else similar_setting(key, names)
    return f"{given}: there is no setting {key!r}{meant} `--cfg job` shows all of them"


def _owners(key: str, confs: Sequence[Path]) -> list[str]:
    """The options of a setting's group whose files declare it: policy.horizon -> [svg]."""
    files = [(conf, file) for conf in confs for file in (conf / key.partition(".")[0]).glob("*.yaml")]
    return sorted({file.stem for conf, file in files if any(key == o.key for o in options_of(conf, file))})


def groups_of(confs: Sequence[Path]) -> set[str]:
    """The names of the config groups."""
    return {p.name for conf in confs if conf.is_dir() for p in conf.iterdir() if p.is_dir()}


def _options(confs: Sequence[Path], group: str) -> list[str]:
    return sorted({p.stem for conf in confs for p in (conf / group).glob("*.yaml")})


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the most similar of `words`, or a full stop."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "."


def similar_setting(key: str, names: Iterable[str]) -> str:
    """`did_you_mean` for a setting: of a part that there is, those of this part, in whatever group they are.

    Keys that begin with `_` are Hydra's, not settings.
    """
    names = [name for name in names if "._" not in name and not key.startswith(f"{name}.")]
    head, _, rest = key.partition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if rest and name.startswith(f"{head}.")}
    if not siblings:
        return did_you_mean(key, names)
    close = difflib.get_close_matches(key.rpartition(".")[2], siblings, n=1)
    return f"; did you mean {siblings[close[0]]}?" if close else "."


def flat_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of everything in a nested mapping."""
    keys = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += flat_keys(value, f"{prefix}{key}.")
    return keys
