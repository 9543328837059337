"""Edits of a scene: random edits, their instructions, and their exact masks and targets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from editing.shapes.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene, Thing, paint, to_uint8

KINDS = ("add", "remove", "replace", "recolour")
SPLITS = ("train", "validation", "test")
THINGS = tuple(Thing(colour, shape) for colour in COLOURS for shape in SHAPES)
OUTCOMES: tuple[Thing | None, ...] = (*THINGS, None)  # every thing that may stand at the edited place afterwards


@dataclass(frozen=True)
class Edit:
    """`scene` with `after` put at `place` (None removes), and its instruction."""

    kind: str
    scene: Scene
    place: str
    after: Thing | None
    instruction: str

    @property
    def before(self) -> Thing | None:
        return self.scene.thing_at(self.place)

    @property
    def target_scene(self) -> Scene:
        return self.scene.with_thing(self.place, self.after)


def edit_mask(edit: Edit) -> np.ndarray:
    """Bool [64, 64]: every pixel that the old or the new object (shadow included) touches, dilated by one."""
    empty = to_uint8(paint(edit.scene.with_thing(edit.place, None)))
    touched = np.zeros(empty.shape[:2], dtype=bool)
    for scene in (edit.scene, edit.target_scene):
        touched |= (to_uint8(paint(scene)) != empty).any(axis=-1)
    return grown(touched, 1)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask, bool [H, W], with every pixel that some steps up, down, left or right lead to, at most `pixels`."""
    for _ in range(pixels):
        around = np.pad(mask, 1)
        mask = mask | around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    return mask


def wrong_scene(edit: Edit) -> Scene:
    """The scene after another outcome than the one that was asked for: any of the twelve, the one that leaves the scene
    as it was among them. It follows from the edit alone."""
    others = [outcome for outcome in OUTCOMES if outcome != edit.after]
    layout = repr((edit.kind, edit.place, edit.after, edit.scene.things, edit.scene.background_seed))
    digest = hashlib.blake2b(f"wrong/{layout}".encode(), digest_size=8).digest()
    return edit.scene.with_thing(edit.place, others[int.from_bytes(digest, "little") % len(others)])


@lru_cache(maxsize=4)  # every score of a group needs them, and painting dominates the cost
def outcomes(edit: Edit) -> np.ndarray:
    """Float32 [13, 64, 64, 3]: the image for every entry of OUTCOMES at the edited place; read-only."""
    painted = np.stack([paint(edit.scene.with_thing(edit.place, thing)) for thing in OUTCOMES])
    painted.flags.writeable = False
    return painted


def draw_scene(rng: np.random.Generator, count: int) -> Scene:
    """A scene with `count` distinct things at random places."""
    taken = sorted(rng.choice(len(PLACES), count, replace=False))
    places = [list(PLACES)[i] for i in taken]
    things = rng.choice(len(THINGS), count, replace=False)
    centres = tuple((row + rng.uniform(-0.8, 0.8), column + rng.uniform(-0.8, 0.8)) for row, column in PLACES.values())
    return Scene(
        background=str(rng.choice(BACKGROUNDS)),
        background_seed=int(rng.integers(2**32)),
        things=tuple((place, THINGS[i]) for place, i in zip(places, things, strict=True)),
        centres=centres,
        radius=float(rng.uniform(10.2, 10.8)),
    )


def _refer(rng: np.random.Generator, thing: Thing, place: str) -> str:
    """Names are unique in a scene, so the name, the place, or both identify the object."""
    return str(
        rng.choice([f"the {thing.name} at {place}", f"the {thing.name}", f"the object at {place}"], p=[0.7, 0.15, 0.15])
    )


def draw_edit(rng: np.random.Generator) -> Edit:
    """A random edit; kinds are equally likely."""
    kind = str(rng.choice(KINDS))
    scene = draw_scene(rng, int(rng.integers(1, 4)))
    if kind == "add":
        place = str(rng.choice([p for p in PLACES if scene.thing_at(p) is None]))
        after = THINGS[rng.integers(len(THINGS))]
        return Edit(kind, scene, place, after, f"add a {after.name} at {place}")
    place, before = scene.things[rng.integers(len(scene.things))]
    reference = _refer(rng, before, place)
    if kind == "remove":
        return Edit(kind, scene, place, None, f"remove {reference}")
    if kind == "recolour":
        colour = str(rng.choice([c for c in COLOURS if c != before.colour]))
        return Edit(kind, scene, place, Thing(colour, before.shape), f"recolour {reference} to {colour}")
    after = THINGS[rng.choice([i for i, thing in enumerate(THINGS) if thing != before])]
    return Edit(kind, scene, place, after, f"replace {reference} with a {after.name}")


def split_of(edit: Edit) -> str:
    """The split an edit belongs to, decided by its *layout* (all things, the place, the outcome).

    No layout is in two splits, so a held-out task has a combination that training never showed,
    whatever the seeds, counts and backgrounds.
    """
    layout = repr((edit.kind, edit.place, edit.after, edit.scene.things))
    bucket = hashlib.blake2b(layout.encode(), digest_size=4).digest()[0] % 10
    return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def edit_at(split: str, seed: int, index: int, photo_folder: str | None = None) -> Edit:
    """The `index`-th edit of a split: a pure function of its arguments (and of the photos, if a folder is given).

    With `photo_folder` the background is a crop of one of its images instead of a procedural texture.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {SPLITS}, got {split!r}")
    digest = hashlib.blake2b(f"shapes/{split}/{seed}/{index}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    while True:  # one draw in ten (eight in ten for train) lands in the split
        edit = draw_edit(rng)
        if split_of(edit) == split:
            if photo_folder is not None:
                edit = replace(edit, scene=replace(edit.scene, background=f"photo:{photo_folder}"))
            return edit
