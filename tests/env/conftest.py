"""What tests of environments share."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import pytest
from odd_envs import MADE


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers is gone after it."""
    known = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    MADE.clear()
