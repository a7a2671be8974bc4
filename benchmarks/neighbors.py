"""Exact search of one 518-pixel picture in a large bank, covtoken against bare faiss: python benchmarks/neighbors.py

1369 queries × 100,000 tokens × 768, k = 10, best of three. Nothing here is asserted: clocks do not belong in tests.
"""

from __future__ import annotations

import faiss
import numpy as np
from timing import best_of

from covtoken.bank.neighbors import nearest


def main() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((1369, 768), dtype=np.float32)
    bank = rng.standard_normal((100_000, 768), dtype=np.float32)
    index = faiss.IndexFlatL2(768)
    index.add(bank)
    flat = best_of(3, lambda: index.search(queries, 10))
    ours = best_of(3, lambda: nearest(queries, bank, 10))
    units = np.arange(100_000) // 250
    apart = best_of(3, lambda: nearest(queries, bank, 10, np.zeros(1369, dtype=int), units))
    print(f"faiss IndexFlatL2        {flat:.3f} s")
    print(f"covtoken nearest         {ours:.3f} s  ({ours / flat:.2f} ×)")
    print(f"  own unit left out      {apart:.3f} s  ({apart / flat:.2f} ×)")


if __name__ == "__main__":
    main()
