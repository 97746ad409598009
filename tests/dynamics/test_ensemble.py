"""What an ensemble imagines: a linear system learned, noise recovered, ends found, rows kept with their members."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from linear import EDGE, SPEC, C, data, ensemble, fit, queries, reward_of, true_next
from torch import Tensor

from mbrl_lab.dynamics import Ensemble
from mbrl_lab.nets.precision import SMALL_MEMBER_BATCH
from mbrl_lab.nets.speed import compile_parts
from mbrl_lab.types import EnvSpec, Step


def fitted(
    steps: int = 300, noise: float = 0.0, with_ends: bool = False, updates: int = 600, **settings: object
) -> Ensemble:
    model = ensemble(**{"lr": 3e-3, "width": 32, "members": 4, "elites": 4} | settings)
    fit(max_updates=updates, patience=100)(model, data(steps, noise=noise, ends=with_ends))
    return model


@pytest.fixture(scope="module")
def deterministic() -> Ensemble:
    torch.manual_seed(0)
    return fitted()


@pytest.fixture(scope="module")
def noisy() -> Ensemble:
    torch.manual_seed(0)
    return fitted(600, noise=0.2, gaussian=True)


@pytest.fixture(scope="module", params=[False, True], ids=["network", "bounds"])
def ending(request: pytest.FixtureRequest) -> Ensemble:
    torch.manual_seed(0)
    return fitted(with_ends=True, updates=400, termination={"bounds": request.param})


def test_it_learns_a_linear_system(deterministic: Ensemble) -> None:
    obs, action = queries()
    after, outcome = deterministic.imagine(obs, action)
    expected = true_next(obs, action)
    assert (after - expected).square().mean().sqrt() < 0.05
    assert (outcome.reward - reward_of(expected)).square().mean().sqrt() < 0.15
    assert (outcome.cont == 1).all(), "no end was ever seen"
    assert after.shape == (500, 3) and outcome.reward.shape == outcome.cont.shape == (500,)


def test_untrained_it_does_not(deterministic: Ensemble) -> None:
    obs, action = queries()
    after, _ = ensemble().imagine(obs, action)
    assert (after - true_next(obs, action)).square().mean().sqrt() > 0.3


def test_gaussian_members_recover_the_noise(noisy: Ensemble) -> None:
    replay = data(300)
    rows = replay.read(replay.transitions(), 2)
    obs, action = rows.obs[0], rows.action[1]
    after, outcome = noisy.imagine(obs, action)
    expected = true_next(obs, action)
    assert (after - expected).std(0).tolist() == pytest.approx([0.2] * 3, rel=0.25)
    assert (outcome.reward - reward_of(expected)).std().item() == pytest.approx(0.2 * float(C.norm()), rel=0.5)


def test_without_noise_drawing_repeats_and_with_it_does_not(deterministic: Ensemble, noisy: Ensemble) -> None:
    obs, action = queries(40)
    assert torch.equal(deterministic.imagine(obs, action)[0], deterministic.imagine(obs, action)[0])
    assert not torch.equal(noisy.imagine(obs, action)[0], noisy.imagine(obs, action)[0])


def test_it_learns_where_episodes_terminate(ending: Ensemble) -> None:
    """Whether a step ends an episode is a threshold on one coordinate of where it leads."""
    obs, action = queries(2000)
    after, outcome = ending.imagine(obs, action)
    beyond = after[:, 0] - EDGE
    assert outcome.cont[beyond > 0.3].mean() < 0.1
    assert outcome.cont[beyond < -0.3].mean() > 0.9
    assert (outcome.cont >= 0).all() and (outcome.cont <= 1).all()


def test_known_rewards_and_terminations_are_computed() -> None:
    calls: list[str] = []

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        calls.append("reward")
        return (obs + 10 * next_obs).sum(-1) + 100 * action[:, 0]

    def end(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        calls.append("end")
        return next_obs[:, 1] > 0

    model = ensemble(reward_fn=reward, termination_fn=end)
    metrics = fit(max_updates=3)(model, data(60, ends=True))
    assert sorted(calls) == ["end", "reward"], "asked once, to be validated: of what is trained on they are known"
    calls.clear()
    assert "model/train/termination/loss" not in metrics
    obs, action = queries(50)
    after, outcome = model.imagine(obs, action)
    assert torch.equal(outcome.reward, reward(obs, action, after))
    assert torch.equal(outcome.cont, 1 - (after[:, 1] > 0).float())


def test_discrete_actions_are_distinguished() -> None:
    spec = EnvSpec((1,), torch.float32, 3, discrete=True)
    model = ensemble(spec, lr=1e-2, width=32)
    obs = torch.randn(2, 64, 1)
    none = torch.zeros(2, 64)
    for _ in range(150):
        obs[0] = torch.randn(64, 1)
        action = torch.randint(3, (2, 64))
        obs[1] = obs[0] + action[1, :, None] - 1.0
        model.update(Step(action, obs, none, none.bool(), none.bool()))
    after, _ = model.imagine(torch.zeros(15, 1), torch.arange(15) % 3)
    torch.testing.assert_close(after[:, 0], torch.arange(15) % 3 - 1.0, atol=0.15, rtol=0)


def plain(model: Ensemble, obs: Tensor, action: Tensor, members: list[int]) -> Tensor:
    """[len(members), N, D]: what those members predict, from their weights as trained, one network at a time."""
    x = model.inputs(torch.cat([obs, SPEC.encode_action(action)], -1))
    out = model.net(x.expand(model.members, *x.shape))[members][..., : model.outputs]
    change = out * model.targets.scale + model.targets.mean
    return obs + change[..., :-1]


def by_block(model: Ensemble, obs: Tensor, action: Tensor) -> Tensor:
    """[N, D]: an equal share of the rows, the last one perhaps smaller, predicted by each elite."""
    elites = model.elite.tolist()
    share = -(-len(obs) // len(elites))
    by_member = plain(model, obs, action, elites)
    return torch.stack([by_member[row // share, row] for row in range(len(obs))])


@pytest.mark.parametrize("rows", [1, 3, 4, 10, 41])
def test_each_block_of_a_batch_is_predicted_by_one_elites_trained_weights(deterministic: Ensemble, rows: int) -> None:
    """Normalisers are folded into the first and last layers for speed, which must not change the function."""
    obs, action = queries(rows)
    after, outcome = deterministic.imagine(obs, action)
    assert after.shape == (rows, 3) and outcome.reward.shape == (rows,)
    torch.testing.assert_close(after, by_block(deterministic, obs, action), rtol=1e-4, atol=1e-5)


def as_propagated(model: Ensemble, propagation: str) -> Ensemble:
    other = copy.deepcopy(model)
    other.propagation = propagation
    return other


def test_expectation_averages_all_elites(deterministic: Ensemble) -> None:
    obs, action = queries(7)
    after, _ = as_propagated(deterministic, "expectation").imagine(obs, action)
    expected = plain(deterministic, obs, action, deterministic.elite.tolist()).mean(0)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_expectation_draws_no_noise(noisy: Ensemble) -> None:
    """PETS's E is the mean of Gaussian members, too."""
    obs, action = queries(7)
    after, _ = as_propagated(noisy, "expectation").imagine(obs, action)
    expected = plain(noisy, obs, action, noisy.elite.tolist()).mean(0)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def test_ts1_draws_a_member_for_each_particle_at_each_step(deterministic: Ensemble) -> None:
    obs, action = queries(400)
    model = as_propagated(deterministic, "ts1")
    by_member = plain(model, obs, action, model.elite.tolist())
    taken = []
    for _ in range(30):
        after, _ = model.imagine(obs, action)
        error = (after - by_member).abs().sum(-1)  # [K, N]
        assert error.amin(0).max() < 1e-3, "every row is some member's, and stands where it stood"
        taken.append(error.argmin(0))
    counts = torch.stack([torch.bincount(t, minlength=4) for t in taken])
    assert (counts - 100).abs().max() <= 2, "members share the rows equally"
    share = torch.stack([(torch.stack(taken) == k).float().mean(0) for k in range(4)])
    assert share.max() < 0.8, "no row keeps its member"


