"""Visual: what world models of images share: a state of the newest frames, an ensemble, reward and end as classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.precision import differentiate
from mbrl_lab.ops import clip_norm, pick
from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step

SIGNS = (-1.0, 0.0, 1.0)
"""Classes of reward: only its sign is learned."""

ROWS = 512
"""Rows that go through a network at once while nothing is learned, which bounds memory."""

MAPS = 24
"""About so many numbers of the size of the trunk's output are kept for each row while a gradient is computed."""


class Guess(NamedTuple):
    """One member's prediction for N rows: K outcomes, each with a frame, a reward and an end of its own."""

    frame: Tensor  # [N, K, C, H, W] uint8
    reward: Tensor  # [N, K, 3] probabilities of SIGNS
    end: Tensor  # [N, K] probability
    weight: Tensor  # [N, K] probability of the outcome

    def drawn(self) -> tuple[Tensor, Outcome]:
        """(frame, what it meant) of one outcome each, as often as it is likely."""
        return self._of(torch.multinomial(self.weight, 1).squeeze(1) if self.weight.shape[1] > 1 else None)

    def expected(self) -> tuple[Tensor, Outcome]:
        """(the likeliest frame [N, C, H, W], the means [N] of reward and discount over all outcomes)."""
        frame = self._of(self.weight.argmax(1))[0]
        mean = self.reward.mul(self.weight[..., None]).sum(1) @ self.reward.new_tensor(SIGNS)
        return frame, Outcome(mean, 1 - (self.end * self.weight).sum(1))

    def _of(self, index: Tensor | None) -> tuple[Tensor, Outcome]:
        frame, reward, end = (x[:, 0] if index is None else pick(x, index) for x in self[:3])
        return frame, Outcome(reward @ reward.new_tensor(SIGNS), 1 - end)


class Said(NamedTuple):
    """What a network makes of N rows in learning, for each of K outcomes."""

    error: Tensor  # [N, K]: minus the log-likelihood of the true next frame, or what stands for it
    logits: Tensor  # [N, K, 4]: of SIGNS, and of the end
    weight: Tensor  # [N, K]: log-probabilities of the outcomes
    asked: Tensor  # [N]: which of them was asked for
    frame: Tensor  # [N, C, H, W] uint8: of the outcome under which the true one is likeliest; the true one if not asked


