"""Anchors that are integrated anew under the present weights (Eq. 13 of arXiv 2604.09386), in the loss of a group.

The reference is autograd through an Euler rollout written here, in float64.
"""

import pytest
import torch
from torch import Tensor, nn

from configs.algorithms import EditGrpoConfig, RcGrpoConfig
from editing.flow import integrate
from learner.algorithms.base import GroupTensors, Start
from learner.algorithms.preservation import source_anchored_background
from learner.algorithms.registry import open_algorithm
from learner.algorithms.surrogate import clipped_objective, log_policy, masked_distance
from learner.update.group_loss import GroupLoss
from tests.learner.rig import Rig, tiny_config, weights_of

G, TOKENS, CHANNELS, ANCHORS = 5, 6, 3, (1, 3)
SIGMAS = torch.tensor([1.0, 0.8, 0.55, 0.3, 0.0], dtype=torch.float64)
STEPS = (1, 2)
MASK = torch.tensor([1.0, 0.5, 0, 0, 1, 0], dtype=torch.float64)


class Field(nn.Module):
    """A velocity with parameters that mixes tokens and channels."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.channels = nn.Parameter(shift + 0.5 * torch.randn(CHANNELS, CHANNELS, generator=generator).double())
        self.tokens = nn.Parameter(0.3 * torch.randn(TOKENS, TOKENS, generator=generator).double())

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        mixed = torch.tanh(x @ self.channels)
        return mixed * (1 + sigma[:, None, None]) + torch.einsum("uv,bvc->buc", self.tokens, mixed)


def group_of(field: Field, solver="euler", steps=STEPS) -> GroupTensors:
    """Rolled out under the weights of `field`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(G, TOKENS, CHANNELS, generator=generator, dtype=torch.float64)
    kept = {state for step in steps for state in (step, step + 1)}
    with torch.no_grad():
        states = integrate(field, noise, SIGMAS, solver, keep=kept).states
    advantages = torch.tensor([0.7, -1.3, 0.2, 1.1, -0.7], dtype=torch.float64)
    return GroupTensors(
        steps=steps,
        sigmas=SIGMAS,
        candidates=torch.stack([states[step + 1] for step in steps]),
        predecessors=torch.stack([states[step][list(ANCHORS)] for step in steps]),
        anchors=ANCHORS,
        valid=torch.ones(G, dtype=torch.bool),
        advantages=advantages,
        edit_mask=MASK,
        source=torch.ones(TOKENS, CHANNELS, dtype=torch.float64),
        grid=(2, 3),
        seed=7,
        start=Start(noise[list(ANCHORS)], solver),
    )


def settings(mode: str, **over) -> RcGrpoConfig:
    given = {"trained_steps": STEPS, "anchor_mode": mode, "clip": 0.9, "preservation": {"background_weight": 0.4}}
    return RcGrpoConfig(**{**given, **over})


def gradient(config, group: GroupTensors, field: Field, old: Field | None = None, micro_batch=None):
    """Of all parameters, by the learner's way; and the numbers."""

    def no_base(x, sigma):
        raise AssertionError("the base is not asked for")

    method = open_algorithm(config)
    queries = method.queries(group)
    field.zero_grad()
    given = None
    if old is not None:
        with torch.no_grad():
            given = old(queries.x, queries.sigma)
    loss = GroupLoss(method, config, queries, False, group.source, MASK, field, no_base, micro_batch)
    stats, velocities = loss.accumulate(given, 0.5, 1.0)
    return [parameter.grad.clone() for parameter in field.parameters()], stats, velocities


def by_autograd(config, group: GroupTensors, field: Field, old: Field | None, full: bool) -> list[Tensor]:
    """Half of the same loss through an Euler rollout of every anchor, with the gradient of all of it or of its last
    step."""
    objectives, clean = [], []
    for step in STEPS:
        for b in range(len(ANCHORS)):
            x = group.start.noise[b : b + 1]
            for j in range(step):
                x = x + (SIGMAS[j + 1] - SIGMAS[j]) * field(x, SIGMAS[j : j + 1])
            x = x if full else x.detach()
            v = field(x, SIGMAS[step : step + 1])
            state = x + (SIGMAS[step + 1] - SIGMAS[step]) * v
            kept = group.candidates[group.steps.index(step)]
            log_new = log_policy(masked_distance(kept, state[0], MASK, 0.9, 1.1, 2))[None]
            log_old = log_new
            if old is not None:
                stored = group.predecessors[group.steps.index(step), b : b + 1]
                before = stored + (SIGMAS[step + 1] - SIGMAS[step]) * old(stored, SIGMAS[step : step + 1])
                log_old = log_policy(masked_distance(kept, before[0], MASK, 0.9, 1.1, 2))[None]
            objectives.append(clipped_objective(log_new, log_old, group.advantages, config.clip).objective[0])
            clean.append((x - SIGMAS[step] * v)[0])
    held = source_anchored_background(torch.stack(clean), group.source, MASK)
    loss = 0.5 * (-torch.stack(objectives).mean() + config.preservation.background_weight * held)
    return list(torch.autograd.grad(loss, list(field.parameters())))


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
@pytest.mark.parametrize("background", [0.0, 0.4])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("mode", ["reintegrate_detached", "reintegrate_full"])
def test_the_gradient_is_that_of_autograd(mode, moved, background, micro_batch):
    made_by = Field()
    group = group_of(made_by)
    field, old = (Field(shift=0.05), made_by) if moved else (made_by, None)
    config = settings(mode, preservation={"background_weight": background})
    found, stats, _ = gradient(config, group, field, old, micro_batch)
    expected = by_autograd(config, group, field, old, full=mode == "reintegrate_full")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert (stats.ratio_deviation > 0) == moved