def test_ts_inf_keeps_particles_with_their_member_over_steps(deterministic: Ensemble) -> None:
    obs, action = queries(40)
    state = obs
    for _ in range(3):
        state, _ = deterministic.imagine(state, action)
    k, rows = 2, slice(20, 30)
    alone = obs[rows]
    for _ in range(3):
        alone = plain(deterministic, alone, action[rows], deterministic.elite.tolist())[k]
    torch.testing.assert_close(state[rows], alone, rtol=1e-3, atol=1e-4)


def test_only_elites_imagine() -> None:
    model = ensemble(members=5, elites=2)
    model.choose_elites(torch.tensor([0.3, 0.1, 0.9, 0.2, 0.5]))
    assert model.elite.tolist() == [1, 3]
    obs, action = queries(10)
    after, _ = model.imagine(obs, action)
    one, other = plain(model, obs, action, [1, 3])
    torch.testing.assert_close(after, torch.cat([one[:5], other[5:]]), rtol=1e-4, atol=1e-5)


CHANGES: dict[str, Callable[[Ensemble], object]] = {
    "update": lambda m: m.update(data(20).latest(20)),
    "choose_elites": lambda m: m.choose_elites(torch.arange(5.0).flip(0)),
    "normalise": lambda m: m.normalise(data(20).latest(20).at(slice(0, 2))),
    "load": lambda m: m.load_state_dict(ensemble().state_dict()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_kept_for_imagining_follows_every_change(name: str) -> None:
    model = ensemble()
    obs, action = queries(10)
    before = model.imagine(obs, action)[0]
    CHANGES[name](model)
    after = model.imagine(obs, action)[0]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, by_block(model, obs, action), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["deterministic", "noisy", "ending"])
def test_loaded_elsewhere_it_predicts_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    model: Ensemble = request.getfixturevalue(kind) if kind != "ending" else fitted(50, with_ends=True, updates=20)
    other = ensemble(lr=3e-3, width=32, members=4, elites=4, gaussian=model.gaussian)
    other.load_state_dict(model.state_dict())
    obs, action = queries(40)
    torch.manual_seed(1)
    after, outcome = model.imagine(obs, action)
    torch.manual_seed(1)
    again, same = other.imagine(obs, action)
    assert torch.equal(after, again)
    assert torch.equal(outcome.reward, same.reward) and torch.equal(outcome.cont, same.cont)


def test_in_bfloat16_it_predicts_nearly_the_same_and_afterwards_the_same(ending: Ensemble) -> None:
    obs, action = queries()
    exact, _ = ending.imagine(obs, action)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = ending.imagine(obs, action)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.05)
    assert torch.equal(ending.imagine(obs, action)[0], exact)


