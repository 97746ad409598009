"""World models of images: what a state is, how losses and probabilities come about, and that one learns a toy world."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mbrl_lab.dynamics import FrameModel, GridModel, ImageTrainer, Visual
from mbrl_lab.dynamics.frames import depth_to_space
from mbrl_lab.dynamics.image_trainer import BLOCK
from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.dynamics.quality import changed, f1, open_loop
from mbrl_lab.dynamics.visual import NetOutput, training_losses
from mbrl_lab.nets.encoder import space_to_depth
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step

GONE = torch.zeros(0, dtype=torch.uint8)
GRID = EnvSpec((2, 6, 6), torch.uint8, 3, discrete=True)
OPTIM = Optim(lr=3e-3, clip=0.0)
GREY = EnvSpec((2, 16, 16), torch.uint8, 3, discrete=True, stack=2)


def grid(**settings: object) -> GridModel:
    torch.manual_seed(0)
    known = {
        "members": 2,
        "history": 2,
        "unroll": 1,
        "width": 16,
        "depth": 1,
        "optim": OPTIM,
        "trainer": trainer(),
    }
    return GridModel(GRID, **(known | settings))  # type: ignore[arg-type]


def frames(spec: EnvSpec = GREY, **settings: object) -> FrameModel:
    torch.manual_seed(0)
    known = {
        "members": 1,
        "history": 2,
        "unroll": 1,
        "patch": 4,
        "width": 24,
        "depth": 1,
        "optim": OPTIM,
        "trainer": trainer(),
    }
    return FrameModel(spec, **(known | {"target": "levels"} | settings))  # type: ignore[arg-type]


def world(spec: EnvSpec, rows: int, seed: int = 0) -> Replay:
    """A thing goes right by 1 and down by the action - 1 at each step, around the edges; it pays in column 0, and the
    value ends in row 0. Grids have it in the first channel, and where it was in the second; images have it of 2 x 2."""
    torch.manual_seed(seed)
    replay = Replay(spec, 2_000, 4, seed)
    side = spec.obs_shape[-1]
    now = torch.randint(side, (2, 4))
    stack = torch.zeros(4, *spec.obs_shape, dtype=torch.uint8)
    for t in range(rows):
        action = torch.randint(3, (4,))
        before, now = now, torch.stack([(now[0] + action - 1) % side, (now[1] + 1) % side])
        stack = drawn(spec, stack, now, before)
        first = torch.full((4,), t % 40 == 0)
        replay.add(Step(action * ~first, stack, (now[1] == 0).float() * ~first, (now[0] == 0) & ~first, first))
        if t % 40 == 0:
            stack[:, :-1] *= spec.stack == 1  # what an environment does where an episode begins
    return replay


def drawn(spec: EnvSpec, stack: Tensor, now: Tensor, before: Tensor) -> Tensor:
    env, side = torch.arange(4), spec.obs_shape[-1]
    out = torch.zeros_like(stack)
    if spec.stack == 1:
        out[env, 0, now[0], now[1]] = 1
        out[env, 1, before[0], before[1]] = 1
        return out
    out[:, 0] = stack[:, 1]
    for i in (0, 1):
        for j in (0, 1):
            out[env, 1, (now[0] + i) % side, (now[1] + j) % side] = 200
    return out


def trainer(**settings: object) -> ImageTrainer:
    known = {
        "batch": 32, "holdout": 0.2, "max_holdout": 1_000, "patience": 2, "gain": 0.01, "max_updates": 1,
        "bootstrap": False, "events": 0.25, "objects": None,
    }  # fmt: skip
    return ImageTrainer(**(known | settings))  # type: ignore[arg-type]


def fit(**settings: object) -> Callable[[Visual, Replay], Metrics]:
    return lambda model, replay: trainer(**settings).fit(model, replay, None).metrics


def test_a_state_is_the_newest_frames_of_the_episode() -> None:
    model, no = grid(history=3), torch.zeros(1, dtype=torch.bool)
    seen = [torch.full((1, 2, 6, 6), k, dtype=torch.uint8) for k in (1, 2, 3, 4, 5)]
    state = None
    for k, obs in enumerate(seen):
        state = model.observe(state, Step(torch.zeros(1).long(), obs, torch.zeros(1), no, no | (k in (0, 3))))
        if k == 2:
            assert state[0, :, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert state is not None and state[0, :, 0, 0].tolist() == [0, 0, 4, 4, 5, 5]
    assert model.features(state)[0, :, 0, 0].tolist() == [5, 5]
    assert model.push_frame(state, seen[0])[0, :, 0, 0].tolist() == [4, 4, 5, 5, 1, 1]


@pytest.mark.parametrize("spec", [GRID, GREY])
def test_states_recalled_from_replay_are_those_that_were_observed(spec: EnvSpec) -> None:
    model = grid(history=4) if spec is GRID else frames(history=4)
    replay = world(spec, 60)
    rows = replay.latest(60)
    state = None
    indices = replay.transitions(model.lead)
    recalled = model.states_at(replay, indices)
    assert len(indices) == (60 - 1 - 1 - model.lead) * 4
    for t in range(59):
        state = model.observe(state, rows.at(t))
        for env in range(4):
            at = (indices == t * 4 + env).nonzero()
            assert not len(at) or torch.equal(recalled[at[0, 0]], state[env])


def test_start_states_are_drawn_without_listing_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a state of 4 frames, of stacks of 2: each of the states that replay holds, about equally often."""
    model, replay = frames(history=4), world(GREY, 20)
    every = model.states_at(replay, replay.transitions(history=2)).flatten(1).int()
    monkeypatch.setattr(replay, "transitions", lambda *_: pytest.fail("all of replay is listed"))
    starts = model.start_states(replay, 100 * len(every)).flatten(1).int()
    distinct, copies = every.unique(dim=0, return_counts=True)
    found, counts = starts.unique(dim=0, return_counts=True)
    assert torch.equal(found, distinct), "only states with all their frames in replay, and all of these"
    assert (counts / copies).min() > 60 and (counts / copies).max() < 140


