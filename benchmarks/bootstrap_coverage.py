"""How often the 95 % intervals of an AUROC hold the truth on clustered tokens: python benchmarks/bootstrap_coverage.py

Prints, for independent and for clustered tokens, the coverage of the unit bootstrap and of DeLong, and each stated
standard error over the true one. ``--runs 2000`` gives coverages to about one percentage point.
"""

from __future__ import annotations

import argparse

from covtoken.evaluation.stats import clopper_pearson
from covtoken.studies.interval_coverage import simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500, help="simulated cohorts a row (default 500)")
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=30, help="tokens a unit")
    args = parser.parse_args()
    print(f"{args.runs} cohorts of {args.units} units × {args.tokens} tokens; 95 % intervals, with their own interval")
    for unit_sd in (0.0, 0.3, 0.7):
        found = simulate(args.runs, args.units, args.tokens, unit_sd=unit_sd)
        print(f"unit effects of sd {unit_sd:g} (token noise 1), true AUROC {found.truth:.3f}")
        rows = (
            ("unit bootstrap", found.bootstrap, found.se_bootstrap),
            ("DeLong on tokens", found.delong, found.se_delong),
        )
        for name, held, se in rows:
            low, high = clopper_pearson(held, found.n_runs)
            covered = f"{held / found.n_runs:.3f} ({low:.3f} … {high:.3f})"
            print(f"  {name:17} covers {covered}  stated / true standard error {se / found.se_true:.2f}")
        print(f"  standard errors, unit bootstrap / DeLong: {found.se_bootstrap / found.se_delong:.2f}")


if __name__ == "__main__":
    main()
