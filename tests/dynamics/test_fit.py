"""Which rows train which member, when a fit stops, and what it leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from linear import SPEC, data, ensemble, fit, grown, trainer
from torch import Tensor, nn

from mbrl_lab.dynamics.validation import Validation
from mbrl_lab.nets.normalise import Normaliser
from mbrl_lab.ops import hash_uniform
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree


class Weights(nn.Module):
    """One number for each member."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(members, 1))


class Recorder:
    """A model that notes which rows it was shown; each update adds 1 to its weights, so they count updates.

    `errors`: what its members have on hold-out, before the first epoch and after each; the last one stays.
    """

    def __init__(self, members: int, errors: Iterable[list[float]] = ()) -> None:
        self.members, self.net = members, Weights(members)
        self.errors = list(errors) or [[1.0] * members]
        self.trained: list[Tensor] = []
        self.ends: list[Tensor] = []
        self.tested: list[Tensor] = []
        self.normalised: Tensor | None = None
        self.bounded: Tensor | None = None
        self.chosen: Tensor | None = None
        self.bound_of_logvar = nn.Parameter(torch.zeros(1))

    def normalise(self, steps: Step) -> None:
        self.normalised = names(steps)

    def fit_termination_bounds(self, steps: Step) -> None:
        self.bounded = names(steps)

    def update(self, steps: Step, ends: Step | None = None) -> tuple[Tree, Metrics]:
        assert not steps.first[1].any(), "a row across an episode's end"
        self.trained.append(names(steps))
        if ends is not None:
            self.ends.append(ends.terminal[1])
        with torch.no_grad():
            self.net.value += 1
            self.bound_of_logvar += 1
        return None, {"model/train/loss": torch.tensor(float(len(self.trained)))}

    def validate(self, steps: Step) -> Tensor:
        self.tested.append(names(steps))
        return torch.tensor(self.errors.pop(0) if len(self.errors) > 1 else self.errors[0])

    def validation(self, steps: Step) -> Validation:
        self.validated = names(steps)
        nothing = torch.zeros(2, 2)
        return Validation(nothing, nothing, nothing, nothing, nothing[0], nothing[0].bool())

    def logvar_bounds(self) -> list[Tensor]:
        return [self.bound_of_logvar]

    def choose_elites(self, error: Tensor) -> None:
        self.chosen = error

    def thaw(self) -> None:
        pass

    def rows(self, member: int) -> Counter[int]:
        """How often each transition was shown to a member."""
        return Counter(torch.cat([batch[member] for batch in self.trained]).tolist())


def names(steps: Step) -> Tensor:
    return steps.obs[0, ..., 0].long()


def numbered(steps: int, replay: Replay | None = None, num: int = 2) -> Replay:
    """A replay whose observations are the rows' indices; each 11th row begins an episode, each 10th is terminal."""
    replay = replay or Replay(EnvSpec((1,), torch.float32, 2, True), 10_000, num, seed=0)
    zero = torch.zeros(num)
    for _ in range(steps):
        t = replay.added
        indices = torch.arange(num, dtype=torch.float32)[:, None] + t * num
        replay.add(Step(zero.long(), indices, zero, (zero + (t % 11 == 10)).bool(), (zero + (t % 11 == 0)).bool()))
    return replay


EPOCH = {"batch": 10_000, "max_updates": 1}
"""One update that shows everything once."""


def test_held_out_steps_never_train_and_stay_held_out_as_data_grows() -> None:
    replay = numbered(200)
    held: set[int] = set()
    trained: set[int] = set()
    for _ in range(4):
        model = Recorder(3)
        fit(**EPOCH)(model, replay)
        now = set(model.tested[0].tolist())
        learned = set(model.rows(0))
        assert now | learned == set(replay.transitions().tolist()) and not now & learned
        assert held <= now and trained <= learned, "a row changed sides"
        held, trained = now, learned
        numbered(150, replay)
    assert 0.06 < len(held) / (len(held) + len(trained)) < 0.14


def test_only_the_newest_of_a_large_hold_out_are_tested_and_the_others_are_trained_on() -> None:
    replay = numbered(400)
    every, newest = Recorder(1), Recorder(1)
    fit(**EPOCH)(every, replay)
    fit(**EPOCH, max_holdout=20)(newest, replay)
    held = every.tested[0].tolist()
    assert newest.tested[0].tolist() == held[-20:] and len(held) > 20
    assert set(newest.rows(0)) == set(every.rows(0)) | set(held[:-20])


def test_without_bootstrap_every_member_gets_every_step_once_an_epoch_in_an_order_of_its_own() -> None:
    model = Recorder(3)
    fit(batch=16, max_updates=0, patience=0)(model, numbered(100))
    assert all(set(model.rows(k).values()) == {1} for k in range(3))
    assert model.rows(0) == model.rows(1) == model.rows(2)
    assert not torch.equal(torch.cat(model.trained, 1)[0], torch.cat(model.trained, 1)[1])


