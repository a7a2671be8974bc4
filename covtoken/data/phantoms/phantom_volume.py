"""Draw phantom volumes: seeded CT-like slices 5 mm apart, with ellipsoidal lesions of known size in mm.

Slices have the textures of the phantom's CT-like pictures (``covtoken.data.readers.phantom``, whose generator stays as
it is). Organs, vessels, cysts and lesions go on from slice to slice, and a texture changes along z as fast as in the
slice. Lesions lie wholly inside an organ, so that their size is as planted; cysts and vessels look odd too and are
none. The generator was never tuned with a transformer's score; changing a picture means a new VERSION.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from covtoken.data.case import Case, SlicedVolume
from covtoken.data.readers.phantom import FILLED, SHADED, blob_level, inside_of, noise_field
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

VERSION = 1
SHAPE, PIXEL_MM, SLICE_MM = (256, 256), 1.4, 5.0
SLICES = (24, 32)  # fewest, most
SCALE = 1.65  # of organs, as in the phantom's pictures
MOST = 100  # volumes that a seed may have
OFF_CENTRE = 3.0  # how strongly lesions avoid the picture's middle, where their organ has most room


@dataclass(frozen=True)
class Planted:
    """An ellipsoidal lesion: centre (z, row, column), half its length along z, in-plane semi-axes; all in mm."""

    centre_mm: tuple[float, float, float]
    along_z_mm: float
    semi_axes_mm: tuple[float, float]  # long, short

    @property
    def volume_mm3(self) -> float:
        """Volume of the ellipsoid."""
        return 4 / 3 * np.pi * self.along_z_mm * self.semi_axes_mm[0] * self.semi_axes_mm[1]


def read(n: int = 8, seed: int = 0) -> tuple[SlicedVolume, ...]:
    """List ``n`` volumes of 24 to 32 slices, each its own unit. Growing ``n`` keeps the volumes that were there."""
    if not 1 <= n <= MOST:
        raise CovtokenError(f"phantom volumes: expected 1 to {MOST}, got n = {n}")
    return tuple(_volume(f"{seed}:{index}") for index in range(1, n + 1))


def pixels_of(key: str) -> np.ndarray:
    """Draw the slice ``"seed:volume:slice"``, [H, W] float32, whole HU."""
    of_volume, _, at = key.rpartition(":")
    return _drawn(of_volume)[0][int(at)].astype(np.float32)


def lesions_of(key: str) -> tuple[dict[int, float], Callable[[Case], np.ndarray]]:
    """Give the size in mm³ of each lesion of ``"seed:volume"`` as drawn, and its slices' lesions [H, W] uint8."""
    refuse_labels(f"the lesions of phantom volume {key}")
    ids = _drawn(key)[1]
    voxels = np.bincount(ids.ravel())
    sizes = {number: float(n * SLICE_MM * PIXEL_MM**2) for number, n in enumerate(voxels) if number and n}
    return sizes, lambda case: ids[case.slice_index]


def planted(key: str) -> tuple[Planted, ...]:
    """Give the lesions of ``"seed:volume"`` as they were planted."""
    refuse_labels(f"the lesions of phantom volume {key}")
    return _drawn(key)[2]


def _volume(key: str) -> SlicedVolume:
    seed, _, index = key.partition(":")
    name = f"phantom-volume-{int(index):02d}" if seed == "0" else f"phantom-volume-s{seed}-{int(index):02d}"
    n_slices = _slices(_rng(key))
    cases = tuple(
        Case(
            f"{name}-{at:02d}",
            name,
            "ct",
            partial(pixels_of, f"{key}:{at}"),
            source=f"phantom volume v{VERSION} {key}:{at}",
            spacing_mm=(PIXEL_MM, PIXEL_MM),
            slice_index=at,
            organ="abdomen",
        )
        for at in range(n_slices)
    )
    return SlicedVolume(name, name, cases, tuple(SLICE_MM * at for at in range(n_slices)), partial(lesions_of, key))


def _rng(key: str) -> np.random.Generator:
    seed, _, index = key.partition(":")
    if not (seed.isdigit() and index.isdigit()):
        raise CovtokenError(f"phantom volume key {key!r}: expected 'seed:volume'")
    return np.random.Generator(np.random.PCG64([VERSION, int(seed), int(index), 3]))  # 3: no picture has these numbers


