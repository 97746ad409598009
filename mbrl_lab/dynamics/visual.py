"""Visual: the base of world models of images: states are stacked frames, outcomes are classes, members an ensemble."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.precision import differentiate
from mbrl_lab.ops import clip_norm, pick
from mbrl_lab.protocols import WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step

SIGNS = (-1.0, 0.0, 1.0)
"""Classes of rewards: the model predicts the sign only."""

CHUNK = 512
"""States in a forward pass without gradients; the limit bounds memory."""

MAPS = 24
"""Activations kept for the backward pass, in multiples of the trunk's output (approximate)."""


class Prediction(NamedTuple):
    """One member's prediction for N states: a mixture of K outcomes, each with its frame, reward and termination."""

    frame: Tensor  # [N, K, C, H, W] uint8
    reward: Tensor  # [N, K, 3] probabilities of SIGNS
    termination: Tensor  # [N, K] probability
    weight: Tensor  # [N, K] probability of the outcome

    def sample(self) -> tuple[Tensor, Outcome]:
        """Draw an outcome for each state: (frame [N, C, H, W], reward and continuation)."""
        return self._select(torch.multinomial(self.weight, 1).squeeze(1) if self.weight.shape[1] > 1 else None)

    def mean(self) -> tuple[Tensor, Outcome]:
        """(the likeliest frame [N, C, H, W], the means [N] of reward and continuation over all outcomes)."""
        frame = self._select(self.weight.argmax(1))[0]
        mean = self.reward.mul(self.weight[..., None]).sum(1) @ self.reward.new_tensor(SIGNS)
        return frame, Outcome(mean, 1 - (self.termination * self.weight).sum(1))

    def _select(self, index: Tensor | None) -> tuple[Tensor, Outcome]:
        frame, reward, termination = (x[:, 0] if index is None else pick(x, index) for x in self[:3])
        return frame, Outcome(reward @ reward.new_tensor(SIGNS), 1 - termination)


class NetOutput(NamedTuple):
    """The training outputs of a network for N states and K outcomes."""

    frame_loss: Tensor  # [N, K]: negative log-likelihood of the true next frame, or a surrogate of it
    logits: Tensor  # [N, K, 4]: of SIGNS, and of termination
    log_weight: Tensor  # [N, K]: log-probabilities of the outcomes
    intended: Tensor  # [N]: index of the outcome of the chosen action
    frame: Tensor  # [N, C, H, W] uint8: next frame to unroll from, of the outcome that fits the true frame best


