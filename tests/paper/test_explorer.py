"""The explorer shows few credited pictures, counts as the gates do, and its page says the same numbers in a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from covtoken.backbone.weights import load_backbone
from covtoken.economy.flops import prune_flops
from covtoken.economy.keep import budget, kept_counts, kept_tokens, retained, token_ranks
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.names import METHOD_NAMES
from covtoken.paper.explorer import content
from covtoken.paper.explorer.page import explorer_html
from covtoken.paths import project_root
from covtoken.scores.recipe import Recipe, recommended
from covtoken.studies import explorer

ROOT = project_root()
COHORTS = content.read_explorer(ROOT)


def test_committed_pictures_are_few_small_and_credited():
    cases = {(cohort["cohort"], case["case"]) for cohort in COHORTS for case in cohort["cases"]}
    files = sorted((ROOT / content.FOLDER).glob("*.webp"))
    assert len(cases) == len(files) == 24
    assert {file.name for file in files} == {case["file"] for cohort in COHORTS for case in cohort["cases"]}
    assert sum(file.stat().st_size for file in files) <= content.MOST_BYTES
    for file in files:
        with Image.open(file) as image:
            assert image.size == (explorer.SIZE, explorer.SIZE)
    assert all(
        cohort["split"] == "selection" and cohort["credit"] == content.CREDITS[cohort["cohort"]] for cohort in COHORTS
    )


def stub_labels(sizes: list[float], lesions_of_last: int = 1) -> SplitLabels:
    """Pictures of 16 tokens; a lesion a picture, on its first two tokens, and more in the last."""
    lesions = [Lesion(np.array([0, 1]), share, share, picture) for picture, share in enumerate(sizes)]
    lesions += [Lesion(np.array([5]), 0.01, 0.01, len(sizes) - 1)] * (lesions_of_last - 1)
    none, names = np.zeros((len(sizes), 16), bool), tuple(f"p{i:02d}" for i in range(len(sizes)))
    return SplitLabels(none, none, None, np.arange(len(sizes)), tuple(lesions), names, names, 4, 4)


def test_pictures_are_chosen_by_size_and_the_three_worst():
    labels = stub_labels([float(i + 1) for i in range(30)], lesions_of_last=2)
    maps = np.random.default_rng(0).normal(size=(30, 16))
    inside = np.linspace(1, 0.5, 30)  # the largest lesions are the worst
    units = [f"u{i}" for i in range(30)]
    chosen, n = explorer.chosen_pictures(labels, units, maps, inside)
    assert n == 29 and len(chosen) == explorer.N_PICTURES
    why = {index: reason for _, index, reason in chosen}
    assert 29 not in why, "two lesions"
    assert [index for index, reason in why.items() if reason == explorer.WORST] == [26, 27, 28]
    spread = [index for index, reason in why.items() if reason == explorer.SPREAD]
    assert spread[0] == 0 and max(np.diff(spread)) <= 6
    units[1] = units[0]
    again, _ = explorer.chosen_pictures(labels, units, maps, inside)
    assert len({units[index] for _, index, _ in again}) == len(again)


def test_missed_lesions_are_counted_as_gates_count_them():
    labels = stub_labels([1.0, 2.0, 3.0], lesions_of_last=3)
    maps = np.random.default_rng(1).normal(size=(3, 16))
    sizes = np.array([len(lesion.tokens) for lesion in labels.lesions])
    missed = explorer.missed_by_budget(token_ranks(maps), labels)
    for k in range(1, 17):
        kept = kept_tokens(maps, k=k)
        assert missed[k - 1] == (~retained(kept_counts(kept, labels.lesions), sizes)).sum()


def test_flops_are_those_of_pruning_where_the_score_is_known():
    vit = load_backbone("random:vit_tiny_patch16_224", 96)
    recipe, plain = recommended(vit.n_blocks), prune_flops(vit, 1, vit.rows * vit.cols)
    shares = explorer.flops_shares(vit, recipe)
    dot = 2 * vit.rows * vit.cols * vit.dim
    assert shares[2] == round((prune_flops(vit, recipe.block, 3) + dot) / plain, 4)
    assert explorer.flops_shares(vit, Recipe("saliency_head")) == [1.0] * (vit.rows * vit.cols)
    assert explorer.known_after(vit, Recipe("intensity")) == 0


def test_an_outline_is_the_border_of_its_mask():
    mask = np.zeros((224, 224), bool)
    mask[20:60, 100:140] = True
    parts = re.findall(r"M(\d+) (\d+)([hv])(\d+)", content.outline_path(mask))
    assert sorted(parts) == sorted(
        [("100", "20", "h", "40"), ("100", "60", "h", "40"), ("100", "20", "v", "40"), ("140", "20", "v", "40")]
    )


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer")
    html = explorer_html(content.page_data(ROOT), f"{(ROOT / content.FOLDER).as_uri()}/")
    assert len(html.encode()) + sum(f.stat().st_size for f in (ROOT / content.FOLDER).glob("*.webp")) < 3_000_000
    (folder / "page.html").write_text(f"<!doctype html><meta charset='utf-8'><body>{html}</body>")
    opened = browser.new_page(viewport={"width": 390, "height": 900})
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto((folder / "page.html").as_uri())
    yield opened
    assert opened.errors == []
    opened.close()


def part(page, name: str):
    return page.locator(f"[data-part='{name}']")


def test_the_slider_says_what_python_counts(page):
    cohort = COHORTS[0]
    for percent, score, place in (
        (25, "recommended", 0),
        (100, "intensity", 3),
        (7, "density", 7),
        (5, "direction", 11),
    ):
        case = cohort["cases"][place]
        page.click(f"button[data-file='{case['file']}']")
        page.click(f"button[data-score='{score}']")
        part(page, "slider").evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", percent)
        said = content.line_of(cohort, case, score, percent)
        assert part(page, "line").inner_text() == said
        assert part(page, "about").inner_text() == content.about_case(cohort, case)
        alt = part(page, "score").get_attribute("aria-label")
        assert said in alt and content.about_case(cohort, case) in alt and METHOD_NAMES[score] in alt
        k = budget(256, percent / 100)
        dark = part(page, "kept").locator("rect").count()
        assert dark == 256 - k, "tokens that are not kept are darkened"
        missed, total = cohort["missed_by_tokens_kept"][score][k - 1], cohort["lesions_in_the_split"]
        assert part(page, "scores").locator("[aria-current] td").last.inner_text() == f"{missed} of {total}"


def test_the_first_view_carries_the_message(page):
    page.reload()
    assert page.locator(".explorer-message").inner_text() == content.message_of(COHORTS)
    assert part(page, "line").inner_text().startswith("C− keeps 64 of 256 tokens")
    assert part(page, "kept").locator("path").count() == 2
    part(page, "outline").uncheck()
    assert part(page, "kept").locator("path").count() == 0


def test_arrows_step_and_thumbnails_sort(page):
    page.reload()
    cases = [(cohort, case) for cohort in COHORTS for case in cohort["cases"]]
    shown = [b.get_attribute("data-file") for b in page.locator("button[data-file]").all()]
    by_size = sorted(cases, key=lambda pair: pair[1]["lesion_share_of_the_picture"])
    assert shown == [case["file"] for _, case in by_size]
    page.click(f"button[data-file='{shown[0]}']")
    page.keyboard.press("ArrowRight")
    assert part(page, "about").inner_text() == content.about_case(*by_size[1])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert part(page, "about").inner_text() == content.about_case(*by_size[-1])
    part(page, "sort").select_option("auroc")
    worst = min(cases, key=lambda pair: pair[1]["auroc_in_this_picture"]["recommended"])
    assert page.locator("button[data-file]").first.get_attribute("data-file") == worst[1]["file"]


def test_points_of_the_second_view_open_pictures(page):
    page.reload()
    cohort = COHORTS[0]
    case = cohort["cases"][-1]
    page.locator(f"circle[data-file='{case['file']}']").dispatch_event("click")
    assert part(page, "about").inner_text() == content.about_case(cohort, case)
    page.locator("[data-mark='busi 10']").dispatch_event("click")
    row = next(
        row for row in content.recorded_misses(ROOT, ["recommended"]) if (row["cohort"], row["percent"]) == ("busi", 10)
    )
    assert f"misses {row['missed']} of {row['lesions']} lesions at 10 %" in part(page, "brushed").inner_text()
    k = budget(256, 0.1)
    missed = [c["file"] for c in cohort["cases"] if not content.tokens_kept(c, "recommended", k)[1]]
    assert sorted(b.get_attribute("data-file") for b in page.locator("button[data-file]").all()) == sorted(missed)
    page.locator("[data-mark='lits 25']").dispatch_event("click")
    assert "No picture of this cohort is shown" in part(page, "brushed").inner_text()
