"""Draw the phantom cohort: seeded ultrasound-like and CT-like pictures with planted lesions and exact masks.

It must be fair to every score: lesions differ from their surroundings in texture, edge and a little in brightness, lie
anywhere in the organ, and share the picture with vessels, shadows, cysts and nodes that look odd too. Tests hold raw
patch intensity, either sign, to an AUROC of at most 0.75, and the centre prior to at most 0.60. The generator is
frozen: changing a picture means a new VERSION and voids every lock. It was never tuned with a transformer's score.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

VERSION = 1
OFF_CENTRE = 0.6  # how strongly lesions avoid the middle, see _places
SHADED, FILLED = 3.0, 1.85  # radii to which a blob's level is needed: for soft rims, or inside alone (outline ≤ 1.8)


def read(n: int = 240, seed: int = 0) -> Cohort:
    """List ``n`` pictures, odd numbers ultrasound-like (0–255), even ones CT-like (HU), each its own unit.

    Growing ``n`` keeps the pictures that were there.
    """
    if n < 1:
        raise CovtokenError(f"a phantom cohort needs at least one picture, got n = {n}")
    cases, masks, organs = [], {}, {}
    for index in range(1, n + 1):
        key = f"{seed}:{index}"
        name = f"phantom-{index:04d}" if seed == 0 else f"phantom-s{seed}-{index:04d}"
        modality, organ, spacing = ("ultrasound", "breast", 0.3) if index % 2 else ("ct", "abdomen", 1.4)
        source, load = f"phantom v{VERSION} {key}", partial(pixels_of, key)
        cases.append(Case(name, name, modality, load, source=source, spacing_mm=(spacing, spacing), organ=organ))
        masks[name] = MaskRef("phantom", key=key)
        organs[name] = MaskRef("phantom", key=f"{key}:organ")
    return Cohort("phantom", "phantom", tuple(cases), masks, organs)


def pixels_of(key: str) -> np.ndarray:
    """Draw the picture of ``"seed:index"``, [H, W] float32, whole numbers (grey levels 0–255, or HU)."""
    return _draw(key)[0]


def mask_of(key: str) -> np.ndarray:
    """Draw the lesion mask of ``"seed:index"``, or the organ mask of ``"seed:index:organ"``, [H, W] bool."""
    refuse_labels(f"the phantom mask {key}")
    return _draw(key.removesuffix(":organ"))[2 if key.endswith(":organ") else 1]


def _draw(key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw picture [H, W] float32, lesion mask and organ mask [H, W] bool."""
    pixels, *masks = _packed(key)
    lesion, organ = (np.unpackbits(mask, count=pixels.size).reshape(pixels.shape).astype(bool) for mask in masks)
    return pixels.astype(np.float32), lesion, organ


