"""Hash names under a key, to choose units, tokens and pictures and to seed noise, blind to all but the name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

_KEY = "covtoken-v1"


def hash_of(name: str, key: str) -> str:
    """Hash a name under a key to 16 hex digits."""
    return hashlib.blake2b(name.encode(), key=key.encode(), digest_size=8).hexdigest()


def hash_unit(unit: str) -> str:
    """Hash a unit to 12 hex digits: enough to tell units apart, not enough to name a patient."""
    return hashlib.sha256(f"{_KEY}\0{unit}".encode()).hexdigest()[:12]


def smallest(names: Iterable[str], n: int, key: str = "") -> list[str]:
    """Choose the ``n`` names with the smallest hashes, in the order of their hashes.

    Args:
        names: distinct.
        n: all names where there are fewer.
        key: the hash's; empty: as ``hash_unit``.
    """
    return sorted(names, key=lambda name: hash_of(name, key) if key else hash_unit(name))[:n]


def seed_of(text: str) -> int:
    """Hash a text to a seed below 2⁶⁴."""
    return int.from_bytes(bytes.fromhex(hash_of(text, _KEY)), "little")


def picture_seeds(names: Sequence[str], seed: int) -> list[int]:
    """Hash each picture's name with a seed to a seed of its own, below 2⁶³."""
    return [seed_of(f"{name}\0{seed}") >> 1 for name in names]