class Net(nn.Module, ABC):
    """One member: frames [N, history * C, H, W] and actions [N, A] to K outcomes."""

    @abstractmethod
    def loss(self, state: Tensor, action: Tensor, frame: Tensor, need_frame: bool) -> NetOutput:
        """Compare with the true next frame [N, C, H, W], which is returned as it is without `need_frame`."""

    @abstractmethod
    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(next frames [N, K, C, H, W] uint8, logits [N, K, 4], log-probabilities of the outcomes [N, K])."""


class Visual(WorldModel):
    """`members` networks; a state is the newest `history` frames [N, history * C, H, W] uint8, the oldest first.

    A step predicts the newest frame as uint8, as in real observations, and shifts the older ones. Each member predicts
    one block of a batch. Members also predict the sign of the reward and termination. Batches oversample both
    events; the loss corrects for that, so that probabilities stay those of the data: see `training_losses`.
    With `unroll` above 1 it is trained on so many steps in a row, all but the first from its own predicted frames.
    """

    measures_disagreement = True

    stochastic = False
    """Whether a step can have several outcomes."""
    change_threshold = 16
    """Pixel values that differ by more count as changed."""
    square = 1
    """Pixels for each position of the feature maps, by which the memory of a batch is estimated."""

    sampling_weights: Tensor  # [3]; see `set_sampling_weights`

    def __init__(
        self,
        spec: EnvSpec,
        make_net: Callable[[], Net],
        members: int,
        history: int,
        unroll: int,
        width: int,
        optim: Optim,
        trainer: Trainer[Visual],
    ) -> None:
        super().__init__(spec)
        if spec.obs_dtype != torch.uint8 or len(spec.obs_shape) != 3:
            given = f"{spec.obs_shape} {spec.obs_dtype}"
            raise ValueError(f"{option_of(type(self))} predicts uint8 images, not {given}: try dynamics=ensemble")
        if history < spec.stack:
            raise ValueError(f"dynamics.history is {history}; it must be at least env.frame_stack, {spec.stack}")
        self.members = members
        self.history = history
        self.unroll = unroll
        self.width = width
        self.lr = optim.lr
        self.clip = optim.clip
        self.trainer = trainer
        self.shape = (spec.obs_shape[0] // spec.stack, spec.obs_shape[1], spec.obs_shape[2])
        # Frames of a state that are older than its observation, which is a stack of some itself.
        self.lead = history - spec.stack

        self.nets = nn.ModuleList(make_net() for _ in range(members))
        self.opt = Adam(self.parameters(), optim.lr)
        self.register_buffer("sampling_weights", torch.tensor([1.0, 0.0, 0.0]))

    def observe(self, state: Tensor | None, step: Step) -> Tensor:
        # Before an episode there are no frames: they are blank, as in the environment's own stacks.
        channels = self.spec.obs_shape[0]
        blank = step.obs.new_zeros(len(step.obs), self.lead * self.shape[0], *self.shape[1:])
        fresh = torch.cat([blank, step.obs], 1)
        if state is None or not self.lead:
            return fresh

        # Older frames come from the state before; an episode's first step has none.
        older = torch.cat([state[:, self.shape[0] :][:, : fresh.shape[1] - channels], step.obs], 1)
        return torch.where(step.first.view(-1, 1, 1, 1), fresh, older)

    @property
    def batch_blocks(self) -> int:
        return self.members

    def features(self, state: Tensor) -> Tensor:
        return state[:, -self.spec.obs_shape[0] :]

    @torch.no_grad()
    def imagine(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        blocks = [self.predict(k, state[rows], action[rows]).sample() for k, rows in self._blocks(len(state))]
        return self._after(state, blocks)

    @torch.no_grad()
    def expect(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        """As `imagine`, but deterministic: the likeliest next state, and the mean reward and continuation."""
        blocks = [self.predict(k, state[rows], action[rows]).mean() for k, rows in self._blocks(len(state))]
        return self._after(state, blocks)

    @torch.no_grad()
    def closest_outcome(self, state: Tensor, action: Tensor, frame: Tensor) -> Tensor:
        """The next state of the outcome under which the true next frames [N, C, H, W] are likeliest."""
        code = self.spec.encode_action(action)
        blocks = self._blocks(len(state))
        frames = [self.net(k).loss(state[rows], code[rows], frame[rows], True).frame for k, rows in blocks]
        return self.push_frame(state, torch.cat(frames))

    def _after(self, state: Tensor, blocks: list[tuple[Tensor, Outcome]]) -> tuple[Tensor, Outcome]:
        """The next states and outcomes of all states, from those of the members' blocks in their order."""
        frames, outcomes = zip(*blocks, strict=True)
        return self.push_frame(state, torch.cat(frames)), Outcome(*(torch.cat(x) for x in zip(*outcomes, strict=True)))

    @torch.no_grad()
    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        """[N] from 0: of the pixels that change in some member's prediction the fraction on which members differ, plus
        the stds over members of the expected reward and of the continuation; 0 with one member."""
        predictions = [self.predict(k, state, action).mean() for k in range(self.members)]
        frames = torch.stack([frame for frame, _ in predictions]).flatten(2)
        old, high, low = state[:, -self.shape[0] :].flatten(1), frames.amax(0), frames.amin(0)
        differs = (high - low > self.change_threshold).sum(-1)

        # Differences of uint8 wrap around below 0, so the larger comes first.
        rises = torch.maximum(high, old) - old > self.change_threshold
        falls = old - torch.minimum(low, old) > self.change_threshold
        changed = rises | falls
        outcomes = torch.stack([torch.stack(outcome, -1) for _, outcome in predictions])
        return differs / changed.sum(-1).clamp(min=1) + outcomes.std(0, correction=0).sum(-1)

    def predict(self, member: int, state: Tensor, action: Tensor) -> Prediction:
        """One member's prediction, in parts that bound the memory of the feature maps."""
        outputs = [
            self.net(member)(s, self.spec.encode_action(a))
            for s, a in zip(state.split(CHUNK), action.split(CHUNK), strict=True)
        ]
        frame, logits, weight = (torch.cat(x) for x in zip(*outputs, strict=True))
        logits = logits.float()
        return Prediction(frame, logits[..., :3].softmax(-1), logits[..., 3].sigmoid(), weight.float().exp())

    def net(self, member: int) -> Net:
        """One member's network."""
        return cast(Net, self.nets[member])

    def push_frame(self, state: Tensor, frame: Tensor) -> Tensor:
        """The next state: drop the oldest frame, append `frame`."""
        return torch.cat([state[:, self.shape[0] :], frame], 1)

    @property
    def predicts(self) -> str:
        return "frames"

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        return self.trainer.fit(self, replay, updates)

    @torch.no_grad()
    def start_states(self, replay: Replay, count: int) -> Tensor:
        return self.states_at(replay, replay.sample_transitions(count, self.lead))

    def check_memory(self) -> None:
        self.trainer.check_memory(self)

    def states_at(self, replay: Replay, indices: Tensor) -> Tensor:
        """[N, history * C, H, W]: the states at indices [N] with `lead` steps before them in replay."""
        return self.initial_state(replay.read(indices - self.lead * replay.num_envs, self.lead + 1))

    def initial_state(self, steps: Step) -> Tensor:
        """The state at the last of steps [lead + 1, N]."""
        # Without stacking all frames are taken at once, blank where a later step begins a new episode.
        if self.spec.stack == 1:
            later = steps.first.long().flip(0).cumsum(0).flip(0) - steps.first.long()
            kept = steps.obs * (later == 0).view(*later.shape, 1, 1, 1)
            return kept.transpose(0, 1).flatten(1, 2)

        state = None
        for t in range(len(steps.first)):
            state = self.observe(state, steps.at(t))
        assert state is not None
        return state

    def update(self, steps: Step) -> tuple[Tensor, Metrics]:
        """One gradient step on U transitions: steps [lead + 1 + U, B] for all members, or [.., K, B] for each."""
        each = [self._of_member(steps, k) for k in range(self.members)]

        # Gradients are accumulated member by member, so that only one graph is in memory at a time.
        self.opt.zero_grad()
        losses = []
        for member, own_steps in enumerate(each):
            loss, parts = self.loss(member, own_steps)
            differentiate(loss)
            losses.append(parts)
        metrics: Metrics = {k: torch.stack([x[k] for x in losses]).mean() for k in losses[0]}

        if self.clip:
            metrics["model/train/gradient_norm"] = clip_norm(self.parameters(), self.clip)
        self.opt.step()
        return self.initial_state(each[0].at(slice(0, self.lead + 1))), metrics

    def loss(self, member: int, steps: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss [] of steps [lead + 1 + U, B], of which the last U are predicted, and its parts."""
        state = self.initial_state(steps.at(slice(0, self.lead + 1)))
        valid = torch.ones_like(steps.first[0])
        totals = []
        for t in range(self.lead + 1, len(steps.first)):
            step = steps.at(t)
            valid = valid & ~step.first
            need_frame = t + 1 < len(steps.first)
            output = self.net(member).loss(
                state, self.spec.encode_action(step.action), step.obs[:, -self.shape[0] :], need_frame
            )

            # Events are oversampled at the first transition of a window only: later ones need no correction.
            weights = self.sampling_weights if t == self.lead + 1 else None
            losses = training_losses(output, step.reward, step.terminal, weights)
            totals.append(torch.stack([(x * valid).mean() for x in losses]))
            valid, state = valid & ~step.terminal, self.push_frame(state, output.frame)

        loss, *parts = torch.stack(totals).mean(0)
        names = ("model/train/obs/loss", "model/train/reward/loss", "model/train/termination/loss")
        return loss, dict(zip(names, (x.detach() for x in parts), strict=True))

    def set_sampling_weights(self, weights: Tensor) -> None:
        """Set the weights [3] that batches are sampled by: of every transition, with a reward, with a termination."""
        self.sampling_weights.copy_(weights)

    def update_statistics(self, frames: Tensor) -> None:
        """Update what a model keeps of real frames [N, C, H, W] besides its weights; called before a fit."""

    def bytes_needed(self, batch: int) -> int:
        """Approximate bytes of an update on `batch` windows, including weights, gradients and Adam's moments."""
        maps = MAPS * self.width * self.shape[1] * self.shape[2] // self.square
        return batch * self.unroll * maps * 4 + 16 * sum(p.numel() for p in self.parameters())

    def _of_member(self, steps: Step, member: int) -> Step:
        return steps.at((slice(None), member)) if steps.reward.ndim == 3 else steps

    def _blocks(self, rows: int) -> Iterator[tuple[int, slice]]:
        """(member, its rows) for all members that get any."""
        # Rounded up: where the rows do not divide evenly, the last members get fewer of them, or none.
        size = -(-rows // self.members)
        for k in range(self.members):
            if k * size < rows:
                yield k, slice(k * size, min((k + 1) * size, rows))


INTENDED_WEIGHT = 0.05
"""Weight of the loss of the intended outcome alone."""


def training_losses(output: NetOutput, reward: Tensor, terminal: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
    """[N] each: the negative log-likelihood of transitions, and its parts for frame, reward and termination.

    The likelihood of a transition x is the mixture over K outcomes, as the true one is unknown:

        log p(x) = log sum_k w_k p_k(x)

    Transitions are sampled with weights g(x) = weights[0] + weights[1] [reward] + weights[2] [terminal]. We maximise
    the likelihood under that distribution, so that the model itself stays unbiased:

        log p(x) + log g(x) - log sum_k w_k E_k[g]

    of which log g(x) is constant. `weights` None: g = 1.
    """
    logits = output.logits.float()
    sign, termination = logits[..., :3].log_softmax(-1), logits[..., 3]

    # Negative log-likelihoods of reward and termination for each outcome.
    reward_loss = -pick(sign.movedim(-1, 1), reward.sign().long() + 1)
    termination_loss = nn.functional.softplus(torch.where(terminal[:, None], -termination, termination))
    outcome_loss = output.frame_loss + reward_loss + termination_loss

    # E_k[g]: how often transitions like those of outcome k are sampled.
    expected_weight = torch.ones_like(outcome_loss)
    if weights is not None:
        expected_weight = weights[0] + weights[1] * (1 - sign[..., 1].exp()) + weights[2] * termination.sigmoid()

    joint = output.log_weight - outcome_loss
    loss = (output.log_weight.exp() * expected_weight).sum(-1).log() - joint.logsumexp(-1)

    # The mixture alone lets other outcomes explain everything that does not depend on the action, such as marching
    # aliens, and the intended outcome would never learn it: a small term trains that one by itself.
    intended = pick(outcome_loss + expected_weight.log(), output.intended)

    # For logging: the parts, weighted by the posterior of the outcomes.
    posterior = joint.detach().softmax(-1)
    parts = ((posterior * x).sum(-1) for x in (output.frame_loss, reward_loss, termination_loss))
    return (1 - INTENDED_WEIGHT) * loss + INTENDED_WEIGHT * intended, *parts
