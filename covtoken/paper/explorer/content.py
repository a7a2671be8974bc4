"""Write the explorer's pictures as WebP files with their numbers as JSON, and say in words what it shows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from covtoken.economy.keep import RATIOS, budget, retained
from covtoken.errors import CovtokenError
from covtoken.names import METHOD_NAMES, split_name
from covtoken.paper.numbers import read_content
from covtoken.paths import project_root, write_then_rename
from covtoken.studies.explorer import FIRST, N_PICTURES, N_WORST, SCORES, Explored

FOLDER = "book/_static/explorer"
CREDITS = {
    "busi": "BUSI, Al-Dhabyani et al. 2020 (CC0 on Kaggle; CC BY 4.0 in MedMNIST)",
    "lidc-crops": "LIDC-IDRI, Armato et al. 2011 (CC BY 3.0)",
}
NAMES = {"busi": "breast ultrasound", "lidc-crops": "lung CT window"}
MOST_BYTES = 1_000_000
GRID = 112  # px: sides of the outline, of half a picture's pixel
COHORTS = {"busi": "breast ultrasound", "lidc-crops": "lung CT window", "lits": "liver CT", "kits19": "kidney CT"}
COMPARED = {"recommended": "C−", "attention_best": "tuned attention", "intensity": "brightness"}  # in the first line
RULE = (
    f"{N_PICTURES} pictures of each kind from the selection split, each with a single lesion, a patient (in BUSI, a "
    f"group of near-duplicates) once: those of Figure 1, the {N_WORST} in which C− has the lowest AUROC, and others "
    "spread evenly over the lesion's rank by size, the smallest and the largest included."
)


def write_explorer(found: Iterable[Explored], root: Path | None = None) -> Path:
    """Write the pictures of all cohorts and their numbers; return the JSON's path.

    Raises:
        CovtokenError: a cohort without a credit, or more than a megabyte of pictures.
    """
    folder, files, cohorts = (root or project_root()) / FOLDER, {}, []
    for each in found:
        numbers = each.numbers
        if numbers["cohort"] not in CREDITS:
            raise CovtokenError(
                f"cohort {numbers['cohort']!r}: no credit and licence in covtoken/paper/explorer/content.py"
            )
        cases = []
        for place, (case, picture, mask) in enumerate(zip(numbers["cases"], each.pictures, each.masks, strict=True)):
            name = f"{numbers['cohort']}-{place + 1:02d}.webp"
            files[name] = _webp(picture)
            cases.append(case | {"file": name, "outline": outline_path(mask)})
        cohorts.append(numbers | {"cases": cases, "credit": CREDITS[numbers["cohort"]]})
    if sum(map(len, files.values())) > MOST_BYTES:
        raise CovtokenError(f"{len(files)} pictures have more than {MOST_BYTES} bytes: show fewer")
    for old in folder.glob("*.webp"):
        old.unlink()
    for name, content in files.items():
        with write_then_rename(folder / name) as temporary:
            temporary.write_bytes(content)
    path = folder / "explorer.json"
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps({"cohorts": cohorts}, sort_keys=True).replace("}, {", "},\n{") + "\n")
    return path


def read_explorer(root: Path) -> list[dict[str, Any]]:
    """Read the committed numbers, a mapping a cohort.

    Raises:
        CovtokenError: nothing was written.
    """
    path = root / FOLDER / "explorer.json"
    if not path.is_file():
        raise CovtokenError(f"{FOLDER}/explorer.json: not recorded yet; run `covtoken figure explorer`")
    return json.loads(path.read_text())["cohorts"]


def outline_path(mask: np.ndarray) -> str:
    """Draw the border of a mask [H, W] as an SVG path on a square of 224: edges between pixels of GRID × GRID."""
    image = Image.fromarray(np.asarray(mask).astype(np.uint8) * 255).resize((GRID, GRID))
    inside, step = np.pad(np.asarray(image) >= 128, 1), 224 // GRID
    parts = []
    for pixels, letter in ((inside, "h"), (inside.T, "v")):
        edges = pixels[1:] != pixels[:-1]  # [line, place]: a border runs along this line here
        for line, row in enumerate(edges):
            ends = np.flatnonzero(np.diff(np.pad(row, 1).astype(int)))
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                along, across = (start - 1) * step, line * step
                x, y = (along, across) if letter == "h" else (across, along)
                parts.append(f"M{x} {y}{letter}{(end - start) * step}")
    return "".join(parts)


def ranks_of(case: dict[str, Any], score: str) -> np.ndarray:
    """Read the ranks [T] of a picture's tokens, 0 is the best."""
    return np.frombuffer(bytes.fromhex(case["ranks"][score]), dtype=np.uint8)