def test_the_scales_are_taken_from_what_trains() -> None:
    model = Recorder(1)
    fit(**EPOCH)(model, numbered(100))
    assert model.normalised is not None
    assert not set(model.normalised.tolist()) & set(model.tested[0].tolist())
    assert model.bounded is not None
    assert set(model.bounded.tolist()) == {*model.normalised.tolist(), *model.tested[0].tolist()}, "ends are few"


def bootstraps(replay: Replay, members: int = 4) -> list[Counter[int]]:
    model = Recorder(members)
    fit(**EPOCH, bootstrap=True)(model, replay)
    return [model.rows(k) for k in range(members)]


def test_a_bootstrap_is_a_members_own_and_never_changes() -> None:
    replay = numbered(600)
    first = bootstraps(replay)
    indices = set(replay.transitions().tolist())
    numbered(300, replay)
    later = bootstraps(replay)
    for k in range(4):
        kept = {c: n for c, n in later[k].items() if c in indices}
        # members are cut to the shortest bootstrap, so a few rows are left out of an epoch
        missing = sum((first[k] - Counter(kept)).values()) + sum((Counter(kept) - first[k]).values())
        assert missing < 0.15 * len(indices)
    assert first[0] != first[1]


def test_a_bootstrap_is_like_drawing_with_replacement() -> None:
    replay = numbered(3000)
    rows = bootstraps(replay, 1)[0]
    trained = 0.9 * len(replay.transitions())
    times = Counter(rows.values())
    assert times[1] / trained == pytest.approx(0.368, abs=0.03)
    assert times[2] / trained == pytest.approx(0.184, abs=0.03)
    assert times[3] / trained == pytest.approx(0.061, abs=0.02)
    assert len(rows) / trained == pytest.approx(0.632, abs=0.03)
    assert sum(rows.values()) / trained == pytest.approx(1.0, abs=0.05)


def test_each_member_keeps_the_weights_of_its_best_epoch() -> None:
    errors = [[9.0, 9, 9], [5.0, 8, 9.5], [6.0, 4, 9.4], [7.0, 5, 9.3], [8.0, 6, 9.2], [8.0, 7, 9.1]]
    model = Recorder(3, errors)
    metrics = fit(batch=10_000, patience=2, max_updates=0)(model, numbered(100))
    assert model.net.value.flatten().tolist() == [1.0, 2.0, 0.0]
    assert model.bound_of_logvar.item() == 2.0, "of the latest epoch in which a member improved"
    assert model.chosen is not None and model.chosen.tolist() == [5.0, 4.0, 9.0]
    assert float(metrics["model/holdout/loss"]) == 6.0


@pytest.mark.parametrize(
    ("errors", "patience", "gain", "epochs"),
    [
        ([[9.0], [8.0], [7.0], [7.0]], 0, 0.01, 3),  # two that gain, and the one that does not
        ([[9.0], [8.0], [8.5], [7.0], [7.0]], 1, 0.01, 5),  # patience is reset by every gain
        ([[9.0], [8.95], [8.9], [8.85]], 1, 0.01, 2),  # less than the share `gain` is no gain
        ([[9.0, 9.0], [9.5, 8.0], [9.9, 7.0], [9.9, 7.0]], 0, 0.01, 3),  # one member's is enough
    ],
)
def test_it_stops_when_nobody_gains(errors: list[list[float]], patience: int, gain: float, epochs: int) -> None:
    model = Recorder(len(errors[0]), errors)
    metrics = fit(batch=10_000, patience=patience, gain=gain, max_updates=0)(model, numbered(100))
    assert len(model.trained) == epochs == metrics["model/train/updates"]


def test_a_caller_may_ask_for_so_many_updates_and_gets_what_they_were_taken_on() -> None:
    """As Dreamer does, in turn with its policy: the latest weights stay, and elites are chosen by the hold-out."""
    errors = [[7.0, 6.0], [1.0, 2.0]]
    model, replay = Recorder(2, errors), numbered(100)
    result = trainer(batch=16, patience=0, max_updates=1).fit(model, replay, updates=13)  # type: ignore[arg-type]
    assert len(model.trained) == 13 and (model.net.value == 13).all()
    assert model.chosen is not None and model.chosen.tolist() == [7.0, 6.0]
    assert result.windows is not None and result.windows.steps.first.shape == (2, len(model.trained[-1][0]))
    assert names(result.windows.steps).tolist() == model.trained[-1][0].tolist()
    assert torch.equal(result.windows.states, result.windows.steps.obs.flatten(0, 1))