def _slices(rng: np.random.Generator) -> int:
    return int(rng.integers(SLICES[0], SLICES[1] + 1))


@lru_cache(maxsize=16)  # the slices of a volume are asked for one after the other: about 6 MB each, bounded
def _drawn(key: str) -> tuple[np.ndarray, np.ndarray, tuple[Planted, ...]]:
    """Draw HU [S, H, W] int16, lesion ids [S, H, W] uint8, and the lesions as planted."""
    rng = _rng(key)
    z = SLICE_MM * np.arange(_slices(rng))
    body = _Body(rng, z)
    organ = np.stack([body.organ(at) for at in z])
    room = distance_transform_edt(np.pad(organ, 1), (SLICE_MM, PIXEL_MM, PIXEL_MM))[1:-1, 1:-1, 1:-1]
    radii = np.exp(rng.uniform(np.log(7), np.log(30), rng.integers(3, 6)))
    lesions = [_Lesion(rng, radius) for radius in sorted(radii, reverse=True)]  # the largest first: it needs most room
    cysts = [_Blob(rng, radius, rng.uniform(1, 1.4)) for radius in rng.uniform(8, 25, rng.integers(2, 7))]
    vessels = [_Blob(rng, radius, rng.uniform(2, 6)) for radius in rng.uniform(4, 11, rng.integers(6, 13))]
    placed: list[_Blob] = []
    for each in (*lesions, *cysts, *vessels):
        if _place(rng, each, room, z, placed):
            placed.append(each)
    lesions, cysts, vessels = ([each for each in kind if each in placed] for kind in (lesions, cysts, vessels))
    own = _textures(rng.spawn(1)[0])
    noise, level = rng.spawn(1)[0], rng.uniform(8, 14)
    hu, ids = np.zeros((len(z), *SHAPE), np.int16), np.zeros((len(z), *SHAPE), np.uint8)
    for i, at in enumerate(z):
        picture = body.slice(at, organ[i], own)
        for vessel in vessels:
            picture[(vessel.level(at, FILLED) < 1) & organ[i]] = body.parenchyma + vessel.shift
        for cyst in cysts:
            weight = inside_of(cyst.level(at), 0.04) * organ[i]
            picture = picture * (1 - weight) + cyst.shift / 4 * weight  # 9 to 19 HU: water
        for number, lesion in enumerate(lesions, start=1):
            level = lesion.level(at)
            picture = lesion.into(picture, level, body.parenchyma, organ[i], own)
            ids[i][level < 1] = number
        picture = gaussian_filter(picture, 0.7) + level * noise_field(noise, SHAPE, 0.8)
        hu[i] = np.rint(np.clip(picture, -1024, 1500))
    return hu, ids, tuple(lesion.as_planted() for lesion in lesions)


Textures = Callable[[str, float], np.ndarray]


def _textures(rng: np.random.Generator) -> Textures:
    """Give noise fields by name, slice after slice: the next call of a name gives the field one slice further.

    Smooth Gaussian noise of grain σ is correlated by exp(−d²/4σ²) at a distance d, in the slice and so along z.
    """
    fields: dict[str, np.ndarray] = {}

    def texture(name: str, grain: float) -> np.ndarray:
        new = noise_field(rng, SHAPE, grain)
        alike = float(np.exp(-((SLICE_MM / PIXEL_MM) ** 2) / (4 * grain**2)))
        old = fields.get(name)
        fields[name] = new if old is None else alike * old + np.sqrt(1 - alike**2) * new
        return fields[name]

    return texture


