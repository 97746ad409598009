"""Replay: a ring of arrival rows, read by `sample`, `draw`, `latest` and `read`."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from mbrl_lab.priorities import Priorities
from mbrl_lab.types import EnvSpec, Step


class Replay:
    """Rows [T, B]; each of the B columns is one environment's unbroken stream.

    Rows lie on `storage` (None: on `device`). Indices and what is read of them are on `device`, where learners compute.

    A row's number is absolute: it never changes and never comes back. A flat index is row * B + environment: it names
    one environment step for good, unlike its place in the ring. Old rows are overwritten when `capacity` environment
    steps are exceeded.

    Of stacked observations only the newest frame is kept. They are stacked again when read, as the environment did, so
    the ring has room for the frames before the oldest row.

    Raises ValueError naming `replay.capacity` when the memory it would take is not there.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        num_envs: int,
        seed: int,
        device: torch.device | str = "cpu",
        storage: torch.device | str | None = None,
    ) -> None:
        self.spec, self.num_envs, self.added = spec, num_envs, 0
        self.device, self.storage = torch.device(device), torch.device(storage or device)
        self.behind = spec.stack - 1
        self.capacity_rows = max(capacity // num_envs, 2) + self.behind
        if lacking := shortage(spec, capacity, self.storage):
            fit = int(capacity * free_memory(self.storage) / memory(spec, capacity))
            raise ValueError(f"replay.capacity={capacity} {lacking}: at most {fit} fit")
        self.store = _allocate(spec, self.capacity_rows, num_envs, self.storage)
        self.generator = torch.Generator().manual_seed(seed)
        self.priorities: Priorities | None = None

    def __len__(self) -> int:
        """How many rows can be read now."""
        return min(self.added, self.capacity_rows - self.behind)

    @property
    def oldest(self) -> int:
        """The number of the oldest row that can be read."""
        return self.added - len(self)

    def add(self, step: Step) -> None:
        """Append one row [B]."""
        for field, x in zip(self.store, self._frames(step), strict=True):
            field[self.added % self.capacity_rows] = x
        self.added += 1

    def sample(self, batch: int, length: int) -> Step:
        """[length, batch] windows, uniform over time and environments; they may span an episode's end."""
        return self.read(self._windows(batch, length), length)

    def windows(self, batch: int, length: int) -> Tensor:
        """Indices [batch] where windows of `length` rows begin, uniform over time and environments."""
        return self._windows(batch, length).to(self.device)

    def _windows(self, batch: int, length: int) -> Tensor:
        """The same on the CPU."""
        row = self.oldest + torch.randint(self._starts(length), (batch,), generator=self.generator)
        env = torch.randint(self.num_envs, (batch,), generator=self.generator)
        return row * self.num_envs + env

    def endings(self, length: int) -> Tensor:
        """Indices [M] where windows of `length` rows begin whose last row is terminal."""
        row = torch.arange(self.oldest + length - 1, self.added, device=self.storage)
        indices = (row - length + 1)[:, None] * self.num_envs + torch.arange(self.num_envs, device=self.storage)
        return indices[self.store.terminal[row % self.capacity_rows]].to(self.device)

    def draw(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Indices [batch] where windows of `length` rows begin, by their priorities, and how many times as probable as
        if all were alike each was [batch]. A replay has windows of one length to draw, for ever."""
        starts = self._starts(length)
        if self.priorities is None:
            self.priorities = Priorities(self.capacity_rows - self.behind, self.num_envs, length, self.device)
        assert self.priorities.length == length, (self.priorities.length, length)
        self.priorities.follow(self.added)
        uniform = torch.rand(batch, generator=self.generator, dtype=torch.float64).to(self.device)
        indices, probability = self.priorities.draw(uniform)
        return indices, probability * starts * self.num_envs

    def prioritise(self, indices: Tensor, priority: Tensor) -> None:
        """From now on indices [N] that were drawn have these priorities [N], which must be above 0."""
        assert self.priorities is not None, "nothing was drawn yet"
        self.priorities.set(indices, priority)

    def _starts(self, length: int) -> int:
        """How many rows a window may begin at."""
        if len(self) < length:
            raise ValueError(f"windows of {length} rows were asked of a replay of {len(self)}: raise algo.warmup")
        return len(self) - length + 1

    def latest(self, length: int) -> Step:
        """[length, B]: the newest rows, in order."""
        assert length <= len(self), (length, len(self))
        first = (self.added - length) * self.num_envs
        return self.read(torch.arange(first, first + self.num_envs, device=self.storage), length)

    def rows(self, start: int, stop: int) -> Step:
        """[stop - start, B] on the CPU: rows as they are kept, by number, in order."""
        kept = max(self.added - self.capacity_rows, 0)
        assert kept <= start <= stop <= self.added, (kept, start, stop, self.added)
        return self.store.at(torch.arange(start, stop, device=self.storage) % self.capacity_rows).to("cpu")

    def read(self, indices: Tensor, length: int) -> Step:
        """[length, *indices.shape]: the windows that begin at each index."""
        time = torch.arange(length, device=self.storage).view(-1, *[1] * indices.ndim)
        indices = indices.to(self.storage) + time * self.num_envs
        if not self.behind:
            return Step(*self._take(self.store, indices)).to(self.device)
        action, _, *rest = self.store
        taken = self._take((action, *rest), indices)
        return Step(taken[0], self._stacked(indices), *taken[1:]).to(self.device)

    def _take(self, fields: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
        """[*indices.shape, ...] of each: whole rows are copied, which plain indexing does number by number."""
        place = indices.flatten() % (self.capacity_rows * self.num_envs)
        taken = (x.flatten(0, 1).index_select(0, place) for x in fields)
        return [x.view(*indices.shape, *x.shape[1:]) for x in taken]

    def _frames(self, step: Step) -> Step:
        """The row as it is kept."""
        return step._replace(obs=step.obs[:, -1]) if self.behind else step

    def _stacked(self, indices: Tensor) -> Tensor:
        """[*indices.shape, stack, H, W]: the newest frames at each index; 0 where they precede its episode."""
        indices = indices.unsqueeze(-1) + torch.arange(-self.behind, 1, device=self.storage) * self.num_envs
        frames, starts = self._take((self.store.obs, self.store.first), indices)
        first = starts.int()
        begun_since = first.flip(-1).cumsum(-1).flip(-1) > first
        frames[begun_since] = 0
        return frames

    def transitions(self) -> Tensor:
        """[M] int64: the indices at which a valid transition begins, oldest first."""
        row = torch.arange(self.oldest, self.added - 1, device=self.storage)
        valid = ~self.store.first[(row + 1) % self.capacity_rows]
        indices = row[:, None] * self.num_envs + torch.arange(self.num_envs, device=self.storage)
        return indices[valid].to(self.device)

    def outcomes(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(reward, terminal) [N] of the transitions that begin at indices [N], without what was seen."""
        after = indices.to(self.storage) + self.num_envs
        reward, terminal = self._take((self.store.reward, self.store.terminal), after)
        return reward.to(self.device), terminal.to(self.device)

    def state_dict(self) -> dict:
        """Counters, randomness and priorities; the rows are saved by number, through `rows` and `restore`."""
        priorities = self.priorities and self.priorities.state_dict()
        return {"added": self.added, "generator": self.generator.get_state(), "priorities": priorities}

    def load_state_dict(self, state: dict) -> None:
        self.added = state["added"]
        self.generator.set_state(state["generator"])
        saved = state.get("priorities")  # a checkpoint older than priorities has none
        if saved is not None:
            self.priorities = Priorities(self.capacity_rows - self.behind, self.num_envs, saved["length"], self.device)
            self.priorities.load_state_dict(saved)

    def restore(self, start: int, rows: Step) -> None:
        """Put rows [n, B] back where they stood, the first of them with number `start`."""
        index = torch.arange(start, start + len(rows.first), device=self.storage) % self.capacity_rows
        for field, x in zip(self.store, rows, strict=True):
            field[index] = x.to(self.storage)


def shortage(spec: EnvSpec, capacity: int, device: torch.device) -> str:
    """What `capacity` rows need where it is not there, in words; nothing where it is."""
    need, free = memory(spec, capacity), free_memory(device)
    return f"needs {need / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} GB are free" if need > free else ""


def memory(spec: EnvSpec, capacity: int) -> int:
    """Bytes that `capacity` rows of one environment take."""
    return sum(x.element_size() * x[0].numel() for x in _allocate(spec, 1, 1, torch.device("cpu"))) * capacity


def free_memory(device: torch.device) -> int:
    """Bytes free on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _allocate(spec: EnvSpec, rows: int, num_envs: int, device: torch.device) -> Step:
    """Observations are not set to anything, so that memory is taken as it fills."""

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, num_envs, *shape, dtype=dtype, device=device)

    return Step(
        action=zeros(dtype=torch.int64) if spec.discrete else zeros(spec.action_dim, dtype=torch.float32),
        obs=torch.empty(rows, num_envs, *spec.obs_shape[spec.stack > 1 :], dtype=spec.obs_dtype, device=device),
        reward=zeros(dtype=torch.float32),
        terminal=zeros(dtype=torch.bool),
        first=zeros(dtype=torch.bool),
    )
