"""Of every method: its gradient at the old weights in closed form, in float64, over odd masks and groups.

The gradient is that with respect to the velocities: what lies behind is the transformer's, the same for all methods.
"""

import math

import pytest
import torch
from torch import Tensor

from configs.algorithms import (
    CoCoEditConfig,
    DanceGrpoConfig,
    DiffusionNftConfig,
    EditGrpoConfig,
    FinalSampleConfig,
    FlowGrpoConfig,
    LocusConfig,
    MixGrpoConfig,
    NeighborGrpoConfig,
    RcGrpoConfig,
    SpatialFlowGrpoConfig,
)
from configs.method_families import MethodConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Queries, Velocities
from learner.algorithms.region_credit import RegionCredit
from learner.algorithms.registry import open_algorithm

G, TOKENS, CHANNELS = 5, 6, 3
SIGMAS = torch.tensor([1.0, 0.75, 0.4, 0.0], dtype=torch.float64)
METHODS = {
    "rc_grpo": RcGrpoConfig(trained_steps=(1, 2)),
    "rc_grpo_factored": RcGrpoConfig(trained_steps=(1, 2), surrogate="factored"),
    "edit_grpo": EditGrpoConfig(trained_steps=(1, 2)),
    "edit_grpo_per_candidate": EditGrpoConfig(trained_steps=(1, 2), credit={"per": "candidate"}),
    "neighbor_grpo": NeighborGrpoConfig(trained_steps=(1, 2)),
    "locus": LocusConfig(trained_steps=(1,)),
    "locus_by_region": LocusConfig(trained_steps=(1,), credit={"per": "region"}),
    "flow_grpo": FlowGrpoConfig(),
    "flow_grpo_cps": FlowGrpoConfig(sde="cps", noise_level=0.8),
    "flow_grpo_guard": FlowGrpoConfig(ratio="guard"),
    "spatialflow_grpo": SpatialFlowGrpoConfig(),
    "spatialflow_uniform": SpatialFlowGrpoConfig(weighting="uniform", ratio="guard"),
    "spatialflow_per_candidate": SpatialFlowGrpoConfig(credit={"per": "candidate"}),
    "dance_grpo": DanceGrpoConfig(),
    "mix_grpo": MixGrpoConfig(window_start=1),
    "nft": DiffusionNftConfig(samples=2),
    "nft_beta": DiffusionNftConfig(samples=2, beta=0.3),
    "cocoedit": CoCoEditConfig(samples=2, background_hinge=0.5, edit_hinge=0.3, tau_negative=50.0),
    "cocoedit_beta": CoCoEditConfig(samples=2, beta=0.3, erosion=0, background_hinge=0.5, tau_positive=2.0),
    "cocoedit_sample": CoCoEditConfig(
        samples=2,
        background_hinge=0.5,
        edit_hinge=0.3,
        tau_negative=50.0,
        positive_reference="sample",
        use_reg_xsrc=False,
    ),
    "pepg": FinalSampleConfig(samples=2),
    "epg": FinalSampleConfig(samples=2, form="epg"),
    "awm": FinalSampleConfig(samples=2, form="awm"),
}
MASKS = {
    "half": [1, 1, 0, 0, 1, 0],
    "soft": [0.3, 1, 0, 0.5, 0, 0],
    "one": [0, 0, 0, 0, 0, 1],
    "full": [1] * 6,
    "empty": [0] * 6,
}


OWN_REGION, REGION_WEIGHTS = [0, 1, 0, 1, 0.5, 0], [1.0, 0.5, 2.0]


