"""Ablate the pictures: their size in pixels, and whether they are squashed to a square or padded to it."""

from __future__ import annotations

from collections.abc import Iterator

from covtoken.evaluation.labels import label
from covtoken.protocol.scoring import need_lesions
from covtoken.studies.ablations import picture_forms
from covtoken.studies.ablations.ground import Ground, Trial, blocks_read, few, three_scores

PICTURE_SIZES = (224, 518)


def picture_trials(ground: Ground) -> Iterator[Trial]:
    """Change the picture's size, on few units of both splits: tokens grow in number, and a token shows less."""
    here, read = ground.setting, blocks_read(ground)
    bank_cases, cases = (few(here, split, ground.limits.large_units) for split in ("bank", "selection"))
    for size in PICTURE_SIZES:
        setting = picture_forms.at_size(here, size)
        bank, pictures = (setting.features(each, read, (), False) for each in (bank_cases, cases))
        labels = label(cases, setting.cohort, *setting.grid)
        need_lesions(labels, setting.cohort, "selection")
        yield from three_scores(ground.searched(bank), size, pictures, labels, size == here.vit.picture_size)


def aspect_trials(ground: Ground) -> Iterator[Trial]:
    """Squash pictures to a square, or pad them to it and leave the padding out; nothing where all are square."""
    setting, splits = ground.setting, [ground.setting.cases_of(split) for split in ("bank", "selection")]
    forms = [[picture_forms.padded(case) for case in cases] for cases in splits]
    if forms == splits or all(new is old for form, cases in zip(forms, splits) for new, old in zip(form, cases)):
        return
    yield from three_scores(ground.whole, "squashed", ground.selection, ground.labels, True)
    inside = [picture_forms.inside_of(cases, *setting.grid) for cases in splits]
    read = [setting.features(form, blocks_read(ground), (), False) for form in forms]
    bank, pictures = (picture_forms.mirrored(each, within) for each, within in zip(read, inside, strict=True))
    labels = picture_forms.padded_labels(splits[1], setting.cohort, ground.labels, inside[1])
    yield from three_scores(ground.searched(bank, inside=inside[0]), "kept", pictures, labels, False)