def test_the_modes_are_three_different_gradients_once_the_weights_have_moved():
    made_by, field = Field(), Field(shift=0.05)
    group = group_of(made_by)
    leap, detached, full = (
        gradient(settings(mode), group, field, made_by)[0][0]
        for mode in ("leap", "reintegrate_detached", "reintegrate_full")
    )
    assert (leap - detached).abs().max() > 1e-6 < (detached - full).abs().max()


@pytest.mark.parametrize("solver", ["euler", "dpm2m"])
@pytest.mark.parametrize("steps", [(0,), (0, 2), (1, 2)])
def test_on_policy_the_detached_mode_is_the_leap_to_the_bit(solver, steps):
    """The field treats anchors one by one in the same way as candidates, so that there is no rounding either."""
    field = Field()
    group = group_of(field, solver, steps)
    start = integrate(field, group.start.noise, SIGMAS, solver, keep=steps)
    exact = torch.stack([start.states[step] for step in steps]).detach()
    group = GroupTensors(**{**vars(group), "predecessors": exact})
    torch.testing.assert_close(exact, group_of(field, solver, steps).predecessors, rtol=1e-12, atol=1e-12)
    found = {}
    for mode in ("leap", "reintegrate_detached"):
        config = settings(mode, trained_steps=steps)
        found[mode] = gradient(config, group, field)
    for one, other in zip(found["leap"][0], found["reintegrate_detached"][0], strict=True):
        assert torch.equal(one, other)
    assert found["leap"][1] == found["reintegrate_detached"][1]
    assert torch.equal(found["leap"][2], found["reintegrate_detached"][2])


def test_the_first_step_has_nothing_before_it():
    """From the initial noise itself all modes are the leap."""
    made_by, field = Field(), Field(shift=0.05)
    group = group_of(made_by, steps=(0,))
    one, *others = (
        gradient(settings(mode, trained_steps=(0,)), group, field, made_by)[0]
        for mode in ("leap", "reintegrate_detached", "reintegrate_full")
    )
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_factored_surrogate_is_integrated_anew_likewise():
    made_by, field = Field(), Field(shift=0.05)
    group = group_of(made_by)
    config = EditGrpoConfig(trained_steps=STEPS, anchor_mode="reintegrate_full", credit={"per": "candidate"}, clip=0.9)
    found, _, _ = gradient(config, group, field)
    # One advantage for both regions and a ratio of 1: the joint surrogate's gradient, along the whole way.
    same, _, _ = gradient(settings("reintegrate_full", preservation={"background_weight": 0.0}), group, field)
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["reintegrate_detached", "reintegrate_full"])
def test_an_editor_trains_with_anchors_from_the_leases_noise(mode, tiny_kontext, tmp_path):
    """On-policy the learner comes to the states that the rollout stored, so the first step is the leap's but for
    rounding in the detached mode; further updates go on from there."""
    found = {}
    for name in ("leap", mode):
        method = {"trained_steps": [0, 1], "anchor_mode": name, "preservation": {"background_weight": 0.0}}
        found[name] = Rig(tiny_config(tiny_kontext, algorithm=method), tmp_path / name).step(0).metrics
        assert found[name]["ratio_deviation"] == 0 and found[name]["leap_error"] < 1e-5
    assert found[mode]["surrogate_gradient"] == pytest.approx(found["leap"]["surrogate_gradient"], rel=1e-3)
    if mode == "reintegrate_detached":
        assert found[mode]["gradient_norm"] == pytest.approx(found["leap"]["gradient_norm"], rel=1e-3)
    twice = tiny_config(
        tiny_kontext, algorithm={"anchor_mode": mode}, learner={"updates_per_step": 2}, cluster={"staleness": 1}
    )
    rig = Rig(twice, tmp_path / "twice")
    before = weights_of(rig.learner)
    metrics = [rig.step(step).metrics for step in range(2)]
    assert all(0 < one["ratio_deviation"] < 0.1 and one["leap_error"] < 1e-5 for one in metrics)
    assert weights_of(rig.learner) != before