def credit_of(valid: tuple[bool, ...], advantages: list[float], mask: list[float]) -> RegionCredit:
    """Three regions, one of them the task's own, whose candidates rank differently."""
    masks = torch.tensor([mask, [1 - one for one in mask], OWN_REGION], dtype=torch.float64)
    judged, found = [i for i in range(G) if valid[i]], torch.zeros(G, 3, dtype=torch.float64)
    for shift in range(3):
        for place, i in enumerate(judged):
            found[i, shift] = (1 + shift) * advantages[judged[(place - shift) % len(judged)]]
    return RegionCredit(("edit", "background", "hat"), masks, found, torch.tensor(REGION_WEIGHTS, dtype=torch.float64))


def group_of(config: MethodConfig, mask: str, valid: tuple[bool, ...], advantages: list[float]) -> GroupTensors:
    steps = {"anchors": (1, 2), "transitions": (1,), "final": (2,)}[config.family]
    anchors = {"anchors": (1, 3), "transitions": tuple(range(G)), "final": (2,)}[config.family]
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return GroupTensors(
        steps=steps,
        sigmas=SIGMAS,
        candidates=normal(len(steps), G, TOKENS, CHANNELS),
        predecessors=normal(len(steps), len(anchors), TOKENS, CHANNELS),
        anchors=anchors,
        valid=torch.tensor(valid),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        edit_mask=torch.tensor(MASKS[mask], dtype=torch.float64),
        source=normal(TOKENS, CHANNELS),
        grid=(2, 3),
        seed=7,
        credit=credit_of(valid, advantages, MASKS[mask]) if config.by_region else None,
    )


def gradient_of(
    config: MethodConfig, group: GroupTensors, velocity: Tensor | None = None
) -> tuple[Queries, Tensor, Tensor]:
    """The queries, velocities there, and d term / d velocity, where the present weights made the group."""
    method = open_algorithm(config)
    queries = method.queries(group)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(queries.x.shape, generator=generator, dtype=torch.float64).requires_grad_()

    def no_reference(rows: slice) -> Tensor:
        raise AssertionError("no term asks for the base")

    term = method.terms(queries, Velocities(slice(0, queries.count), v, None, no_reference))[SIGNAL]
    if term.ratio is not None:
        assert term.ratio.deviation == 0 == term.ratio.clipped
    if not term.value.requires_grad:
        return queries, v.detach(), torch.zeros_like(v)
    return queries, v.detach(), torch.autograd.grad(term.value, v)[0]


