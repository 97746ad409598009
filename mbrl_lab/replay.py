"""Replay: a ring of steps, read by `sample`, `sample_by_priority`, `latest` and `read`."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from mbrl_lab.ops import bootstrap_steps
from mbrl_lab.priorities import Priorities
from mbrl_lab.types import EnvSpec, Step


class Replay:
    """A ring of vector steps [B]; each of the B columns is one environment's unbroken stream of arrival steps.

    A vector step has a number that counts up and is never used again. A flat index is number * B + environment: it
    names one environment step permanently, while its slot in the ring is number % slots. docs/glossary.md draws it.

    Of stacked observations only the newest frame is kept. They are stacked again when read, as the environment did, so
    the ring has slots for the frames before the oldest step.

    Args:
        spec: of the environments.
        capacity: environment steps to keep; older ones are overwritten.
        num_envs: B.
        seed: of the windows that are sampled.
        device: where indices and batches are, and learners compute.
        storage: where the ring lies; None: on `device`.

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
        self.spec = spec
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.storage = torch.device(storage or device)
        self.added = 0  # vector steps so far, and so the number of the next one

        self.older_frames = spec.stack - 1
        self.slots = max(capacity // num_envs, 2) + self.older_frames
        if problem := shortage(spec, capacity, self.storage):
            fit = int(capacity * free_memory(self.storage) / nbytes(spec, capacity))
            raise ValueError(f"replay.capacity={capacity} {problem}: at most {fit} fit")
        self.store = _empty(spec, self.slots, num_envs, self.storage)

        self.generator = torch.Generator().manual_seed(seed)
        self.priorities: Priorities | None = None

    def __len__(self) -> int:
        """How many vector steps can be read now."""
        return min(self.added, self.slots - self.older_frames)

    @property
    def oldest(self) -> int:
        """The number of the oldest vector step that can be read."""
        return self.added - len(self)

    def add(self, step: Step) -> None:
        """Append one vector step [B]."""
        # Of stacked frames the newest: the older ones are stored already.
        stored = step._replace(obs=step.obs[:, -1]) if self.older_frames else step
        for field, x in zip(self.store, stored, strict=True):
            field[self.added % self.slots] = x
        self.added += 1

    # ---- reading

    def sample(self, batch: int, length: int, n_step: int | None = None) -> Step:
        """[length, batch] windows, uniform over time and environments; an episode may terminate inside one."""
        return self.read(self._windows(batch, length), length, n_step)

    def windows(self, batch: int, length: int) -> Tensor:
        """Indices [batch] at which windows of `length` steps begin, uniform over time and environments."""
        return self._windows(batch, length).to(self.device)

    def terminal_windows(self, length: int) -> Tensor:
        """Indices [M] at which windows of `length` steps begin whose last step is terminal."""
        last = torch.arange(self.oldest + length - 1, self.added, device=self.storage)
        terminal = self.store.terminal[last % self.slots]
        return self._indices(last - length + 1)[terminal].to(self.device)

    def transitions(self, history: int = 0) -> Tensor:
        """Indices [M] int64 at which a valid transition begins, with `history` steps before it; oldest first."""
        number = torch.arange(self.oldest + history, self.added - 1, device=self.storage)
        valid = ~self.store.first[(number + 1) % self.slots]
        return self._indices(number)[valid].to(self.device)

    def sample_transitions(self, count: int, history: int = 0) -> Tensor:
        """[count] of the indices that `transitions` lists, uniform, with replacement."""
        # Twice as many windows hold enough transitions, as only one window of an episode crosses into the next. So the
        # cost does not grow with replay, of which the list of all transitions is needed only where episodes are short.
        indices = self._windows(2 * count, history + 2).to(self.storage) + history * self.num_envs
        (crosses,) = self._take((self.store.first,), indices + self.num_envs)
        valid = indices[~crosses][:count].to(self.device)
        if len(valid) == count:
            return valid
        every = self.transitions(history)
        return every[torch.randint(len(every), (count,), generator=self.generator).to(every.device)]

    def rewards_and_terminals(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(reward, terminal) [N] of the transitions that begin at indices [N], without their observations."""
        arrival = indices.to(self.storage) + self.num_envs
        reward, terminal = self._take((self.store.reward, self.store.terminal), arrival)
        return reward.to(self.device), terminal.to(self.device)

    def read(self, indices: Tensor, length: int, n_step: int | None = None) -> Step:
        """[length, *indices.shape]: the windows that begin at these indices. Steps after the newest one are `first`.

        With `n_step` only two observations of each window are read, [2, N]: the first one, and the one from which a
        return of at most `n_step` steps bootstraps. Those between are most of the work where frames are stacked.
        """
        time = torch.arange(length, device=self.storage).view(-1, *[1] * indices.ndim)
        indices = indices.to(self.storage) + time * self.num_envs
        action, _, reward, terminal, first = self.store
        action, reward, terminal, first = self._take((action, reward, terminal, first), indices)

        # Slots beyond the newest step hold the oldest ones, or nothing yet: as `first` no transition leads there.
        first |= indices >= self.added * self.num_envs

        observed = indices
        if n_step is not None and length > 2:
            bootstrap = bootstrap_steps(first, terminal, n_step)
            observed = torch.stack([indices[0], indices[0] + bootstrap * self.num_envs])

        # Each frame is stored once, so observations are gathered apart from the other fields.
        obs = self._stacked(observed) if self.older_frames else self._take((self.store.obs,), observed)[0]
        return Step(action, obs, reward, terminal, first).to(self.device)

    def latest(self, length: int) -> Step:
        """[length, B]: the newest vector steps, in order."""
        assert length <= len(self), (length, len(self))
        first = (self.added - length) * self.num_envs
        return self.read(torch.arange(first, first + self.num_envs, device=self.storage), length)

    def _windows(self, batch: int, length: int) -> Tensor:
        """`windows`, on the CPU: the generator is there, so a seed gives the same windows on every device."""
        number = self.oldest + torch.randint(self._starts(length), (batch,), generator=self.generator)
        env = torch.randint(self.num_envs, (batch,), generator=self.generator)
        return number * self.num_envs + env

    def _starts(self, length: int) -> int:
        """How many vector steps a window of `length` may begin at."""
        if len(self) < length:
            raise ValueError(f"windows of {length} steps need more than the {len(self)} in replay: raise algo.warmup")
        return len(self) - length + 1

    def _indices(self, number: Tensor) -> Tensor:
        """[N, B]: the indices of the environment steps in vector steps [N]."""
        return number[:, None] * self.num_envs + torch.arange(self.num_envs, device=self.storage)

    def _take(self, fields: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
        """[*indices.shape, ...] of each field; index_select copies whole steps, plain indexing number by number."""
        slot = indices.flatten() % (self.slots * self.num_envs)
        taken = (x.flatten(0, 1).index_select(0, slot) for x in fields)
        return [x.view(*indices.shape, *x.shape[1:]) for x in taken]

    def _stacked(self, indices: Tensor) -> Tensor:
        """[*indices.shape, stack, H, W]: the newest frames at each index; 0 where they precede its episode."""
        indices = indices.unsqueeze(-1) + torch.arange(-self.older_frames, 1, device=self.storage) * self.num_envs
        frames, first = self._take((self.store.obs, self.store.first), indices)

        # A frame belongs to an earlier episode where one begins at any of the later frames.
        begins = first.int()
        begins_later = begins.flip(-1).cumsum(-1).flip(-1) > begins
        frames[begins_later] = 0
        return frames

    # ---- priorities

    def sample_by_priority(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Windows of `length` steps in proportion to their priorities: (indices [batch], ratios [batch]).

        A ratio is how many times as probable the window was as under uniform sampling. All draws from a replay have
        the same length.
        """
        starts = self._starts(length)
        if self.priorities is None:
            self.priorities = Priorities(self.slots - self.older_frames, self.num_envs, length, self.device)
        assert self.priorities.length == length, (self.priorities.length, length)
        self.priorities.sync(self.added)

        # Drawn on the CPU, for the same reason as windows: a seed gives the same ones on every device.
        uniform = torch.rand(batch, generator=self.generator, dtype=torch.float64).to(self.device)
        indices, probability = self.priorities.draw(uniform)
        return indices, probability * starts * self.num_envs

    def set_priorities(self, indices: Tensor, priority: Tensor) -> None:
        """Give the windows at indices [N], which were drawn, priorities [N] above 0."""
        assert self.priorities is not None, "nothing was drawn yet"
        self.priorities.set(indices, priority)

    # ---- saving

    def state_dict(self) -> dict:
        """Counters, generator and priorities; the steps are saved by number, through `steps` and `restore`."""
        priorities = self.priorities and self.priorities.state_dict()
        return {"added": self.added, "generator": self.generator.get_state(), "priorities": priorities}

    def load_state_dict(self, state: dict) -> None:
        self.added = state["added"]
        self.generator.set_state(state["generator"])
        saved = state.get("priorities")  # a checkpoint older than priorities has none
        if saved is not None:
            self.priorities = Priorities(self.slots - self.older_frames, self.num_envs, saved["length"], self.device)
            self.priorities.load_state_dict(saved)

    def steps(self, start: int, stop: int) -> Step:
        """[stop - start, B] on the CPU: vector steps as they are stored, by number, in order."""
        kept = max(self.added - self.slots, 0)
        assert kept <= start <= stop <= self.added, (kept, start, stop, self.added)
        return self.store.at(torch.arange(start, stop, device=self.storage) % self.slots).to("cpu")

    def restore(self, start: int, steps: Step) -> None:
        """Put vector steps [N, B] back into their slots; `start` is the number of the first."""
        slot = torch.arange(start, start + len(steps.first), device=self.storage) % self.slots
        for field, x in zip(self.store, steps, strict=True):
            field[slot] = x.to(self.storage)


def shortage(spec: EnvSpec, capacity: int, device: torch.device) -> str:
    """What `capacity` steps need where `device` has less free memory, in words; empty where it has enough."""
    need, free = nbytes(spec, capacity), free_memory(device)
    return f"needs {need / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} GB are free" if need > free else ""


def nbytes(spec: EnvSpec, capacity: int) -> int:
    """Bytes that `capacity` environment steps take."""
    return sum(x.element_size() * x[0].numel() for x in _empty(spec, 1, 1, torch.device("cpu"))) * capacity


def free_memory(device: torch.device) -> int:
    """Bytes free on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _empty(spec: EnvSpec, slots: int, num_envs: int, device: torch.device) -> Step:
    """A ring without steps. Observations are left uninitialised, so that memory is only taken as it fills."""

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(slots, num_envs, *shape, dtype=dtype, device=device)

    return Step(
        action=zeros(dtype=torch.int64) if spec.discrete else zeros(spec.action_dim, dtype=torch.float32),
        obs=torch.empty(slots, num_envs, *spec.obs_shape[spec.stack > 1 :], dtype=spec.obs_dtype, device=device),
        reward=zeros(dtype=torch.float32),
        terminal=zeros(dtype=torch.bool),
        first=zeros(dtype=torch.bool),
    )