class _Blob:
    """A solid whose slices are blobs of one outline: an ellipsoid where the outline has no ripple."""

    def __init__(self, rng, radius_mm: float, aspect: float, ripple: float = 0.0, half_mm: float = 0.0) -> None:
        self.seed, self.shift = int(rng.integers(2**32)), float(rng.uniform(35, 75))
        self.radius, self.aspect, self.ripple = radius_mm / PIXEL_MM, aspect, ripple
        self.half_mm = half_mm or radius_mm * float(rng.uniform(0.7, 1.3))
        self.row = self.column = self.z_mm = 0.0

    @property
    def long_mm(self) -> float:
        return self.radius * PIXEL_MM * np.sqrt(self.aspect)

    def at(self, z_mm: float, row: float, column: float) -> _Blob:
        self.z_mm, self.row, self.column = float(z_mm), float(row), float(column)
        return self

    def level(self, z_mm: float, reach: float = SHADED) -> np.ndarray:
        """Compute the level [H, W] in the slice at ``z_mm``: < 1 inside; the outline is drawn alike in every slice."""
        if abs(z_mm - self.z_mm) >= self.half_mm * (1 if reach == FILLED else 2):
            return np.full(SHAPE, 9.0)  # out of reach
        outline = np.random.default_rng(self.seed)
        flat = blob_level(outline, SHAPE, self.row, self.column, self.radius, self.aspect, self.ripple, reach)
        return np.hypot(flat, (z_mm - self.z_mm) / self.half_mm)


class _Lesion(_Blob):
    """A lesion as the phantom's pictures have it, in three dimensions: clumps, a rim, a core where it is large."""

    def __init__(self, rng, radius_mm: float) -> None:
        super().__init__(rng, radius_mm, rng.uniform(1, 1.5))
        self.soft, self.grain, self.rim = rng.uniform(0.05, 0.12), rng.uniform(2, 4), rng.uniform(10, 45)
        self.contrast = float(rng.choice([-1, 1], p=[0.75, 0.25]) * rng.uniform(28, 52))

    def into(self, picture: np.ndarray, level: np.ndarray, parenchyma: float, organ: np.ndarray, texture: Textures):
        """Draw the lesion into a slice [H, W] of HU by its level there."""
        if level.min() >= 2:
            return picture
        weight = inside_of(level, self.soft) * organ
        inner = parenchyma + self.contrast + 20 * texture(f"lesion {self.seed}", self.grain)
        inner = inner - (60 * inside_of(level / 0.5, 0.2) if self.radius > 20 else 0)
        picture = picture * (1 - weight) + inner * weight
        return picture + self.rim * np.exp(-(((level - 0.97) / 0.12) ** 2)) * organ

    def as_planted(self) -> Planted:
        centre = (self.z_mm, self.row * PIXEL_MM, self.column * PIXEL_MM)
        return Planted(centre, self.half_mm, (self.long_mm, self.long_mm / self.aspect))


def _place(rng, each: _Blob, room: np.ndarray, z: np.ndarray, placed: list[_Blob]) -> bool:
    """Place a solid where its organ has room for all of it, apart from the others; say whether there was a place.

    Places near the picture's rim are drawn more often, as in the phantom's pictures.
    """
    largest = max(each.long_mm, each.half_mm)
    slices, rows, columns = np.nonzero(room > largest)
    if len(rows) == 0:
        return False
    chance = np.cumsum(np.hypot(rows / SHAPE[0] - 0.5, columns / SHAPE[1] - 0.5) ** OFF_CENTRE)
    for _ in range(200):
        pick = int(np.searchsorted(chance, rng.uniform(0, chance[-1])))
        each.at(z[slices[pick]] + rng.uniform(-0.5, 0.5) * SLICE_MM, rows[pick], columns[pick])
        apart = (
            np.hypot(PIXEL_MM * np.hypot(each.row - o.row, each.column - o.column), each.z_mm - o.z_mm)
            - max(o.long_mm, o.half_mm)
            for o in placed
        )
        if all(gap > largest + 8 for gap in apart):
            return True
    return False