def expected(name: str, config: MethodConfig, group: GroupTensors, queries: Queries, v: Tensor) -> Tensor:
    """Element by element from the papers' formulas."""
    found, elements, count = torch.zeros_like(v), TOKENS * CHANNELS, queries.count
    judged = [i for i in range(G) if group.valid[i]]
    a, mask = group.advantages, group.edit_mask
    inside, outside = CHANNELS * float(mask.sum()), CHANNELS * float((1 - mask).sum())
    if config.family == "anchors":
        pairs = [(step, b) for step in config.trained_steps for b in range(len(group.anchors))]
        for row, (step, _) in enumerate(pairs):
            states, dt = group.candidates[group.steps.index(step)], SIGMAS[step + 1] - SIGMAS[step]
            pulled = sum(a[i] * states[i] for i in judged)
            if name == "neighbor_grpo":
                found[row] = -2 * dt * pulled
            elif config.type == "edit_grpo" or name == "rc_grpo_factored":
                for region, by_region, weight, background in regions(config, group):
                    w = weight * region / max(CHANNELS * float(region.sum()), 1) / (1.1 if background else 0.9) ** 2
                    found[row] += -dt * w[:, None] * sum(by_region[i] * states[i] for i in judged)
            elif name == "rc_grpo":
                w = mask / max(inside, 1) / 0.9**2 + (1 - mask) / max(outside, 1) / 1.1**2
                found[row] = -dt * w[:, None] * pulled
            else:
                final = group.candidates[-1]
                mean = sum(final[i] for i in judged) / len(judged)
                squares = sum((mask[:, None] * (final[i] - mean) ** 2).sum() for i in judged)
                if inside == 0 or squares == 0:
                    continue
                spread = math.sqrt(squares / (inside * len(judged)))
                d = sum(
                    (weight * region[:, None] if config.by_region else 1.0) * by_region[i] * (final[i] - mean)
                    for region, by_region, weight, _ in regions(config, group)[slice(3 if config.by_region else 1)]
                    for i in judged
                ) / (spread * len(judged))
                found[row] = mask[:, None] * d / inside
    elif config.family == "transitions":
        t, t_next = float(SIGMAS[1]), float(SIGMAS[2])
        dt = t_next - t
        for i in range(G):
            x, x_next = group.predecessors[0, i], group.candidates[0, i]
            if config.sde == "cps":
                std = t_next * math.sin(config.noise_level * math.pi / 2)
                left = math.sqrt(t_next**2 - std**2)
                mean = (x - t * v[i]) * (1 - t_next) + (x + (1 - t) * v[i]) * left
                by_v, of_mean = -t * (1 - t_next) + (1 - t) * left, 2 * (x_next - mean)
            else:
                s = config.noise_level * (math.sqrt(t / (1 - t)) if config.sde == "sde" else 1.0)
                std = s * math.sqrt(-dt)
                by_v = (1 + s**2 * (1 - t) / (2 * t)) * dt
                mean = x * (1 + s**2 * dt / (2 * t)) + v[i] * by_v
                of_mean = (x_next - mean) / std**2
                if config.ratio == "guard":
                    of_mean = of_mean * std / -dt
            if config.type != "spatialflow_grpo":
                found[i] = -a[i] * of_mean * by_v / elements
                continue
            present = sum(float(region.sum()) > 0 for region, *_ in regions(config, group))
            for region, by_region, weight, _ in regions(config, group):
                tokens = float(region.sum())
                if tokens > 0:
                    counts = tokens / TOKENS if config.weighting == "area" else 1 / present
                    share = weight * counts * region[:, None] / (tokens * CHANNELS)
                    found[i] += -by_region[i] * share * of_mean * by_v
    else:
        for row in range(count):
            i, sigma, noise = int(queries.candidate[row]), float(queries.sigma[row]), queries.noise[row]
            x0 = group.candidates[-1, i]
            x = (1 - sigma) * x0 + sigma * noise
            error = x - sigma * v[row] - x0
            w = max(float(error.abs().mean()), 1e-5)
            away = 2 * sigma * error / (w * elements)
            if name.startswith(("nft", "cocoedit")):
                r = min(max(float(a[i]) / 10 + 0.5, 0), 1)
                found[row] = 5 * (1 - 2 * r) * away
                if name.startswith("cocoedit"):
                    found[row] += hinges(config, group, x0, x - sigma * v[row], sigma, r)
            elif name == "awm":
                found[row] = 2 * a[i] * (v[row] - (noise - x0)) / elements
            else:
                found[row] = -a[i] * away
    return found / count


def regions(config: MethodConfig, group: GroupTensors) -> list[tuple[Tensor, Tensor, float, bool]]:
    """Mask, advantages, weight, and whether it is the background."""
    mask, a = group.edit_mask, group.advantages
    if not config.by_region:
        return [(mask, a, 1.0, False), (1 - mask, a, 1.0, True)]
    masks = [mask, 1 - mask, torch.tensor(OWN_REGION, dtype=torch.float64)]
    found = credit_of(tuple(group.valid.tolist()), a.tolist(), mask.tolist()).advantages
    return [(masks[r], found[:, r], REGION_WEIGHTS[r], r == 1) for r in range(3)]


