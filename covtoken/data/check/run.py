"""Check a cohort's files from the first to the last: what a gate would meet, before it does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.check.census import Census
from covtoken.data.check.findings import folder_findings, look_alikes, whole_findings
from covtoken.data.check.look import Finding, Look, look_at
from covtoken.data.cohorts import open_cohort
from covtoken.data.fetch.data_sets import DATA_SETS, place_of
from covtoken.data.masks import one_mark
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels
from covtoken.paths import data_root

MOST_COMPARED = 4096  # pictures compared with one another: memory and time end there
AT_ONCE = 64  # pictures whose looks are held at a time


@dataclass(frozen=True)
class Checked:
    """What a cohort holds and what is wrong with it.

    Attributes:
        name: of the cohort.
        numbers: as ``Census.numbers``; None where the cohort could not be opened.
        findings: what stops a gate first.
        n_compared: pictures that were compared for look-alikes, spread evenly over the cohort.
    """

    name: str
    numbers: dict | None
    findings: tuple[Finding, ...]
    n_compared: int = 0

    @property
    def stops(self) -> bool:
        """Say whether a gate would refuse the cohort."""
        return any(finding.stops for finding in self.findings)

    def as_json(self) -> dict:
        """Give plain dicts and lists."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings], "stops": self.stops}


def check(
    name: str,
    data: str | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    **options,
) -> Checked:
    """Check a cohort by name, or a folder that holds ``index.csv``; no fault ends it, and nothing is written.

    Args:
        data: folder of a named cohort that does not lie under ``COVTOKEN_DATA``.
        progress: wraps the pictures' iterator, given how many there are.
        options: of the reader.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no such cohort or folder, or an external one, which is never opened.
    """
    refuse_labels(f"the masks of {name}")
    known = DATA_SETS.get(name)
    folder = Path(data) if data is not None else (place_of(known, data_root()) if known else Path(name).expanduser())
    faults: list[tuple[str, str]] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cohort, fault = _open(name, data, faults, folder, options)
    findings = [Finding("unreadable", file, reason, True) for file, reason in faults]
    findings += [Finding("warning", name, str(warning.message)) for warning in said]
    findings += [Finding("cannot open", name, str(fault), True)] if fault else []
    numbers, n_compared = None, 0
    if cohort is not None:
        census, seen, n_compared = _census(cohort, progress)
        numbers = census.numbers()
        findings += seen
        findings += whole_findings(cohort, census.n_with, census.n_without)
    if folder is not None and folder.is_dir():
        findings += folder_findings(cohort, folder, {finding.file for finding in findings})
    findings.sort(key=lambda finding: not finding.stops)
    return Checked(cohort.name if cohort else name, numbers, tuple(findings), n_compared)


def _open(name, data, faults, folder, options) -> tuple[Cohort | None, CovtokenError | None]:
    """Open a cohort with its faults noted; where its reader knows no noting, or the folder is beyond it, say so."""
    try:
        try:
            return open_cohort(name, data, faults=faults, **options), None
        except CovtokenError as error:
            if not isinstance(error.__cause__, TypeError):  # raised by a reader that does not take `faults`
                raise
            return open_cohort(name, data, **options), None
    except CovtokenError as error:
        is_there = folder is not None and folder.is_dir()
        if not is_there or " is external" in str(error) or "bears the name" in str(error):
            raise
        return None, error


def _census(cohort: Cohort, progress) -> tuple[Census, list[Finding], int]:
    """Look at every picture once and compare the thumbnails of some."""
    census, findings, small, mark = Census(cohort), [], [], None
    every = -(-len(cohort.cases) // MOST_COMPARED)
    looks = progress(_looks(cohort), len(cohort.cases))
    for number, (case, look) in enumerate(looks):
        census.add(case, look)
        findings += look.findings
        try:
            mark = one_mark(mark, look.mark)
        except CovtokenError as error:
            findings.append(Finding("mask value", str(look.mark.file), str(error), True))
        if number % every == 0 and look.small is not None:
            small.append((case, look.small))
    if small:
        cases, vectors = zip(*small)
        findings += look_alikes(cohort, cases, np.stack(vectors))
    return census, findings, len(small)


def _looks(cohort: Cohort) -> Iterator[tuple[Case, Look]]:
    """Look at the cases in order, some at a time on all processors: decoding leaves the interpreter lock."""

    def one(case: Case) -> Look:
        return look_at(case, cohort.masks.get(case.name), cohort.organs.get(case.name))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(cohort.cases), AT_ONCE):
            cases = cohort.cases[start : start + AT_ONCE]
            yield from zip(cases, pool.map(one, cases))
