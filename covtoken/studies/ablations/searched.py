"""Search a bank once, and score from it with any k, alpha, rank and block: what an ablation varies.

The scorers of ``covtoken.scores`` fix these settings; a search for each value of each would take an hour. Distances to
the most neighbours hold those to fewer, and the nearest tokens do not depend on the k behind their sparsity. Tests hold
the defaults here to the scorers, and k to brute force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from covtoken.bank.features import Features
from covtoken.bank.neighbors import nearest
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE, TokenBank, build_bank, check_alike, choose_tokens
from covtoken.leak_guard import construction
from covtoken.scores.memberships import source_map, token_maps
from covtoken.scores.recipe import FIXED, scaled
from covtoken.studies.banks import Solver
from covtoken.subspace.consensus import ConsensusSettings, agreed_sources
from covtoken.subspace.density import ALPHA, K_NEIGHBOURS, RANK, DensitySubspace, own_units
from covtoken.subspace.rarity import NEIGHBOURS, RaritySubspace
from covtoken.subspace.residual import ResidualSubspace

DIRECTIONS = {"C−": "recommended", "C": "with_head", "D": "direction"}  # name in a chart → fixed recipe


@dataclass(frozen=True, eq=False)
class Searched:
    """A bank's pictures, the blocks that scores read, and every search that was made.

    Attributes:
        features: the bank's pictures.
        n_blocks: L of the backbone.
        size: tokens of the reference.
        most: neighbours kept of the reference's own tokens: the largest k of a rarity or a direction.
        inside: [N, T] bool, which of the pictures' tokens may enter the reference (None: all).
    """

    features: Features
    n_blocks: int
    size: int = REFERENCE_SIZE
    most: int = K_NEIGHBOURS
    inside: np.ndarray | None = field(default=None, repr=False)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> int:
        """Block of A, B and the rarity that directions are fitted to: 0.75 L."""
        return scaled(FIXED["recommended"], self.n_blocks).settings.target_block

    def bank(self, block: int, pooled: bool) -> TokenBank:
        """Build the reference of a block, of the tokens ``inside``."""
        return self._once(("bank", block, pooled), lambda: self._build(block, pooled))

    def density(
        self, pictures: Features, ks: Sequence[int] = (K_NEIGHBOURS,), block: int = 0, pooled: bool = False
    ) -> dict[int, np.ndarray]:
        """Score with A at each k: maps [N, T]; ``block`` 0 is the target block."""
        bank = self.bank(block or self.target, pooled)
        distances = self._distances(pictures, bank, block or self.target, pooled, max(ks))
        return {k: distances[..., :k].mean(-1) for k in ks}

    def residual(
        self, pictures: Features, ranks: Sequence[int] = (RANK,), pooled: bool = False
    ) -> dict[int, np.ndarray]:
        """Score with B at each rank of the normal directions."""
        check_alike(self.features, pictures, self.target)
        fitted = ResidualSubspace.fit(self.bank(self.target, pooled), max(ranks))
        made = {rank: replace(fitted, basis=fitted.basis[:, :rank]) for rank in ranks}
        return {r: token_maps(lambda z, part, s=s: s.score(z), self.target, pooled, pictures) for r, s in made.items()}

    def subspace(
        self, pictures: Features, alphas: Sequence[float] = (ALPHA,), ranks: Sequence[int] = (RANK,)
    ) -> dict[tuple[float, int], np.ndarray]:
        """Score with a token's length in A's lesion subspace, ‖P_L (z − μ)‖, for each (share of rare tokens, rank)."""
        check_alike(self.features, pictures, self.target)
        bank, out = self.bank(self.target, False), {}
        own = self._own(self.target, False)[:, :K_NEIGHBOURS].mean(1)
        for alpha in alphas:
            fitted = DensitySubspace.of_sparsity(bank, K_NEIGHBOURS, own, alpha, max(ranks))
            for rank in ranks:
                mean, v = fitted.mean, fitted.directions[:, :rank]

                def length(z: torch.Tensor, part: slice, mean=mean, v=v) -> torch.Tensor:
                    return torch.linalg.vector_norm((z - mean) @ v, dim=-1)

                out[alpha, rank] = token_maps(length, self.target, False, pictures)
        return out

    def rarity(self, pictures: Features, k: int = K_NEIGHBOURS, pooled: bool = True) -> np.ndarray:
        """Score with PN, or with N where not pooled."""
        bank = self.bank(self.target, pooled)
        check_alike(self.features, pictures, self.target)
        fitted, units = self._rarity(k, pooled), bank.unit_ids(pictures.units)
        return token_maps(lambda z, part: fitted.score(z, units[part]), self.target, pooled, pictures)

    def bank_rarity(self, k: int = K_NEIGHBOURS, pooled: bool = True) -> torch.Tensor:
        """Score the bank's own pictures [N, T], own units left out; the neighbours are searched once for all k."""

        def find() -> torch.Tensor:
            bank, parts = self.bank(self.target, pooled), []
            units = bank.unit_ids(self.features.units)

            def near(z: torch.Tensor, part: slice) -> torch.Tensor:
                flat = z.reshape(-1, z.shape[-1])
                parts.append(nearest(flat, bank.tokens, NEIGHBOURS, *own_units(z, bank, units[part]))[1])
                return torch.zeros(z.shape[:2])

            token_maps(near, self.target, pooled, self.features)
            return torch.cat(parts)

        with construction("the rarity of a bank"):
            indices = self._once(("near", pooled), find)
            return self._rarity(k, pooled).sparsity[indices].mean(1).reshape(len(self.features), -1)

    def direction(
        self,
        name: str,
        pictures: Features,
        *,
        block: int = 0,
        pooled: bool = True,
        k: int = K_NEIGHBOURS,
        alpha: float | None = None,
    ) -> np.ndarray:
        """Score with C−, C or D; what is not given stands in the recipe.

        Args:
            name: one of ``DIRECTIONS``.
            block: that is read (0: the recipe's).
            pooled: whether rarity and direction are of pooled tokens.
            alpha: share of the bank's tokens called at first.
        """
        recipe = scaled(FIXED[DIRECTIONS[name]], self.n_blocks)
        settings, block = recipe.settings, block or recipe.block
        if name == "D":  # C−'s call without its component rule, and with the places that D does not name
            about = {key: getattr(settings, key) for key in ("target_block", "quantile", "ridge", "rounds", "inside")}
            settings = ConsensusSettings(component="none", **about)
        settings = settings if alpha is None else replace(settings, quantile=round(1 - alpha, 9))
        check_alike(self.features, pictures, block)
        with construction("an ablation's direction"):
            rarity = self.bank_rarity(k, pooled)
            sources = [
                rarity if source == "rarity" else source_map(source, self.features, settings)
                for source in settings.sources.split("+")
            ]
            if (block, pooled) != self._kept.get("solver", (None, None))[0]:  # one alone: each holds all tokens
                self._kept["solver"] = (block, pooled), Solver.of(self.features, block, pooled)
            *_, weight = self._kept["solver"][1].fits(agreed_sources(sources, settings.inside), settings)
        return token_maps(lambda z, part: z @ weight.float(), block, pooled, pictures)

    def _build(self, block: int, pooled: bool) -> TokenBank:
        if self.inside is None:
            return build_bank(self.features, block, self.size, pooled)
        n_tokens = self.features.rows * self.features.cols
        everything = len(self.features) * n_tokens
        bank = build_bank(self.features, block, everything, pooled)
        places = choose_tokens(self.features.digests, self.features.units, n_tokens, everything, KEY)
        kept = np.flatnonzero(self.inside[places])[: self.size]
        return bank.derive(bank.tokens[kept], bank.units[kept], size=self.size)

    def _rarity(self, k: int, pooled: bool) -> RaritySubspace:
        own = self._own(self.target, pooled)
        return RaritySubspace(self.bank(self.target, pooled), k, NEIGHBOURS, own[:, :k].mean(1))

    def _own(self, block: int, pooled: bool) -> torch.Tensor:
        """Measure the bank's own distances [n, most], ascending, own units left out."""

        def find() -> torch.Tensor:
            bank = self.bank(block, pooled)
            with construction("the sparsity of a bank"):
                return nearest(bank.tokens, bank.tokens, self.most, bank.units, bank.units)[0]

        return self._once(("own", block, pooled), find)

    def _distances(self, pictures: Features, bank: TokenBank, block: int, pooled: bool, most: int) -> np.ndarray:
        check_alike(self.features, pictures, block)
        units = bank.unit_ids(pictures.units)

        def near(z: torch.Tensor, part: slice) -> torch.Tensor:
            flat = z.reshape(-1, z.shape[-1])
            return nearest(flat, bank.tokens, most, *own_units(z, bank, units[part]))[0].reshape(*z.shape[:2], most)

        return token_maps(near, block, pooled, pictures)

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
