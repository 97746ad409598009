"""The keys of a keyboard as actions. Keys have the names of KeyboardEvent.code."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from mbrl_lab.types import EnvSpec

WORDS = {"UP": "ArrowUp", "DOWN": "ArrowDown", "LEFT": "ArrowLeft", "RIGHT": "ArrowRight", "FIRE": "Space"}
"""The keys of the words that names of actions consist of, such as UPRIGHTFIRE."""

ROWS = "1234567890", "QWERTYUIOP", "ASDFGHJKL", "ZXCVBNM"
SINGLE = [*(f"Digit{x}" for x in ROWS[0]), *(f"Key{x}" for row in ROWS[1:] for x in row)]
"""Keys of actions without names, a key for each."""

AXES = [("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp")] + [
    (f"Key{minus}", f"Key{plus}") for minus, plus in ("AD", "SW", "FH", "GT", "JL", "KI", "ZX", "CV")
]
"""Keys of -1 and +1 for each dimension of a continuous action; further dimensions stay 0."""


class Keys:
    """Maps the keys that are held to an action of `spec`; `names` of discrete actions, if the environment has them.

    An action whose name consists of WORDS needs all of their keys; the one with the most keys wins. Without a key the
    action is that without words (NOOP), or the one before if there is none.
    """

    def __init__(self, spec: EnvSpec, names: Sequence[str]) -> None:
        self.spec = spec
        self.names = list(names) or [f"action {k}" for k in range(spec.action_dim)]
        self.chords = chords(spec.action_dim, names) if spec.discrete else []
        self.before = next((k for k, chord in enumerate(self.chords) if not chord), 0)

    def action(self, held: Collection[str]) -> Tensor:
        """[1] or [1, A]: the action for the keys that are held."""
        if not self.spec.discrete:
            axes = AXES[: self.spec.action_dim]
            values = [float(plus in held) - float(minus in held) for minus, plus in axes]
            return torch.tensor([values + [0.0] * (self.spec.action_dim - len(axes))])
        fitting = [k for k, chord in enumerate(self.chords) if chord <= {*held}]
        self.before = max(fitting, key=lambda k: len(self.chords[k]), default=self.before)
        return torch.tensor([self.before])

    def legend(self) -> list[tuple[str, str]]:
        """(keys, what they do), for the page."""
        if self.spec.discrete:
            pairs = zip(self.chords, self.names, strict=True)
            return [(" + ".join(sorted(chord)) or "no key", name.lower()) for chord, name in pairs if len(chord) <= 1]
        axes = AXES[: self.spec.action_dim]
        return [(f"{minus}, {plus}", f"dimension {k}: -1, +1") for k, (minus, plus) in enumerate(axes)]


def chords(number: int, names: Sequence[str]) -> list[frozenset[str]]:
    """The keys of each discrete action."""
    if names:
        return [frozenset(key for word, key in WORDS.items() if word in name.upper()) for name in names]
    if number <= 3:  # left, nothing, right, as in classic control
        return [frozenset(keys) for keys in (["ArrowLeft"], [], ["ArrowRight"])][:: 2 if number == 2 else 1][:number]
    return [frozenset([key]) for key in SINGLE[:number]]