def test_rows_are_dealt_to_the_members_in_equal_blocks() -> None:
    model = grid(members=3)
    for k in range(3):
        torch.nn.init.constant_(model.net(k).change.bias, 1.0 if k == 1 else -1.0)  # type: ignore[union-attr, operator]
    state, action = torch.zeros(8, 4, 6, 6, dtype=torch.uint8), torch.zeros(8).long()
    frame = model.features(model.imagine(state, action)[0])
    assert frame.flatten(1).amax(1).tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert model.disagreement(state, action).tolist() == pytest.approx([1.0] * 8, abs=0.3)
    assert (grid(members=1).disagreement(state, action) == 0).all()


@pytest.mark.parametrize("side", [1, 2, 4])
def test_a_frame_of_squares_is_the_frame(side: int) -> None:
    frame = torch.randint(256, (3, 1, 16, 8), dtype=torch.uint8)
    assert space_to_depth(frame, side)[1, 0, 0].tolist() == frame[1, 0, :side, :side].flatten().tolist()
    assert torch.equal(depth_to_space(space_to_depth(frame, side), side), frame)


def test_the_loss_of_levels_by_hand() -> None:
    model = frames()
    net = model.net(0)
    state = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    frame = state[:, -1:].clone()
    frame[0, 0, 3, 5], frame[0, 0, 9, 9] = 100, 8  # the second is not more than 8 away: it does not change
    with torch.no_grad():
        for p in (net.levels.weight, net.levels.bias):  # type: ignore[union-attr]
            p.zero_()  # type: ignore[operator]
        loss = float(net.loss(state, torch.zeros(1, 3), frame, True).frame_loss)
    stays, changes = math.log1p(math.exp(-4)), math.log1p(math.exp(4))
    assert loss == pytest.approx(0.1 * (255 * stays + changes + 0.3 * math.log(32)), rel=1e-4)


def test_what_does_not_change_is_copied_exactly_and_levels_look_as_they_do() -> None:
    model = frames()
    model.update_statistics(torch.tensor([[[[0, 3, 3, 201]]]], dtype=torch.uint8))
    palette = model.net(0).palette  # type: ignore[union-attr]
    assert palette[0] == 3 and palette[25] == 201 and palette[5] == 44  # type: ignore[index]
    state = torch.randint(256, (4, 2, 16, 16), dtype=torch.uint8)
    assert torch.equal(model.imagine(state, torch.zeros(4).long())[0][:, 1:], state[:, 1:])