def test_small_batches_of_each_member_are_imagined_in_float32(deterministic: Ensemble) -> None:
    """To cast the weights would take longer than it saves."""
    for rows, same in ((4 * SMALL_MEMBER_BATCH - 1, True), (4 * SMALL_MEMBER_BATCH, False)):
        obs, action = queries(rows)
        exact, _ = deterministic.imagine(obs, action)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(deterministic.imagine(obs, action)[0], exact) == same


def test_in_bfloat16_small_changes_about_large_means_are_seen() -> None:
    """Hopper's height varies by 0.03 about 1.25, where bfloat16's numbers lie 0.008 apart; its speeds by 4 about 0."""
    mean = torch.tensor([1.25, -0.05, -0.1, -0.2, 0.3, 2.5, 0.0, 0.1, -0.2, 0.0, 0.5])
    std = torch.tensor([0.03, 0.05, 0.04, 0.1, 0.5, 0.7, 1.0, 0.8, 2.0, 2.5, 4.0])
    spec, rows = EnvSpec((11,), torch.float32, 3, False), 512
    model = ensemble(spec, members=2, elites=2, depth=3)
    obs = mean + std * torch.randn(rows, 11)
    both = torch.stack([obs, obs + 0.3 * std * torch.randn(rows, 11)])
    action, no = torch.rand(2, rows, 3) * 2 - 1, torch.zeros(2, rows, dtype=torch.bool)
    model.normalise(Step(action, both, 1 + 0.2 * torch.randn(2, rows), no, no))
    model.termination.observe(both[1], torch.arange(rows) % 9 == 0)
    with torch.no_grad():
        for weight in [*model.net.weights, *model.termination.net.weights]:
            weight *= 3  # so that what it predicts varies about as much as the targets do

    exact, meant = model.imagine(obs, action[1])
    with torch.autocast("cpu", torch.bfloat16):
        rounded, also = model.imagine(obs, action[1])
        disagreement = model.disagreement(obs, action[1])

    apart = (rounded - exact) / model.targets.scale[:-1]
    assert apart.square().mean().sqrt() < 0.01 and apart.abs().max() < 0.1
    assert ((also.reward - meant.reward) / model.targets.scale[-1]).square().mean().sqrt() < 0.01
    assert (also.cont - meant.cont).abs().mean() < 0.004
    torch.testing.assert_close(disagreement, model.disagreement(obs, action[1]), rtol=0.05, atol=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning:torch")  # torch's compiler imports its predecessor
def test_compiled_it_predicts_the_same(ending: Ensemble) -> None:
    obs, action = queries()
    after, outcome = ending.imagine(obs, action)
    compiled = copy.deepcopy(ending)
    compile_parts(compiled)
    also, its_outcome = compiled.imagine(obs, action)
    torch.testing.assert_close(also, after)
    torch.testing.assert_close(its_outcome.reward, outcome.reward)
    torch.testing.assert_close(its_outcome.cont, outcome.cont)


def test_its_state_is_the_observation() -> None:
    model = ensemble()
    step = data(1).latest(1).at(0)
    assert model.observe(None, step) is step.obs and model.features(step.obs) is step.obs


def test_update_reads_steps_and_returns_start_states() -> None:
    model = ensemble()
    rows = data(30).latest(6)
    states, metrics = model.update(rows)
    assert states.shape == (5 * 4, 3)
    assert set(metrics) == {"model/train/loss"}, "no end was seen: there is none to learn"
    assert all(x.ndim == 0 and not x.requires_grad for x in metrics.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("gaussian", [False, True])
def test_steps_across_an_episode_boundary_have_no_gradient(gaussian: bool) -> None:
    rows = data(30).latest(2)
    rows = rows._replace(first=torch.stack([rows.first[0], torch.tensor([False, True, False, True])]))
    spoiled = rows._replace(obs=rows.obs.clone(), reward=rows.reward.clone())
    spoiled.obs[1, [1, 3]] = 1e6
    spoiled.reward[1, [1, 3]] = 1e6
    losses = []
    for given in (rows, spoiled):
        torch.manual_seed(0)
        model = ensemble(gaussian=gaussian)
        losses.append(model.update(given)[1]["model/train/loss"])
    assert losses[0] == losses[1]


def test_members_learn_from_steps_of_their_own() -> None:
    model = ensemble(members=3, elites=3)
    replay = data(50)
    indices = replay.transitions()[:30].view(3, 10)
    before = [p.detach().clone() for p in model.net.parameters()]
    rows = replay.read(indices, 2)
    frozen = rows._replace(first=rows.first.clone())
    frozen.first[1, 2] = True  # the third member's rows are all invalid
    model.update(frozen)
    moved = [(a - b).detach().flatten(1).abs().sum(1) > 0 for a, b in zip(before, model.net.parameters(), strict=True)]
    assert torch.stack(moved).tolist() == [[True, True, False]] * len(moved)


def test_spaces_it_cannot_predict() -> None:
    with pytest.raises((AssertionError, ValueError), match="predicts vectors, not"):
        ensemble(EnvSpec((4, 84, 84), torch.uint8, 6, True))


@pytest.mark.parametrize("gaussian", [False, True])
def test_disagreement_is_the_spread_of_the_elites_means(gaussian: bool) -> None:
    """Members that say a constant each: (0, 0, 0, 0) and (2, 4, 0, 0) lie (1, 2, 0, 0) from their mean."""
    model = ensemble(members=3, elites=2, gaussian=gaussian)
    model.normalise(data(50).latest(2))
    with torch.no_grad():
        for p in model.net.parameters():
            p.zero_()
        model.net.biases[-1][1, 0, :4] = torch.tensor([2.0, 4.0, 0.0, 0.0])
        model.net.biases[-1][2] = 1e6  # no elite: it has no say
    model.choose_elites(torch.tensor([1.0, 2.0, 3.0]))
    obs, action = queries(7)
    assert model.disagreement(obs, action).tolist() == pytest.approx([(5 / 4) ** 0.5] * 7, rel=1e-4)
    model.reward_fn = lambda obs, action, next_obs: next_obs[:, 0]
    assert model.disagreement(obs, action).tolist() == pytest.approx([(5 / 3) ** 0.5] * 7, rel=1e-4)


def test_members_agree_where_they_saw_data(deterministic: Ensemble) -> None:
    obs, action = queries()
    near, far = deterministic.disagreement(obs, action), deterministic.disagreement(10 * obs, action)
    assert near.shape == (500,) and near.mean() < 0.1 and far.mean() > 5 * near.mean()


@pytest.mark.parametrize(
    "settings",
    [{"predicts": "next"}, {"norm": True, "dropout": 0.01}, {"target_scale": "common"}],
    ids=["next", "norm", "common"],
)
def test_it_learns_a_linear_system_with_other_targets(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = fitted(**settings)
    obs, action = queries()
    after, outcome = model.imagine(obs, action)
    expected = true_next(obs, action)
    assert (after - expected).square().mean().sqrt() < 0.1
    assert (outcome.reward - reward_of(expected)).square().mean().sqrt() < 0.45
    assert torch.equal(model.imagine(obs, action)[0], after), "without dropout"


def test_the_next_observation_is_predicted_without_the_present_one() -> None:
    """A network of zeros predicts the mean change, or the mean observation."""
    for predicts in ("delta", "next"):
        model = ensemble(predicts=predicts)
        replay = data(50)
        model.normalise(replay.read(replay.transitions(), 2))
        with torch.no_grad():
            for p in model.net.parameters():
                p.zero_()
        model.thaw()
        obs, action = queries()
        after, _ = model.imagine(obs, action)
        t = replay.read(replay.transitions(), 2).transitions()
        mean = (
            (t.next_obs - t.obs).mean((0, 1)) + obs if predicts == "delta" else t.next_obs.mean((0, 1)).expand_as(obs)
        )
        torch.testing.assert_close(after, mean, rtol=1e-4, atol=1e-4)


def test_a_common_scale_keeps_the_proportions_of_the_targets() -> None:
    model, replay = ensemble(target_scale="common"), data(50)
    steps = replay.read(replay.transitions(), 2)
    model.normalise(steps)
    assert (model.targets.scale == model.targets.scale[0]).all()
    t = steps.transitions().at(0)
    raw = torch.cat([t.next_obs - t.obs, t.reward.unsqueeze(-1)], -1)
    assert model.targets.scale[0].item() == pytest.approx(raw.var(0, correction=0).mean().sqrt().item(), rel=1e-4)