class _Body:
    """A body in a field of view zoomed on one organ: what a phantom's CT-like picture holds, along z."""

    def __init__(self, rng, z: np.ndarray) -> None:
        height, width = SHAPE
        self.row, self.column = height * rng.uniform(0.2, 0.8), width * rng.uniform(0.15, 0.85)
        self.tall, side, long = height * rng.uniform(0.60, 0.68), int(rng.choice([-1, 1])), float(z[-1])
        self.parenchyma = float(rng.uniform(85, 115))
        self.other = self.parenchyma + float(rng.uniform(-5, 20))

        def organ(row, column, radius, aspect, ripple, half_mm, z_mm=None):
            blob = _Blob(rng, radius * SCALE * PIXEL_MM, aspect, ripple, half_mm)
            where = long * rng.uniform(0.4, 0.6) if z_mm is None else z_mm
            return blob.at(where, self.row + row * SCALE, self.column + column * SCALE)

        self.liver = organ(-18, side * 40, 60, 1.3, 0.08, long * rng.uniform(0.8, 1.0))
        self.spleen = organ(2, -side * 72, 32, 1.5, 0.06, long * rng.uniform(0.5, 0.7))
        self.kidneys = [organ(38, sign * 52, 19, 1.4, 0.05, long * rng.uniform(0.3, 0.45)) for sign in (-1, 1)]
        self.bowel = []
        for _ in range(int(rng.integers(14, 28))):  # bowel: wall, with gas, fluid or contrast agent
            row, column, radius = rng.uniform(-40, 30), -side * rng.uniform(0, 70), rng.uniform(7, 15)
            aspect, half = rng.uniform(1, 1.6), rng.uniform(12, 40)
            blob = organ(row, column, radius, aspect, 0.08, half, long * rng.uniform(0, 1))
            self.bowel.append((blob, float(rng.choice([-600, 20, 170, 220]))))
        self.spine = organ(58, 0, 17, 1.2, 0.06, np.inf)
        self.great = [organ(34, at, radius, 1.0, 0.0, np.inf) for at, radius in ((-13, 8), (14, 9))]
        self.blood = [float(rng.uniform(150, 190)) for _ in self.great]
        self.ribs = [(angle, int(rng.integers(2**32))) for angle in rng.uniform(0, 2 * np.pi, 5)]

    def organ(self, z_mm: float) -> np.ndarray:
        """Mark liver and spleen, where lesions lie, [H, W] bool; they stay inside the unbent body."""
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
        body = np.hypot((rows - self.row) / self.tall, (columns - self.column) / (SHAPE[1] * 0.75))
        return ((self.liver.level(z_mm, FILLED) < 1) | (self.spleen.level(z_mm, FILLED) < 1)) & (body < 0.76)

    def slice(self, z_mm: float, organ: np.ndarray, texture: Textures) -> np.ndarray:
        """Draw HU [H, W] without lesions, vessels and cysts."""
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
        warp = 3.0 * texture("warp", 30)
        body = np.hypot((rows - self.row + warp) / self.tall, (columns - self.column) / (SHAPE[1] * 0.75))
        hu = np.full(SHAPE, -1000.0)
        hu[body < 1] = 45 + 8 * texture("muscle", 8)[body < 1]
        hu[(body < 1) & (body > 0.985)] = 20
        fat, inside = (body > 0.84) & (body < 0.985), body < 0.80
        hu[fat] = -100 + 10 * texture("fat", 5)[fat]
        hu[inside] = -85 + 25 * texture("inner fat", 9)[inside]
        grain = texture("organ", 4)
        for blob, mean in ((self.liver, self.parenchyma), (self.spleen, self.other)):
            where = (blob.level(z_mm, FILLED) < 1) & organ
            hu[where] = mean + 5 * grain[where]
        grain = texture("kidney", 3)
        for blob in self.kidneys:
            level = blob.level(z_mm, FILLED)
            where = (level < 1) & (body < 0.84) & ~organ
            hu[where] = np.where(level < 0.55, 60, 165)[where] + 6 * grain[where]
        for blob, content in self.bowel:
            level = blob.level(z_mm, FILLED)
            where = (level < 1) & (body < 0.8) & ~organ
            hu[where] = np.where(level < 0.72, content, 60)[where]
        grain, spine = texture("bone", 2), self.spine.level(z_mm, FILLED)
        where = (spine < 1) & ~organ
        hu[where] = (np.where(spine > 0.82, 520, 230) + 45 * grain)[where]
        for blob, mean in zip(self.great, self.blood, strict=True):
            hu[(blob.level(z_mm, FILLED) < 1) & ~organ] = mean
        for angle, seed in self.ribs:  # they run down and round the body
            angle = angle + z_mm / 120
            row, column = self.row + 0.576 * SHAPE[0] * np.sin(angle), self.column + 0.675 * SHAPE[1] * np.cos(angle)
            level = blob_level(np.random.default_rng(seed), SHAPE, row, column, 5.5 * SCALE, 2.2)
            where = (level < 1) & ~organ
            hu[where] = (np.where(level > 0.6, 600, 250) + 30 * grain)[where]
        return hu
