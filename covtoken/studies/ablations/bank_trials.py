"""Ablate the bank: how many units, with or without lesions, and how many of them hold a planted lesion type."""

from __future__ import annotations

from collections.abc import Iterator

from covtoken.bank.token_bank import KEY
from covtoken.keys import smallest
from covtoken.studies.ablations import bank_makeup
from covtoken.studies.ablations.ground import Ground, Trial, blocks_read, every_score

UNITS = (2, 5, 10, 20, 50)
KEYS = (KEY, "covtoken-ablations-1")  # a bank of few units is drawn with each
SHARES = (0.0, 0.01, 0.05, 0.2)
SMALL_BANK = 20  # units, in which a lesion is planted too


def unit_trials(ground: Ground) -> Iterator[Trial]:
    """Change the number of the bank's units; small banks are drawn with several keys."""
    for n, banks in bank_makeup.smaller_banks(ground.bank, UNITS, KEYS):
        usual = banks[0] is ground.bank
        parts = [
            ground.whole if usual else ground.searched(bank) for bank in banks[: len(KEYS) if n < SMALL_BANK else 1]
        ]
        by_bank = [every_score(part, ground.selection, ground.has_head) for part in parts]
        for score in by_bank[0]:
            maps = [scores[score] for scores in by_bank]
            yield Trial(n, score, maps, usual, banks[0], ground.labels)


def purity_trials(ground: Ground) -> Iterator[Trial]:
    """Change what the bank's units hold, at the same number of units; chosen by a label, for evaluation alone."""
    with_lesions = bank_makeup.units_with_lesions(ground.setting, ground.setting.cases_of("bank"))
    for name, marked in bank_makeup.pure_banks(ground.bank, with_lesions).items():
        natural, bank = name == bank_makeup.NATURAL, bank_makeup.for_this_ablation(marked)
        note = "" if natural else bank_makeup.CHOSEN_BY_LABEL
        for score, maps in every_score(ground.searched(bank), ground.selection, ground.has_head).items():
            yield ground.trial(name, score, maps, natural, bank=bank, note=note)


def planted_trials(ground: Ground) -> Iterator[Trial]:
    """Plant one lesion type in a share of the bank's units, and score that type: the phantom's alone."""
    setting, read = ground.setting, blocks_read(ground)
    if setting.cohort.name != "phantom":
        return
    cases = setting.cases_of("selection")
    pictures = setting.features(bank_makeup.planted_cases(cases, setting.cohort.units), read, (), False)
    labels = bank_makeup.planted_labels(cases, ground.labels)
    everything = setting.cases_of("bank")
    for n_units in (len(set(ground.bank.units)), SMALL_BANK):
        units = smallest({case.unit for case in everything}, n_units, KEY)
        bank_cases = [case for case in everything if case.unit in units]
        before = -1
        for share in SHARES:
            planted = bank_makeup.planted_units(units, share)
            if len(planted) == before:
                continue  # a small bank has no smaller share than one unit
            before = len(planted)
            bank = setting.features(bank_makeup.planted_cases(bank_cases, planted), read, (), False)
            about = {"group": f"bank of {len(units)} units", "note": f"{len(planted)} of {len(units)} units"}
            for score, maps in every_score(ground.searched(bank), pictures, False).items():
                yield Trial(len(planted) / len(units), score, [maps], share == 0, bank, labels, **about)