def tokens_kept(case: dict[str, Any], score: str, k: int) -> tuple[int, bool]:
    """Count the lesion tokens among the best k, and tell whether the lesion is retained."""
    n = int((ranks_of(case, score)[case["lesion_tokens"]] < k).sum())
    return n, bool(retained(n, len(case["lesion_tokens"])))


def line_of(cohort: dict[str, Any], case: dict[str, Any], score: str, percent: int) -> str:
    """Say what a score keeps of a picture, word for word as the page does.

    Args:
        percent: of the tokens that are kept.
    """
    n_tokens = cohort["grid"][0] * cohort["grid"][1]
    k = budget(n_tokens, percent / 100)
    n, stays = tokens_kept(case, score, k)
    left = int(100 * cohort["flops_share_by_tokens_kept"][score][k - 1] + 0.5)
    return (
        f"{METHOD_NAMES[score]} keeps {k} of {n_tokens} tokens: {n} of {len(case['lesion_tokens'])} lesion tokens, "
        f"lesion {'retained' if stays else 'missed'}. {left} % of the FLOPs."
    )


def about_case(cohort: dict[str, Any], case: dict[str, Any]) -> str:
    """Say what a picture is, word for word as the page does."""
    size = f"{100 * case['lesion_share_of_the_picture']:.1f}"
    return (
        f"{NAMES[cohort['cohort']]}, case {case['case']}: lesion {size} % of the picture, "
        f"{case['place_by_size']} of {cohort['pictures_with_one_lesion']} by size."
    )


def message_of(cohorts: Iterable[dict[str, Any]], percent: int = 25) -> str:
    """Say what the first view shows: how many lesions of the whole split each way keeps at a budget."""
    parts = []
    for cohort in cohorts:
        k = budget(cohort["grid"][0] * cohort["grid"][1], percent / 100)
        total = cohort["lesions_in_the_split"]
        kept = {name: total - missed[k - 1] for name, missed in cohort["missed_by_tokens_kept"].items()}
        counts = ", ".join(f"{words} {kept[name]}" for name, words in COMPARED.items())
        parts.append(f"of {total} lesions on {NAMES[cohort['cohort']]}s: {counts}")
    start = f"Lesions that stay when {percent} % of the tokens are kept, in the whole selection split"
    return f"{start}: {'; '.join(parts)}."


def recorded_misses(root: Path, scores: Iterable[str]) -> list[dict[str, Any]]:
    """Read from gate 3's reports how many lesions of each test split every score misses at the three budgets.

    Raises:
        CovtokenError: no report of a cohort.
    """
    scores, rows = list(scores), []
    for cohort, words in COHORTS.items():
        report = read_content(root, f"{cohort}/gate3")
        for score in scores:
            for ratio in RATIOS:
                entry = report["metrics"][f"miss.{score}.keep{ratio:g}"]
                rows.append(
                    {
                        "cohort": cohort,
                        "words": words,
                        "score": score,
                        "percent": round(100 * ratio),
                        "missed": round(entry["value"] * entry["n_lesions"]),
                        "lesions": entry["n_lesions"],
                        "split": split_name(report["split"]),
                    }
                )
    return rows


def page_data(root: Path) -> dict[str, Any]:
    """Collect what the page's script reads: pictures with their numbers, names, and recorded counts."""
    cohorts = read_explorer(root)
    return {
        "cohorts": [cohort | {"words": NAMES[cohort["cohort"]]} for cohort in cohorts],
        "scores": {name: METHOD_NAMES[name] for name in SCORES},
        "recorded": recorded_misses(root, SCORES),
        "first": FIRST,
    }


def _webp(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(stream, "WEBP", quality=82, method=6)
    return stream.getvalue()