class Net(nn.Module, ABC):
    """One member: frames [N, history * C, H, W] and actions [N, A] to K outcomes."""

    @abstractmethod
    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> Said:
        """Beside the true next frame [N, C, H, W]; `on`: one goes on from a predicted one."""

    @abstractmethod
    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(next frames [N, K, C, H, W] uint8, logits [N, K, 4], log-probabilities of the outcomes [N, K])."""


class Visual(WorldModel):
    """`members` networks; a state is the newest `history` frames [N, history * C, H, W] uint8, the oldest first.

    The state is shifted and only the newest frame predicted, in the bytes that real ones have. Row blocks are predicted
    by one member each. Beside the frame members say the sign of the reward and whether the value ends. Batches hold
    these more often than the data does; the likelihood that is climbed is that of rows so drawn, and the probabilities
    stay those of the data: see `balance`.
    With `unroll` above 1 it learns from so many steps in a row, all but the first from frames that it predicted itself.
    """

    odds: Tensor
    measures_disagreement = True

    def __init__(
        self,
        spec: EnvSpec,
        make_net: Callable[[], Net],
        members: int,
        history: int,
        unroll: int,
        width: int,
        lr: float,
        clip: float,
        trainer: Trainer[Visual],
    ) -> None:
        super().__init__(spec)
        if spec.obs_dtype != torch.uint8 or len(spec.obs_shape) != 3:
            name = f"dynamics={type(self).__name__.lower()}"
            raise ValueError(
                f"{name} predicts uint8 images, not {spec.obs_shape} {spec.obs_dtype}: try dynamics=ensemble"
            )
        if history < spec.stack:
            raise ValueError(f"dynamics.history is {history}; it must be at least env.frame_stack, {spec.stack}")
        self.members, self.history, self.unroll, self.clip = members, history, unroll, clip
        self.trainer = trainer
        self.width, self.lr = width, lr
        self.shape = (spec.obs_shape[0] // spec.stack, spec.obs_shape[1], spec.obs_shape[2])
        self.lead = history - spec.stack
        self.nets = nn.ModuleList(make_net() for _ in range(members))
        self.opt = Adam(self.parameters(), lr)
        self.register_buffer("odds", torch.tensor([1.0, 0.0, 0.0]))

    def observe(self, state: Tensor | None, step: Step) -> Tensor:
        seen = self.spec.obs_shape[0]
        none = step.obs.new_zeros(len(step.obs), self.lead * self.shape[0], *self.shape[1:])
        fresh = torch.cat([none, step.obs], 1)
        if state is None or not self.lead:
            return fresh
        older = torch.cat([state[:, self.shape[0] :][:, : fresh.shape[1] - seen], step.obs], 1)
        return torch.where(step.first.view(-1, 1, 1, 1), fresh, older)

    @property
    def row_blocks(self) -> int:
        return self.members

    def features(self, state: Tensor) -> Tensor:
        return state[:, -self.spec.obs_shape[0] :]

    @torch.no_grad()
    def imagine(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        blocks = [self.guess(k, state[rows], action[rows]).drawn() for k, rows in self._blocks(len(state))]
        return self._after(state, blocks)

    @torch.no_grad()
    def expect(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        """As `imagine`, with nothing drawn: the state of the likeliest outcome, and the means of what it means."""
        blocks = [self.guess(k, state[rows], action[rows]).expected() for k, rows in self._blocks(len(state))]
        return self._after(state, blocks)

    @torch.no_grad()
    def recognise(self, state: Tensor, action: Tensor, frame: Tensor) -> Tensor:
        """The state of that outcome under which the true next frames [N, C, H, W] are likeliest."""
        code = self.spec.encode(action)
        blocks = self._blocks(len(state))
        frames = [self.net(k).loss(state[rows], code[rows], frame[rows], True).frame for k, rows in blocks]
        return self.follow(state, torch.cat(frames))

    def _after(self, state: Tensor, blocks: list[tuple[Tensor, Outcome]]) -> tuple[Tensor, Outcome]:
        frames, outcomes = zip(*blocks, strict=True)
        return self.follow(state, torch.cat(frames)), Outcome(*(torch.cat(x) for x in zip(*outcomes, strict=True)))

    @torch.no_grad()
    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        """[N] from 0: the share of the pixels that change, by any member's word, of which members say different things,
        and the standard deviations over members of the expected reward and of the end; 0 with one member."""
        said = [self.guess(k, state, action).expected() for k in range(self.members)]
        frames = torch.stack([frame for frame, _ in said]).flatten(2)
        old, high, low = state[:, -self.shape[0] :].flatten(1), frames.amax(0), frames.amin(0)
        apart = (high - low > self.far).sum(-1)
        changed = (torch.maximum(high, old) - old > self.far) | (old - torch.minimum(low, old) > self.far)
        odds = torch.stack([torch.stack(outcome, -1) for _, outcome in said])
        return apart / changed.sum(-1).clamp(min=1) + odds.std(0, correction=0).sum(-1)

    far = 16
    """Bytes that differ by more are different."""

    chance = False
    """Whether one step can have several outcomes."""

    def guess(self, member: int, state: Tensor, action: Tensor) -> Guess:
        """What one member says."""
        said = [
            self.net(member)(s, self.spec.encode(a)) for s, a in zip(state.split(ROWS), action.split(ROWS), strict=True)
        ]
        frame, logits, weight = (torch.cat(x) for x in zip(*said, strict=True))
        logits = logits.float()
        return Guess(frame, logits[..., :3].softmax(-1), logits[..., 3].sigmoid(), weight.float().exp())

    def net(self, member: int) -> Net:
        """One member's network."""
        return cast(Net, self.nets[member])

    def follow(self, state: Tensor, frame: Tensor) -> Tensor:
        """The state a frame later."""
        return torch.cat([state[:, self.shape[0] :], frame], 1)

    @property
    def predicts(self) -> str:
        return "frames"

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        return self.trainer.fit(self, replay, updates)

    @torch.no_grad()
    def start_states(self, replay: Replay, count: int) -> Tensor:
        indices = self.valid_starts(replay, replay.transitions())
        return self.states_at(replay, indices[torch.randint(len(indices), (count,), device=indices.device)])

    def check_memory(self) -> None:
        self.trainer.check_memory(self)

    def valid_starts(self, replay: Replay, indices: Tensor) -> Tensor:
        """Keep the indices [N] that have enough history in replay to build a model state."""
        return indices[indices >= (replay.oldest + self.lead) * replay.num_envs]

    def states_at(self, replay: Replay, indices: Tensor) -> Tensor:
        """[N, history * C, H, W]: the states at valid starts [N]."""
        return self.initial_state(replay.read(indices - self.lead * replay.num_envs, self.lead + 1))

    def initial_state(self, steps: Step) -> Tensor:
        """The state at the last of rows [lead + 1, N]."""
        if self.spec.stack == 1:  # quicker than one row after the other
            later = steps.first.long().flip(0).cumsum(0).flip(0) - steps.first.long()
            kept = steps.obs * (later == 0).view(*later.shape, 1, 1, 1)
            return kept.transpose(0, 1).flatten(1, 2)
        state = None
        for t in range(len(steps.first)):
            state = self.observe(state, steps.at(t))
        assert state is not None
        return state

    def update(self, steps: Step) -> tuple[Tensor, Metrics]:
        """Rows [lead + 1 + U, B] for all members alike, or [lead + 1 + U, K, B] for each its own: U steps to learn."""
        each = [self._of_member(steps, k) for k in range(self.members)]
        self.opt.zero_grad()
        losses = [self._descend(k, rows) for k, rows in enumerate(each)]
        metrics: Metrics = {k: torch.stack([x[k] for x in losses]).mean() for k in losses[0]}
        if self.clip:
            metrics["model/train/gradient_norm"] = clip_norm(self.parameters(), self.clip)
        self.opt.step()
        return self.initial_state(each[0].at(slice(0, self.lead + 1))), metrics

    def _descend(self, member: int, rows: Step) -> dict[str, Tensor]:
        """Add the gradient of one member's loss."""
        loss, parts = self.loss(member, rows)
        differentiate(loss)
        return parts

    def loss(self, member: int, steps: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of rows [lead + 1 + U, B], of which U are predicted, and its parts."""
        state = self.initial_state(steps.at(slice(0, self.lead + 1)))
        valid = torch.ones_like(steps.first[0])
        totals = []
        for t in range(self.lead + 1, len(steps.first)):
            row = steps.at(t)
            valid = valid & ~row.first
            first, on = t == self.lead + 1, t + 1 < len(steps.first)
            said = self.net(member).loss(state, self.spec.encode(row.action), row.obs[:, -self.shape[0] :], on)
            losses = likelihoods(said, row.reward, row.terminal, self.odds if first else None)
            totals.append(torch.stack([(x * valid).mean() for x in losses]))
            valid, state = valid & ~row.terminal, self.follow(state, said.frame)
        loss, *parts = torch.stack(totals).mean(0)
        names = ("model/train/obs/loss", "model/train/reward/loss", "model/train/termination/loss")
        return loss, dict(zip(names, (x.detach() for x in parts), strict=True))

    def balance(self, odds: Tensor) -> None:
        """Say how much more often than in the data rows are drawn: [3], for every row, for its reward, for its end."""
        self.odds.copy_(odds)

    def study(self, frames: Tensor) -> None:
        """Look at real frames [N, C, H, W] before a fit."""

    def demand(self, batch: int) -> int:
        """About so many bytes an update of so many rows takes, weights and optimizer among them."""
        maps = MAPS * self.width * self.shape[1] * self.shape[2] // self.square
        return batch * self.unroll * maps * 4 + 16 * sum(p.numel() for p in self.parameters())

    square = 1
    """Pixels that are one place in the network."""

    def _of_member(self, steps: Step, member: int) -> Step:
        return steps.at((slice(None), member)) if steps.reward.ndim == 3 else steps

    def _blocks(self, rows: int) -> Iterator[tuple[int, slice]]:
        """A member and its rows; members without rows are left out."""
        size = -(-rows // self.members)
        for k in range(self.members):
            if k * size < rows:
                yield k, slice(k * size, min((k + 1) * size, rows))


ASKED = 0.05
"""Share of the loss in which the outcome that was asked for has to explain all by itself."""


def likelihoods(said: Said, reward: Tensor, terminal: Tensor, odds: Tensor | None) -> tuple[Tensor, ...]:
    """[N] each: minus the log-likelihood of all that came of a step, and its parts for frame, reward and end.

    Of K outcomes one came true, nobody knows which: their likelihoods are added. Where the outcome that was asked for
    need not explain what the state tells, such as when aliens march, it never does, and all of it passes for chance.
    A row is drawn in proportion to `odds[0] + odds[1] * (a reward) + odds[2] * (an end)`; dividing by the mean of that
    over what the model deems possible gives the likelihood of what was drawn (as of any sample biased by what is
    sampled).
    """
    logits = said.logits.float()
    sign, end = logits[..., :3].log_softmax(-1), logits[..., 3]
    wrong_sign = -pick(sign.movedim(-1, 1), reward.sign().long() + 1)
    wrong_end = nn.functional.softplus(torch.where(terminal[:, None], -end, end))
    each = said.error + wrong_sign + wrong_end
    drawn = torch.ones_like(each)
    if odds is not None:
        drawn = odds[0] + odds[1] * (1 - sign[..., 1].exp()) + odds[2] * end.sigmoid()
    joint = said.weight - each
    loss = (said.weight.exp() * drawn).sum(-1).log() - joint.logsumexp(-1)
    alone = pick(each + drawn.log(), said.asked)
    share = joint.detach().softmax(-1)
    parts = ((share * x).sum(-1) for x in (said.error, wrong_sign, wrong_end))
    return (1 - ASKED) * loss + ASKED * alone, *parts
