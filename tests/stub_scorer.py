"""A scorer that needs no model: the score of a token is the mean brightness of its patch."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from covtoken.data.intensity import to_input
from covtoken.maps import run
from covtoken.scores.threshold import BankScores

VIT = SimpleNamespace(
    rows=16, cols=16, input="unit", picture_size=224, name="stub", label="stub", weights_sha256="0" * 64, device="cpu"
)


class BrightScorer:
    """Scores brightness 0 … 1; its bank's tokens are spread evenly over 0 … 0.8, so that .99 of them lie below .792."""

    def __init__(self):
        self.scores = BankScores.of(np.linspace(0, 0.8, 10_001))
        self.about, self.alarm = {"kind": "bank", "name": "stub"}, {}

    def maps(self, cases, vit, precision="fp32"):
        grey = [Image.fromarray(to_input(case.pixels(), case)) for case in cases]
        return np.stack([np.asarray(g.resize((vit.cols, vit.rows), Image.Resampling.BOX)).ravel() for g in grey])


@contextmanager
def stubbed(path, out, **options):
    """Plan a run that BrightScorer scores; the direction's name keeps it from asking for a bank."""
    options = {"direction": "ultrasound"} | options
    with run.planned(run.Options(path, out, **options)) as plan:
        yield replace(plan, source=replace(plan.source, fit=lambda vit, progress: BrightScorer()))


def mapped(path, out, **options):
    """Run with BrightScorer."""
    with stubbed(path, out, **options) as plan:
        return run.run(plan, vit=VIT)
