"""No measured number is typed into prose: decimals and percentages come from reports, or are allowed with a reason."""

from __future__ import annotations

import re

import pytest

from covtoken.paths import project_root

ROOT = project_root()
PAGES = sorted([*ROOT.glob("book/*.md"), *ROOT.glob("data_cards/*.md"), *ROOT.glob("README.md")])
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twenty", "fifty", "hundred"]
NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d+(?:[.,]\d+)+|\.\d+|\d+\s?%|\d+\s?(?:points|×(?=\s+(?:fewer|faster|less|more)))"
    rf"|\d+ (?:of|in|out of) \d+|\b(?:{'|'.join(WORDS)}) (?:of|in|out of) (?:{'|'.join(WORDS)})\b)"
)
# What is not prose: fences, comments that mark generated blocks and what stands between them, code, formulas, links.
NOT_PROSE = (
    r"^(`{3,}|~{3,}).*?^\1`*\s*$",
    r"<!-- (\w+):begin.*?<!-- \1:end -->",
    r"`[^`\n]*`",
    r"\$[^$]*\$",
    r"\]\([^)]*\)",
    r"https?://\S+",
)


def typed_numbers(text: str) -> list[str]:
    """Decimals, percentages and counts out of counts, outside code, formulas, links, generated and allowed phrases.

    A code span or a formula that is nothing but a number is prose in disguise.
    """

    def without(match: re.Match) -> str:
        inner = match.group().strip("`$")
        return f" {inner} " if NUMBER.fullmatch(inner.strip()) else " "

    for pattern in NOT_PROSE:
        text = re.sub(pattern, without, text, flags=re.DOTALL | re.MULTILINE)
    text = " ".join(text.split())
    for phrase in allowed():
        text = text.replace(phrase, " ")
    return NUMBER.findall(text)


def allowed() -> dict[str, str]:
    lines = (ROOT / "tests" / "prose_allowlist.txt").read_text().splitlines()
    pairs = [line.split("\t", 1) for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 and pair[1].strip() for pair in pairs), "each allowed phrase needs a tab and a reason"
    return dict(pairs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_measured_number_is_typed(page):
    unknown = typed_numbers(page.read_text())
    assert not unknown, (
        f"{page.relative_to(ROOT)}: typed {unknown}; use the report role, or give a reason in tests/prose_allowlist.txt"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AUROC was 0.83 here", ["0.83"]),
        ("gains of .14 and 27 %", [".14", "27 %"]),
        ("15.8 points, and 7 points", ["15.8", "7 points"]),
        ("`x 0.83` and $k = 0.5$ and [x](a0.5.md)", []),
        ("```text\n0.83\n```\nafter 0.84", ["0.84"]),
        ("<!-- card:begin (written) -->\n0.83\n<!-- card:end -->", []),
        ("{report}`busi/gate1 auroc.density` at block 3, ViT-S/14, 224 × 224", []),
        ("2× fewer", ["2×"]),
        ("it reached `0.964`, or $0.97$, or $ 12 % $", ["0.964", "0.97", "12 %"]),
        ("`0.93 0.95` and $k = 0.5$", []),
        ("98 of 100 lesions, nine of ten conditions", ["98 of 100", "nine of ten"]),
        ("95 % intervals over units", []),
        ("95 % of lesions", ["95 %"]),
    ],
)
def test_the_scan_itself(text, found):
    assert typed_numbers(text) == found
