"""Keys of a keyboard as actions."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.play.keys import Keys
from mbrl_lab.types import EnvSpec


def keys(actions: int, names: list[str] | None = None, discrete: bool = True) -> Keys:
    return Keys(EnvSpec((3,), torch.float32, actions, discrete), names or [])


@pytest.mark.parametrize(
    ("held", "action"),
    [([], 0), (["ArrowRight"], 2), (["Space"], 1), (["ArrowRight", "Space"], 3), (["KeyX"], 0), (["ArrowUp"], 0)],
)
def test_names_are_chords_and_the_longest_wins(held: list[str], action: int) -> None:
    assert keys(4, ["NOOP", "FIRE", "RIGHT", "RIGHTFIRE"]).action(held).tolist() == [action]


def test_actions_without_names_and_without_a_noop() -> None:
    two = keys(2)
    assert [two.action(held).item() for held in ([], ["ArrowRight"], [], ["ArrowLeft"], [])] == [0, 1, 1, 0, 0]
    three = keys(3)
    assert [three.action(held).item() for held in (["ArrowLeft"], [], ["ArrowRight"], [])] == [0, 1, 2, 1]
    many = keys(12)
    assert many.action(["KeyW"]).item() == 11 and many.legend()[10] == ("KeyQ", "action 10")


def test_each_dimension_has_two_keys() -> None:
    two = keys(2, discrete=False)
    assert two.action(["ArrowLeft", "ArrowUp"]).tolist() == [[-1, 1]] and two.action([]).tolist() == [[0, 0]]
    assert two.action(["ArrowLeft", "ArrowRight"]).tolist() == [[0, 0]]
    assert two.legend() == [
        ("ArrowLeft, ArrowRight", "dimension 0: -1, +1"),
        ("ArrowDown, ArrowUp", "dimension 1: -1, +1"),
    ]
    wide = keys(17, discrete=False)
    assert wide.action(["KeyD", "KeyV"]).shape == (1, 17) and wide.action(["KeyD"])[0, 2] == 1
