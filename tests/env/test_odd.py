"""Environments of others: each is played, or rejected in one line that says what to do."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from odd_envs import CASES, Case

from mbrl_lab.env import Envs, make_gym_with

pytestmark = pytest.mark.usefixtures("forgotten")


def envs_of(case: Case, num: int = 2) -> Envs:
    return Envs(partial(make_gym_with, case.register(), case.wrap, **case.kwargs), num, seed=0)


@pytest.mark.parametrize("case", [c for c in CASES if not c.error], ids=lambda c: c.name)
def test_it_is_played_and_resumes_exactly(case: Case) -> None:
    envs = envs_of(case)
    assert case.shape in (None, envs.spec.obs_shape)
    rows = [envs.reset()]
    for _ in range(13):
        rows.append(envs.step(envs.spec.sample(2)))
        assert rows[-1].obs.shape == (2, *envs.spec.obs_shape) and rows[-1].obs.dtype == envs.spec.obs_dtype
        assert not rows[-1].terminal.any() or case.wrap.get("max_steps") != 4
    assert any(row.first.any() for row in rows[1:])
    taken = torch.stack([row.action for row in rows])
    assert taken.abs().max() <= max(1, envs.spec.action_dim - 1), "actions are the agent's own"

    resumed = Envs(partial(make_gym_with, case.id, case.wrap, **case.kwargs), 2, seed=0)
    resumed.load_state_dict(envs.state_dict())
    for _ in range(7):
        action = envs.spec.sample(2)
        assert all(torch.equal(a, b) for a, b in zip(envs.step(action), resumed.step(action), strict=True))


@pytest.mark.parametrize("case", [c for c in CASES if c.error], ids=lambda c: c.name)
def test_it_is_rejected_in_one_line(case: Case) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=re.escape(case.error)) as caught:
        envs = envs_of(case)
        envs.reset()
        for _ in range(30):
            envs.step(envs.spec.sample(2))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_page_counts_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    rows = re.findall(r"^\| .* \| (\d+) \| (\d+) \| .*\|$", page, re.M)
    rejected = sum(bool(case.error) for case in CASES)
    assert f"holds {len(CASES)} environments" in page
    assert [sum(map(int, column)) for column in zip(*rows, strict=True)] == [len(CASES) - rejected, rejected]