@lru_cache(maxsize=256)  # a cohort's pictures and masks are asked for one after the other: about 40 MB, bounded
def _packed(key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seed, _, index = key.partition(":")
    if not (seed.isdigit() and index.isdigit()):
        raise CovtokenError(f"phantom key {key!r}: expected 'seed:index'")
    rng = np.random.Generator(np.random.PCG64([VERSION, int(seed), int(index)]))
    pixels, lesion, organ = _ultrasound(rng) if int(index) % 2 else _ct(rng)
    return pixels.astype(np.int16), np.packbits(lesion), np.packbits(organ)


def noise_field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Draw smooth Gaussian noise with unit standard deviation and grain ``sigma`` pixels."""
    factor = max(1, int(sigma // 3))  # coarse grain is drawn on a coarse grid: the same look, a tenth of the time
    small = tuple(-(-side // factor) + 1 for side in shape)
    field = gaussian_filter(rng.standard_normal(small), sigma / factor, mode="wrap")
    field = zoom(field, factor, order=1)[: shape[0], : shape[1]] if factor > 1 else field[: shape[0], : shape[1]]
    return field / field.std()


def blob_level(rng, shape, row, column, radius, aspect=1.0, ripple=0.0, reach=SHADED) -> np.ndarray:
    """Compute the level function [H, W] of a blob: < 1 inside, 9 far outside.

    Args:
        ripple: irregularity of the outline (0 smooth … 0.3 lobed).
        reach: radii of the long axis to which the level is computed; ``FILLED`` is enough where only < 1 is asked.
    """
    angle, waves, phases = rng.uniform(0, np.pi), rng.standard_normal(6), rng.uniform(0, 2 * np.pi, 6)
    level = np.full(shape, 9.0)
    reach = reach * radius * np.sqrt(aspect)
    top, bottom = np.clip([int(row - reach), int(row + reach) + 1], 0, shape[0])
    left, right = np.clip([int(column - reach), int(column + reach) + 1], 0, shape[1])
    y, x = np.arange(top, bottom)[:, None] - row, np.arange(left, right)[None] - column
    u = (np.cos(angle) * x + np.sin(angle) * y) / (radius * np.sqrt(aspect))
    v = (-np.sin(angle) * x + np.cos(angle) * y) / (radius / np.sqrt(aspect))
    outline = 1.0
    if ripple > 0:
        theta = np.arctan2(v, u)
        for order, wave, phase in zip(range(2, 8), waves, phases):
            outline = outline + ripple / order**0.5 * wave * np.cos(order * theta + phase)
    level[top:bottom, left:right] = np.minimum(np.hypot(u, v) / np.clip(outline, 0.4, 1.8), 9.0)
    return level


def inside_of(level: np.ndarray, soft: float) -> np.ndarray:
    """Turn a level function into 1 inside, 0 outside, with an edge of relative width ``soft``."""
    return 1.0 / (1.0 + np.exp(np.clip((level - 1.0) / max(soft, 1e-3), -40, 40)))


def _places(rng, allowed: np.ndarray, *groups: list[float]) -> list[list[tuple[float, tuple[float, float]]]]:
    """Place radii in the allowed region, apart from each other: (radius, (row, column)) by group, where there is room.

    Organs lie more often in a picture's middle than at its rim: places near the rim are drawn more often, so that a
    lesion's distance from the centre tells little.
    """
    placed, taken = [[] for _ in groups], []
    rows, columns = np.nonzero(allowed)
    if len(rows) == 0:
        return placed
    off_centre = np.hypot(rows / allowed.shape[0] - 0.5, columns / allowed.shape[1] - 0.5)
    chance = np.cumsum(off_centre**OFF_CENTRE)
    for group, radius in ((group, radius) for group, radii in zip(placed, groups) for radius in radii):
        for _ in range(200):
            pick = int(np.searchsorted(chance, rng.uniform(0, chance[-1])))
            row, column = float(rows[pick]), float(columns[pick])
            if all(np.hypot(row - r, column - c) > radius + other + 8 for r, c, other in taken):
                taken.append((row, column, radius))
                group.append((radius, (row, column)))
                break
    return placed


def _radii(rng, smallest: float, largest: float) -> list[float]:
    """Draw none to two lesion radii in pixels, log-uniform: a quarter of the pictures hold no lesion."""
    count = int(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))
    return [float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))) for _ in range(count)]


def _shape(rng) -> tuple[int, int]:
    return [(256, 256), (256, 288), (240, 304), (288, 256)][int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))]


def _ultrasound(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = shape = _shape(rng)
    depth = np.linspace(0, 1, height)[:, None] * np.ones(shape)
    across = np.linspace(0, 1, width)[None, :] * np.ones(shape)

    # Layers: skin, fat, gland, muscle, each with its echo level (log scale), bent by slow waves.
    level = depth + noise_field(rng, shape, 40) * 0.025
    skin, fat, muscle = 0.045, rng.uniform(0.16, 0.30), rng.uniform(0.80, 0.92)
    gland = (level > fat) & (level < muscle)
    echo = np.where(level < skin, 1.3, np.where(level < fat, 0.15, np.where(level < muscle, 0.75, 0.35)))
    streaks = gaussian_filter(rng.standard_normal(shape), (1.6, 9))  # septa and muscle fibres run along the layers
    echo = echo + streaks / streaks.std() * np.where(gland, 0.18, 0.28)
    edge = np.abs(np.gradient(gaussian_filter((level > muscle).astype(float), 1.0), axis=0))
    echo = echo + 5.0 * edge + 0.25 * noise_field(rng, shape, 14)

    lesion = np.zeros(shape, bool)
    distractors = [float(np.exp(rng.uniform(np.log(6), np.log(22)))) for _ in range(int(rng.integers(1, 5)))]
    radii = _radii(rng, 8, 50)
    allowed = (depth > 0.1) & (depth < 0.92) & (across > 0.02) & (across < 0.98)
    lesions, distractors = _places(rng, allowed, radii, distractors)
    shade = np.zeros(shape)  # what lies below is darker (shadow) or brighter (behind a cyst)
    grain = np.ones(shape)  # local strength of speckle

    for radius, place in lesions:
        blob = blob_level(rng, shape, *place, radius, rng.uniform(1.0, 1.7), rng.uniform(0.05, 0.22))
        weight = inside_of(blob, rng.uniform(0.04, 0.12))
        # Solid: neither black nor bright, its own coarse clumps, a spiculated or halo rim.
        inner = rng.uniform(0.05, 0.75) + 0.34 * noise_field(rng, shape, rng.uniform(2.5, 4.5))
        echo = echo * (1 - weight) + inner * weight
        rim = np.exp(-(((blob - 1.08) / 0.11) ** 2))
        echo = echo + rng.uniform(0.25, 0.7) * rim * (1 + 0.6 * noise_field(rng, shape, 3))
        grain = grain * (1 - 0.35 * weight)
        shade += -rng.uniform(0.0, 0.35) * _below(blob, place[0], depth * height, across * width, place[1], radius)
        lesion |= blob < 1

    for radius, place in distractors:
        kind = rng.choice(["cyst", "vessel", "fat", "spot"], p=[0.3, 0.25, 0.3, 0.15])
        if kind == "cyst":  # black, smooth, bright behind
            blob = blob_level(rng, shape, *place, radius, rng.uniform(1, 1.4))
            weight = inside_of(blob, 0.04)
            echo = echo * (1 - weight) - 0.9 * weight
            shade += 0.3 * _below(blob, place[0], depth * height, across * width, place[1], radius)
        elif kind == "vessel":  # two bright walls, black between
            blob = blob_level(rng, shape, *place, radius * 0.8, rng.uniform(3, 6))
            echo = echo * (1 - inside_of(blob, 0.08)) - 0.6 * inside_of(blob, 0.08)
            echo = echo + 0.7 * np.exp(-(((blob - 1.1) / 0.15) ** 2))
        elif kind == "fat":  # a lobule: the fat layer's grey and grain, thin capsule
            blob = blob_level(rng, shape, *place, radius * 1.1, rng.uniform(1.3, 2.4), 0.05)
            weight = inside_of(blob, 0.08)
            echo = echo * (1 - weight) + (0.15 + 0.2 * noise_field(rng, shape, 6)) * weight
            echo = echo + 0.3 * np.exp(-(((blob - 1.0) / 0.1) ** 2))
        else:  # calcified spot with a shadow
            blob = blob_level(rng, shape, *place, max(3.0, radius * 0.35))
            echo = echo + 1.6 * inside_of(blob, 0.1)
            shade += -0.8 * _below(blob, place[0], depth * height, across * width, place[1], max(3.0, radius * 0.35))

    # Log-compressed Rayleigh speckle: finer across at the top, coarser with depth, as a beam spreads.
    speckle = [gaussian_filter(rng.standard_normal(shape), (0.8, s)) for s in (1.0, 1.0, 2.0, 2.0)]
    near = np.hypot(speckle[0] / speckle[0].std(), speckle[1] / speckle[1].std())
    far = np.hypot(speckle[2] / speckle[2].std(), speckle[3] / speckle[3].std())
    rayleigh = near * (1 - depth) + far * depth
    echo = echo + shade - rng.uniform(0.3, 0.9) * depth + 0.42 * grain * np.log(rayleigh + 0.05)
    grey = np.clip(78 + 72 * echo * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12), 0, 255)
    return np.rint(grey).astype(np.float32), lesion, gland & ~(level < fat)


def _below(blob, row, rows, columns, column, radius) -> np.ndarray:
    """Mark the column of tissue behind a blob, 0…1, fading with distance."""
    lateral = np.exp(-(((columns[:1] - column) / (0.8 * radius)) ** 4))
    return lateral * (rows > row) * (blob > 1) * np.exp(-(rows[:, :1] - row) / (6.0 * radius))


def _ct(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = shape = _shape(rng)
    # The field of view is a part of the body, as in a reconstruction zoomed on one organ; its place varies.
    row, column = height * rng.uniform(0.2, 0.8), width * rng.uniform(0.15, 0.85)
    rows, columns = np.mgrid[:height, :width].astype(float)
    warp = 3.0 * noise_field(rng, shape, 30)
    body = np.hypot((rows - row + warp) / (height * rng.uniform(0.60, 0.68)), (columns - column) / (width * 0.75))
    hu = np.full(shape, -1000.0)
    hu[body < 1] = 45 + 8 * noise_field(rng, shape, 8)[body < 1]
    hu[(body < 1) & (body > 0.985)] = 20
    fat = (body > 0.84) & (body < 0.985)
    hu[fat] = -100 + 10 * noise_field(rng, shape, 5)[fat]
    inside = body < 0.80
    hu[inside] = -85 + 25 * noise_field(rng, shape, 9)[inside]  # fat between the organs

    # A large organ on one side, a smaller one opposite, bowel, two kidneys, a spine with aorta and cava.
    side = int(rng.choice([-1, 1]))
    s = 1.65 * min(height, width) / 256
    liver_level = blob_level(rng, shape, row - 18 * s, column + side * 40 * s, 60 * s, 1.3, 0.08, FILLED)
    spleen_level = blob_level(rng, shape, row + 2 * s, column - side * 72 * s, 32 * s, 1.5, 0.06, FILLED)
    organ = np.zeros(shape, bool)
    parenchyma = rng.uniform(85, 115)
    for level, mean in ((liver_level, parenchyma), (spleen_level, parenchyma + rng.uniform(-5, 20))):
        where = (level < 1) & (body < 0.82)
        hu[where] = mean + 5 * noise_field(rng, shape, 4)[where]
        organ |= where
    for sign in (-1, 1):
        level = blob_level(rng, shape, row + 38 * s, column + sign * 52 * s, 19 * s, 1.4, 0.05, FILLED)
        where = (level < 1) & (body < 0.84)
        hu[where] = np.where(level < 0.55, 60, 165)[where] + 6 * noise_field(rng, shape, 3)[where]
        organ |= where
    for _ in range(int(rng.integers(3, 7))):  # bowel: wall, with gas or fluid
        r, c = row + rng.uniform(-40, 30) * s, column - side * rng.uniform(0, 70) * s
        level = blob_level(rng, shape, r, c, rng.uniform(7, 15) * s, rng.uniform(1, 1.6), 0.08, FILLED)
        where = (level < 1) & (body < 0.8) & ~organ
        hu[where] = np.where(level < 0.72, rng.choice([-600, 15, 30]), 60)[where]
    spine = blob_level(rng, shape, row + 58 * s, column, 17 * s, 1.2, 0.06, FILLED)
    hu[spine < 1] = (np.where(spine > 0.82, 520, 230) + 45 * noise_field(rng, shape, 2))[spine < 1]
    for offset, radius in ((-13, 8), (14, 9)):
        level = blob_level(rng, shape, row + 34 * s, column + offset * s, radius * s)
        hu[level < 1] = rng.uniform(150, 190)
    for angle in rng.uniform(0, 2 * np.pi, 5):  # ribs
        r, c = row + 0.9 * height * 0.64 * np.sin(angle), column + 0.9 * width * 0.75 * np.cos(angle)
        level = blob_level(rng, shape, r, c, 5.5 * s, 2.2)
        hu[level < 1] = (np.where(level > 0.6, 600, 250) + 30 * noise_field(rng, shape, 2))[level < 1]

    radii = _radii(rng, 7, 44)
    vessels = [float(rng.uniform(3, 8)) for _ in range(int(rng.integers(4, 9)))]
    cysts = [float(rng.uniform(6, 18)) for _ in range(int(rng.integers(0, 4)))]
    solid = gaussian_filter(organ.astype(float), 2) > 0.8
    lesions, vessels, cysts = _places(rng, solid, radii, vessels, cysts)
    for radius, place in vessels:
        level = blob_level(rng, shape, *place, radius, rng.uniform(1, 5), 0.05, FILLED)
        hu[(level < 1) & organ] = parenchyma + rng.uniform(35, 75)
    for radius, place in cysts:
        weight = inside_of(blob_level(rng, shape, *place, radius, rng.uniform(1, 1.4)), 0.04) * organ
        hu = hu * (1 - weight) + rng.uniform(0, 18) * weight
    lesion = np.zeros(shape, bool)
    for radius, place in lesions:
        blob = blob_level(rng, shape, *place, radius, rng.uniform(1, 1.5), rng.uniform(0.05, 0.2))
        weight = inside_of(blob, rng.uniform(0.05, 0.12)) * organ
        # Heterogeneous: darker or a little brighter than the organ, a necrotic core when large, an enhancing rim.
        shift = rng.choice([-1, 1], p=[0.65, 0.35]) * rng.uniform(28, 52)
        inner = parenchyma + shift + 20 * noise_field(rng, shape, rng.uniform(2, 4))
        inner = inner - (60 * inside_of(blob / 0.5, 0.2) if radius > 20 else 0)
        hu = hu * (1 - weight) + inner * weight
        hu = hu + rng.uniform(10, 45) * np.exp(-(((blob - 0.97) / 0.12) ** 2)) * organ
        lesion |= (blob < 1) & organ
    hu = gaussian_filter(hu, 0.7) + rng.uniform(8, 14) * noise_field(rng, shape, 0.8)
    return np.rint(np.clip(hu, -1024, 1500)).astype(np.float32), lesion, organ