@pytest.mark.parametrize("events", [0.0, 0.5])
def test_balanced_batches_leave_the_probabilities_those_of_the_data(events: float) -> None:
    """Of 32 transitions 16 begin before an event, 8 before each kind; without oversampling none does on purpose."""
    model, replay = grid(members=1), world(GRID, 300)
    f = trainer(holdout=0.0, events=events)
    train = f.split(f.windows(model, replay, 1))[0]
    kinds = f.prepare(model, replay, train)
    reward, end = replay.rewards_and_terminals(train)
    pr, pe = float((reward > 0).float().mean()), float(end.float().mean())
    both = float(((reward > 0) & end).float().mean())
    each = events / 2
    assert model.sampling_weights.tolist() == pytest.approx([1 - events, each / pr, each / pe], rel=1e-4)
    batch = torch.cat([f.oversample_events(train[torch.randint(len(train), (1, 32))], kinds) for _ in range(200)])
    share = (replay.rewards_and_terminals(batch.flatten())[0] > 0).float().mean()
    assert float(share) == pytest.approx((1 - events) * pr + each + each * both / pe, abs=0.02)


@pytest.mark.parametrize("patch", [2, 8])
def test_a_patch_of_pixels_is_a_position_of_the_feature_maps(patch: int) -> None:
    """A small patch keeps small objects apart and costs more: images of 16 x 16 have 8 x 8 positions, or 2 x 2."""
    model, sizes = frames(patch=patch), []
    model.net(0).trunk.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-2:]))  # type: ignore[union-attr]
    state, action = torch.zeros(5, 2, 16, 16, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    following, _ = model.imagine(state, action)
    assert sizes == [(16 // patch, 16 // patch)] and following.shape == state.shape


def test_the_likelihood_of_oversampled_events() -> None:
    torch.manual_seed(0)
    rows, modes, odds = 6, 3, torch.tensor([0.5, 2.0, 3.0])
    weight, intended = torch.randn(rows, modes).log_softmax(-1), torch.tensor([0, 1, 2, 0, 1, 2])
    output = NetOutput(torch.rand(rows, modes), torch.randn(rows, modes, 4), weight, intended, GONE)
    reward, end = torch.tensor([-2.0, 0.0, 1.0, 0.0, 1.0, -1.0]), torch.tensor([0, 0, 0, 1, 1, 1]).bool()

    def by_hand(n: int, chance: list[float], odds: list[float]) -> float:
        drawn, total = 0.0, 0.0  # of this row, and of whatever could have come in its place beside the same frame
        signs, ends = output.logits[n, :, :3].softmax(-1), output.logits[n, :, 3].sigmoid()
        for k in range(modes):
            for sign in range(3):
                for over in (False, True):
                    p = chance[k] * float(signs[k, sign] * (ends[k] if over else 1 - ends[k]))
                    total += p * (odds[0] + odds[1] * (sign != 1) + odds[2] * over)
                    if sign == int(reward[n].sign()) + 1 and over == bool(end[n]):
                        drawn += p * math.exp(-float(output.frame_loss[n, k]))
        return -math.log(drawn / total)

    for given in (odds, None):
        loss = training_losses(output, reward, end, given)[0]
        for n in range(rows):
            known = [1.0, 0.0, 0.0] if given is None else given.tolist()
            alone = [float(k == int(intended[n])) for k in range(modes)]
            right = 0.95 * by_hand(n, weight[n].exp().tolist(), known) + 0.05 * by_hand(n, alone, known)
            assert float(loss[n]) == pytest.approx(right, rel=1e-4)


def test_of_one_outcome_the_parts_are_the_loss() -> None:
    torch.manual_seed(0)
    output = NetOutput(torch.rand(4, 1), torch.randn(4, 1, 4), torch.zeros(4, 1), torch.zeros(4).long(), GONE)
    loss, *objects = training_losses(output, torch.tensor([0.0, 1, -1, 0]), torch.tensor([1, 0, 0, 1]).bool(), None)
    assert torch.allclose(loss, torch.stack(objects).sum(0))
    assert torch.allclose(objects[1], -output.logits[:, 0, :3].log_softmax(-1)[torch.arange(4), [1, 2, 0, 1]])


def sticky(rows: int) -> Replay:
    """A thing goes left, right or nowhere around a row of 6; with a probability of 0.3 it does what it did before, not
    its action. Going right pays, and going left ends."""
    replay = Replay(GRID, 4_000, 4, 0)
    generator, now, moved = torch.Generator().manual_seed(0), torch.zeros(4).long(), torch.zeros(4).long()
    for t in range(rows):
        first = torch.full((4,), t % 40 == 0)
        action = torch.randint(3, (4,), generator=generator)
        moved = torch.where(torch.rand(4, generator=generator) < 0.3, moved, action - 1)
        before, now = now, (now + moved) % 6
        obs = torch.zeros(4, 2, 6, 6, dtype=torch.uint8)
        obs[torch.arange(4), 0, 3, now] = obs[torch.arange(4), 1, 3, before] = 1
        replay.add(Step(action * ~first, obs, ((moved == 1) & ~first).float(), (moved == -1) & ~first, first))
    return replay


def test_where_actions_stick_what_is_imagined_is_what_one_of_them_does() -> None:
    model, replay = grid(members=1, optim=Optim(1e-2, 0.0)), sticky(1000)
    fit(max_updates=600, holdout=0.0)(model, replay)
    assert float(model.net(0).slip.detach().sigmoid()) == pytest.approx(0.3, abs=0.07)  # type: ignore[operator, union-attr]
    states = model.states_at(replay, replay.transitions(model.lead)[:1000])
    places = [model.features(states)[:, k, 3].argmax(1) for k in (0, 1)]
    states = states[(places[0] - places[1]) % 6 == 1]  # the action is left, after a move to the right
    torch.manual_seed(0)
    after, outcome = model.imagine(states, torch.zeros(len(states)).long())
    frame = model.features(after)[:, 0, 3]
    step = (frame.argmax(1) - model.features(states)[:, 0, 3].argmax(1)) % 6
    assert (frame.sum(1) == 1).float().mean() > 0.98, "one thing stays one thing"
    assert (step == 5).float().mean() == pytest.approx(0.7, abs=0.1)
    assert (step == 1).float().mean() == pytest.approx(0.3, abs=0.1)
    assert outcome.reward[step == 1].mean() > 0.95 and outcome.reward[step == 5].mean() < 0.05
    assert outcome.cont[step == 1].mean() > 0.95 and outcome.cont[step == 5].mean() < 0.06
    frames, mean = model.expect(states, torch.zeros(len(states)).long())
    assert (model.features(frames)[:, 0, 3].argmax(1) == (places[0][(places[0] - places[1]) % 6 == 1] - 1) % 6).all()
    assert mean.reward.mean() == pytest.approx(0.3, abs=0.1) and mean.cont.mean() == pytest.approx(0.3, abs=0.1)
    right = model.features(states).clone()
    right[:, 1], right[:, 0] = right[:, 0].clone(), torch.roll(right[:, 0], 1, 2)
    assert torch.equal(model.features(model.closest_outcome(states, torch.zeros(len(states)).long(), right)), right)


def test_a_channel_that_always_has_as_many_cells_keeps_them() -> None:
    model = grid(members=1, history=1)
    seen = torch.zeros(3, 2, 6, 6, dtype=torch.uint8)
    seen[:, 0, 2, 3] = 1  # one in the first channel always, in the second none, one or two
    seen[1, 1, 0, 0] = seen[2, 1, 4, 4] = seen[2, 1, 5, 5] = 1
    model.update_statistics(seen[:2])
    model.update_statistics(seen[2:])
    state, action = seen[:1], torch.zeros(1).long()
    bias = model.net(0).change.bias  # type: ignore[union-attr]
    with torch.no_grad():
        bias.view(3, 2)[0] = torch.tensor([1.0, -1.0])  # type: ignore[operator]
    frame = model.features(model.expect(state, action)[0])
    assert frame[0, 0].sum() == 1 and frame[0, 1].sum() == 0, "all want to change, but there is one"
    with torch.no_grad():
        bias.view(3, 2)[0] = torch.tensor([-1.0, 1.0])  # type: ignore[operator]
    frame = model.features(model.expect(state, action)[0])
    assert torch.equal(frame[0, 0], state[0, 0]) and frame[0, 1].all(), "the second may have as many as it likes"


def test_whole_blocks_are_held_out_permanently() -> None:
    indices = torch.arange(BLOCK * 100)
    train, held = trainer(max_holdout=BLOCK * 100).split(indices)
    blocks = (held // BLOCK).unique()
    assert len(held) == BLOCK * len(blocks) and len(blocks) == pytest.approx(20, abs=1)
    assert blocks.diff().max() <= 8, "they are spread"
    assert torch.equal(trainer(max_holdout=BLOCK * 100).split(indices[:5_000])[0], train[train < 5_000])


def test_held_out_blocks_older_than_the_test_set_are_trained_on() -> None:
    indices = torch.arange(BLOCK * 100)
    all_train, all_held = trainer(max_holdout=BLOCK * 100).split(indices)
    train, test = trainer(max_holdout=600).split(indices)
    assert torch.equal(test, all_held[-600:])
    blocks = (test // BLOCK).unique()
    expected = torch.cat([all_train, all_held[~torch.isin(all_held // BLOCK, blocks)]]).sort().values
    assert torch.equal(train, expected), "no block is tested in part and trained on in part"


@pytest.mark.parametrize(
    ("make", "unroll", "updates"),
    [
        pytest.param(grid, 1, 400, id="grid"),
        pytest.param(grid, 3, 700, id="unrolled", marks=pytest.mark.slow),
        pytest.param(frames, 1, 600, id="frames", marks=pytest.mark.slow),
    ],
)
def test_a_trained_model_beats_the_last_frame_and_predicts_rewards_and_terminations(
    make: Callable[..., Visual], unroll: int, updates: int
) -> None:
    model = make(members=1, unroll=unroll, optim=Optim(1e-2 if make is frames else 5e-3, 0.0))
    replay = world(model.spec, 420)
    metrics = fit(max_updates=updates)(model, replay)
    assert metrics["model/openloop/obs/changed_f1_1"] > 0.85 and metrics["model/openloop/obs/changed_f1_5"] > 0.55, (
        metrics
    )
    assert (
        metrics["model/openloop/reward/average_precision"] > 0.9
        and metrics["model/openloop/termination/average_precision"] > 0.7
    ), metrics
    if unroll == 1:  # what is predicted of frames that are wrong still is not calibrated for right ones
        assert 0.8 < metrics["model/openloop/reward/calibration"] < 1.25, metrics
        assert 0.75 < metrics["model/openloop/termination/calibration"] < 1.3, metrics
    still = open_loop(model, replay.latest(model.lead + 3))
    predicted, true = changed(still._replace(predicted=still.start.expand_as(still.predicted)), model.change_threshold)
    assert f1(predicted, true, still.valid).tolist() == [0.0, 0.0]


def test_the_learning_rate_falls_within_a_fit_and_is_reset_for_the_next() -> None:
    model, replay = grid(members=1, optim=Optim(1e-2, 0.0)), world(GRID, 200)
    rates: list[float] = []
    step = model.opt.step

    def watched(closure: None = None) -> None:
        rates.append(model.opt.param_groups[0]["lr"])
        step()

    model.opt.step = watched  # type: ignore[method-assign]
    for _ in range(2):
        fit(max_updates=8)(model, replay)
    assert rates == pytest.approx([1e-2] * 5 + [7.5e-3, 5e-3, 2.5e-3] + [1e-2] * 5 + [7.5e-3, 5e-3, 2.5e-3])


def test_members_of_an_image_ensemble_learn_from_steps_of_their_own() -> None:
    model, replay = grid(), world(GRID, 80)
    weights = [[p.clone() for p in net.parameters()] for net in model.nets]
    rows = replay.read(torch.tensor([[4, 8, 12], [40, 44, 48]]), model.lead + 2)
    model.update(rows)
    alone = grid()
    alone.update(rows.at((slice(None), 1)))
    moved = [p - w for p, w in zip(model.net(1).parameters(), weights[1], strict=True)]
    other = [p - w for p, w in zip(alone.net(1).parameters(), weights[1], strict=True)]
    assert any(m.any() for m in moved) and all(torch.allclose(m, o) for m, o in zip(moved, other, strict=True))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GridModel(EnvSpec((4,), torch.float32, 2, True), 1, 1, 1, 8, 1, OPTIM, trainer()), "uint8 images"),
        (lambda: frames(history=1), "dynamics.history is 1; it must be at least env.frame_stack, 2"),
        (
            lambda: frames(EnvSpec((2, 18, 16), torch.uint8, 3, True, 2)),
            "dynamics.patch is 4; for images of 18 x 16 it must be one of 1, 2",
        ),
        (
            lambda: GridModel(EnvSpec((4, 6, 6), torch.uint8, 2, False), 1, 4, 1, 8, 1, OPTIM, trainer()),
            "needs discrete actions",
        ),
        (
            lambda: GridModel(EnvSpec((4, 84, 84), torch.uint8, 3, True, 4), 1, 4, 1, 8, 1, OPTIM, trainer()),
            "images of 84 x 84: try",
        ),
        (lambda: frames(EnvSpec((4, 12, 12), torch.uint8, 3, True)), "not 4 channels: try dynamics=grid"),
    ],
)
def test_what_it_cannot_predict_is_rejected(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_an_ensemble_that_exceeds_memory_is_rejected() -> None:
    model: Visual = grid()
    with pytest.raises(ValueError, match=r"dynamics.members=2, .* need about .* GB on cpu, where .* GB are free"):
        trainer(batch=10**12).check_memory(model)
    trainer().check_memory(model)