def hinges(config: CoCoEditConfig, group: GroupTensors, x0: Tensor, clean: Tensor, sigma: float, r: float) -> Tensor:
    """Of both hinges; at the old velocities both branches point at `clean`."""
    (rows, columns), found = group.grid, torch.zeros_like(clean)
    near = [
        [
            float(group.edit_mask[i * columns + j])
            for i in range(rows)
            for j in range(columns)
            if max(abs(i - u // columns), abs(j - u % columns)) <= config.erosion
        ]
        for u in range(TOKENS)
    ]
    ring = [config.ring_weight * (max(values) - min(values)) for values in near]
    inside = torch.tensor([min(values) + more for values, more in zip(near, ring, strict=True)])
    outside = torch.tensor([1 - max(values) + more for values, more in zip(near, ring, strict=True)])
    for weights, reference, wanted, sign in (
        (outside, x0 if config.positive_reference == "sample" else group.source, r * config.background_hinge, 1),
        (inside, group.source if config.use_reg_xsrc else x0, (1 - r) * config.edit_hinge, -1),
    ):
        if weights.sum() == 0:
            continue
        total = float(weights.sum()) * CHANNELS
        away = weights[:, None].double() * (clean - reference)
        distance = float((away * (clean - reference)).sum()) / total
        # + branch: above its tolerance; - branch: below what counts as changed, and its estimate moves the other way.
        if distance > config.tau_positive if sign == 1 else distance < config.tau_negative:
            found += wanted * -sigma * config.beta * 2 * away / total
    return found


EVERYBODY = (True,) * G


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", METHODS)
def test_the_first_gradient_is_the_papers(name, mask):
    config, group = METHODS[name], group_of(METHODS[name], mask, EVERYBODY, [0.7, -1.3, 0.2, 1.1, -0.7])
    queries, v, gradient = gradient_of(config, group)
    torch.testing.assert_close(gradient, expected(name, config, group, queries, v), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("valid", [(True, True, False, True, False), (False, True, False, False, False)])
@pytest.mark.parametrize("name", METHODS)
def test_a_candidate_without_a_reward_has_no_part_in_it(name, valid):
    advantages = [0.7, -1.1, 0.0, 0.4, 0.0] if sum(valid) > 1 else [0.0] * G
    config, group = METHODS[name], group_of(METHODS[name], "half", valid, advantages)
    queries, v, gradient = gradient_of(config, group)
    torch.testing.assert_close(gradient, expected(name, config, group, queries, v), rtol=1e-6, atol=1e-9)
    other = group_of(config, "half", valid, advantages)
    if config.family == "final":
        other.candidates[:, 2] += 100
        torch.testing.assert_close(gradient_of(config, other)[2], gradient)


@pytest.mark.parametrize("name", METHODS)
def test_equal_rewards_pull_nowhere(name):
    config, group = METHODS[name], group_of(METHODS[name], "half", EVERYBODY, [0.0] * G)
    assert group.is_silent
    queries, v, gradient = gradient_of(config, group)
    if name.startswith("cocoedit"):  # what is left are the hinges, half of each
        torch.testing.assert_close(gradient, expected(name, config, group, queries, v), rtol=1e-6, atol=1e-9)
    elif not name.startswith("nft"):
        assert not gradient.any()
    else:  # optimality 1/2 weighs both implicit policies alike, and at the old weights they cancel
        assert gradient.abs().max() < 1e-12


def test_locus_pulls_alike_at_the_old_velocities_and_less_and_less_beyond():
    config = METHODS["locus"]
    group = group_of(config, "half", EVERYBODY, [0.7, -1.3, 0.2, 1.1, -0.7])
    method = open_algorithm(config)
    queries, old, first = gradient_of(config, group)

    def pull(moved: float) -> Tensor:
        v = (old - moved * queries.direction).requires_grad_()
        velocities = Velocities(slice(0, queries.count), v, old, lambda rows: old)
        return torch.autograd.grad(method.terms(queries, velocities)[SIGNAL].value, v)[0]

    torch.testing.assert_close(pull(0.0), first, rtol=1e-9, atol=1e-12)
    along = [float((pull(moved) * first).sum()) for moved in (0.0, 0.01, 0.02, 0.3)]
    assert along[0] > along[1] > along[2] > 0 > along[3], "it ends, and pulls back beyond"