def test_updates_are_bounded_also_within_an_epoch() -> None:
    model = Recorder(2)
    metrics = fit(batch=16, max_updates=7, patience=100)(model, numbered(100))
    assert len(model.trained) == 7 and metrics["model/train/updates"] == 7.0
    assert float(metrics["model/train/loss"]) == 4.0, "the mean over updates 1..7"


def test_half_the_batch_of_the_termination_model_is_terminal() -> None:
    model = Recorder(2)
    fit(batch=64, max_updates=10, patience=100)(model, numbered(300))
    shares = torch.cat(model.ends, 1).float().mean(1)
    assert shares.tolist() == pytest.approx([0.55, 0.55], abs=0.06)  # and a tenth of the other half


def test_a_fit_whose_loss_is_no_number_stops_the_run() -> None:
    class Diverging(Recorder):
        def update(self, steps: Step, ends: Step | None = None) -> tuple[Tree, Metrics]:
            return None, super().update(steps, ends)[1] | {"model/train/loss": torch.tensor(float("nan"))}

    with pytest.raises(
        FloatingPointError, match=r"the model diverged: model/train/loss is nan .* lower dynamics\.optim\.lr"
    ):
        fit()(Diverging(2), data(20))


def test_elites_are_the_best_on_hold_out() -> None:
    model = ensemble(members=6, elites=2)
    replay = data(100)
    fit(max_updates=40)(model, replay)
    error = model.validate(replay.read(held_out(replay), 2))
    assert set(model.elite.tolist()) == set(error.argsort()[:2].tolist())
    assert error[model.elite].max() <= error.median()


def held_out(replay: Replay) -> Tensor:
    """The indices a fit keeps to itself: those it does not train on, by their numbers alone."""
    twin = numbered(replay.added, num=replay.num_envs)
    twin.store.first.copy_(torch.zeros_like(twin.store.first))
    model = Recorder(1)
    fit(**EPOCH)(model, twin)
    held = set(model.tested[0].tolist())
    return torch.tensor([c for c in replay.transitions().tolist() if c in held])


def test_a_fit_improves_on_held_out_steps() -> None:
    model, replay = ensemble(lr=3e-3), data(200)
    fit(max_updates=1)(model, replay)
    before = model.validate(replay.read(held_out(replay), 2)).mean()
    fit(max_updates=200)(model, replay)
    assert model.validate(replay.read(held_out(replay), 2)).mean() < before / 5


def test_fits_go_on_from_where_the_last_one_ended() -> None:
    model, replay = ensemble(lr=3e-3), data(200)
    fit(max_updates=200, patience=50)(model, replay)
    learned = model.validate(replay.read(held_out(replay), 2)).mean()
    fit(max_updates=2)(model, grown(replay, 5))
    assert model.validate(replay.read(held_out(replay), 2)).mean() < 1.5 * learned


@pytest.mark.parametrize("holdout", [0.0, 0.1])
def test_it_learns_without_hold_out_and_from_little(holdout: float) -> None:
    """With nothing to stop by, the last weights stay, rather than the first."""
    model = ensemble(lr=3e-3)
    replay = data(120 if holdout == 0 else 4, num=1)
    fit(max_updates=60, holdout=holdout)(model, replay)
    indices = replay.transitions()
    if holdout:
        assert not (hash_uniform(indices, salt=0) < holdout).any(), "too few rows for any to be held out"
    assert model.validate(replay.read(indices, 2)).mean() < 0.5


def test_a_dimension_that_never_varies() -> None:
    normaliser = Normaliser(2)
    x = torch.stack([torch.full((50,), 7.0), 3 + 2 * torch.randn(50)], 1)
    normaliser.fit(x)
    out = normaliser(x)
    assert not out[:, 0].any() and normaliser.scale[0] == 1
    assert out[:, 1].mean().abs() < 1e-5 and out[:, 1].std(correction=0).item() == pytest.approx(1)
    assert normaliser(torch.tensor([8.0, 3.0]))[0] == 1


def test_a_model_of_a_constant_dimension_leaves_it_alone() -> None:
    spec = EnvSpec((2,), torch.float32, 2, False)
    replay = Replay(spec, 1000, 1, seed=0)
    for t in range(300):
        obs = torch.tensor([[5.0, torch.randn(()).item()]])
        replay.add(Step(SPEC.sample(1), obs, torch.ones(1), torch.zeros(1).bool(), torch.full((1,), t == 0)))
    model = ensemble(spec)
    fit(max_updates=100)(model, replay)
    after, outcome = model.imagine(torch.tensor([[5.0, 0.3]] * 5), SPEC.sample(5))
    torch.testing.assert_close(after[:, 0], torch.full((5,), 5.0), atol=0.05, rtol=0)
    torch.testing.assert_close(outcome.reward, torch.ones(5), atol=0.05, rtol=0)
