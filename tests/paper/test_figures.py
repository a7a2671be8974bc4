"""Charts draw offline, come out equal for equal input, and refuse rows that lack a column."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import altair as alt
import numpy as np
import pytest

from covtoken.errors import CovtokenError
from covtoken.paper import captions
from covtoken.paper.charts import alarm, budgets, pictures, scores, style, substrate
from covtoken.paper.charts.offline_renderer import mime_bundle, to_html, to_svg, write_bundle
from covtoken.paper.tables import gate1
from covtoken.protocol.report import read_report, report_path

BLOCKS = [
    {"scorer": scorer, "block": block, "value": value, "lo": value - 0.02, "hi": value + 0.02}
    for scorer, block, value in [
        ("membership A", 1, 0.6),
        ("membership A", 2, 0.8),
        ("membership A", "norm", 0.7),
        ("centre prior", None, 0.75),
        ("saliency head", None, 0.751),
    ]
]
GAINS = [
    {"label": "centre prior", "value": 0.1, "lo": 0.05, "hi": 0.15},
    {"label": "random", "value": 0, "lo": -1, "hi": 1},
]


def lesion_case(name: str = "case", score: np.ndarray | None = None) -> dict:
    picture = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    mask = np.zeros((64, 64), bool)
    mask[16:32, 16:32] = True
    return {"name": name, "picture": picture, "score": np.eye(4) if score is None else score, "mask": mask}


def densities(panels: bool = False) -> list[dict]:
    rows = [{"group": g, "score": x, "density": 0.1 * x} for g in ("lesion tokens", "other tokens") for x in range(4)]
    return [row | {"panel": p} for p in ("A", "B") for row in rows] if panels else rows


AGREEMENT = [
    {"comparison": name, "block": block, "value": value}
    for name, value in (("same", 0.0), ("bf16", 0.01))
    for block in (1, 2, "norm")
]
PANELS = [
    {"height": h, "width": w, "rows": 2, "cols": 3, "response": [0, 0.1, 1, 0, 0, 0], "boxes": [[1, 5, 15, 19]]}
    for h, w in ((10, 20), (20, 10))
]
ALARMS = [
    {"condition": f"{fired} {failed}", "backing": 0.5 + 0.1 * fired, "gain": 0.1 - 0.2 * failed}
    | {"fired": bool(fired), "failed": bool(failed)}
    for fired in (0, 1)
    for failed in (0, 1)
] + [{"condition": "one unit", "backing": None, "gain": -0.3, "fired": True, "failed": True}]
CHARTS = {
    "alarms": lambda: alarm.alarm_against_failure(ALARMS),
    "blocks": lambda: scores.auroc_by_block(BLOCKS, threshold=0.72),
    "gains": lambda: scores.gain_forest(GAINS),
    "densities": lambda: scores.score_densities(densities()),
    "panels": lambda: scores.score_densities(densities(panels=True)),
    "agreement": lambda: substrate.agreement_by_block(AGREEMENT),
    "marks": lambda: substrate.token_marks(PANELS),
    "maps": lambda: pictures.lesion_maps([lesion_case(f"case {i}") for i in range(3)]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_equal_charts_give_equal_output(name):
    first, second = (mime_bundle(CHARTS[name]().to_dict()) for _ in range(2))
    assert first == second
    assert set(first) == {"text/html", "image/svg+xml", "text/plain"}
    assert first["image/svg+xml"].startswith("<svg") and "</svg>" in first["text/html"]


def test_a_drawn_picture_keeps_its_pixels_once():
    svg = mime_bundle(CHARTS["maps"]().to_dict())["image/svg+xml"]
    assert svg.count("<image") == svg.count(' href="data:image/jpeg') == svg.count("data:image") == 3


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_is_loaded_from_a_network(name):
    html = mime_bundle(CHARTS[name]().to_dict())["text/html"]
    for address in ("cdn.", "src=", "@import"):
        assert address not in html


def test_data_cannot_end_the_script_early():
    spec = scores.gain_forest([{"label": "</script><b>", "value": 0.1, "lo": 0, "hi": 0.2}]).to_dict()
    html = to_html(spec, svg="")
    assert html.count("</script>") == 1
    assert "<\\/script>" in html


def test_different_specs_have_different_names():
    names = {to_html(CHARTS[name]().to_dict(), svg="").split('id="')[1].split('"')[0] for name in CHARTS}
    assert len(names) == len(CHARTS)


def test_rules_carry_scores_without_a_block_and_labels_keep_apart():
    svg = mime_bundle(CHARTS["blocks"]().to_dict())["image/svg+xml"]
    for label in ("membership A", "centre prior", "saliency head", "threshold", "norm"):
        assert f">{label}</text>" in svg
    places = sorted(_label_place(svg, label) for label in ("centre prior", "saliency head"))
    assert places[1] - places[0] >= 14  # px: their values differ by a thousandth


def _label_place(svg: str, label: str) -> float:
    tag = svg[: svg.index(f">{label}</text>")].rsplit("<text", 1)[1]
    return float(tag.split("translate(")[1].split(")")[0].split(",")[1])


def test_forest_tells_wins_from_losses_and_has_a_tick_at_zero():
    rows = [*GAINS, {"label": "better", "value": -0.2, "lo": -0.3, "hi": -0.1}]
    spec = scores.gain_forest(rows, unit="small lesions missed (share)").to_dict()
    found = {row["label"]: row["reading"] for data in spec["datasets"].values() for row in data if "label" in row}
    assert found == {"centre prior": "wins", "random": "undecided", "better": "loses"}
    colour = spec["layer"][1]["encoding"]["color"]["scale"]
    assert colour["range"][colour["domain"].index("wins")] != colour["range"][colour["domain"].index("loses")]
    axis = spec["layer"][1]["encoding"]["x"]
    assert axis["title"] == "Difference in small lesions missed (share)" and 0 in axis["axis"]["values"]


@pytest.mark.parametrize(
    ("low", "high"), [(-0.07, 0.0), (0.01, 0.6), (-0.31, -0.02), (-0.004, 0.012), (0.0, 0.0), (-0.4, 0.5)]
)
def test_ticks_are_round_and_hold_zero(low, high):
    ticks = style.ticks_around_zero(low, high)
    assert 0 in ticks and ticks[0] <= low and ticks[-1] >= high and 1 <= len(ticks) <= 9


@pytest.mark.parametrize("colour", [*style.COLOURS, style.GREY])
def test_colours_of_text_can_be_read_on_white(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    assert 1.05 / (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05) >= 4.5


def test_overlay_is_bright_where_the_score_is_high():
    import io

    from PIL import Image

    score = np.zeros((4, 4))
    score[0, 3] = 1  # top right
    case = lesion_case(score=score) | {"picture": np.full((64, 64), 0.5), "mask": None}
    pixels = np.asarray(Image.open(io.BytesIO(pictures._jpeg(pictures.overlay(case, 64))))).astype(int)
    top_right, bottom_left = pixels[4:12, 52:60].mean((0, 1)), pixels[52:60, 4:12].mean((0, 1))
    assert top_right[0] - top_right[2] > 30  # yellow: red above blue
    assert bottom_left[0] <= bottom_left[2]  # dark blue over grey


@pytest.mark.parametrize("draw", [scores.auroc_by_block, scores.gain_forest, scores.score_densities])
def test_missing_columns_are_named(draw):
    with pytest.raises(CovtokenError, match=r"expected columns .*got other"):
        draw([{"other": 1}])


def test_no_case_is_an_error():
    with pytest.raises(CovtokenError, match="no case to draw"):
        pictures.lesion_maps([])


def test_bundle_defines_vega_embed_once(tmp_path):
    target = write_bundle(tmp_path / "vega.js")
    text = target.read_text()
    assert text.startswith("(function () {") and "window.vegaEmbed" in text
    assert len(text) < 1_500_000


def test_renderer_is_what_a_notebook_shows():
    code = (
        "import json, altair as alt; from covtoken.paper.charts import offline_renderer, scores;"
        "offline_renderer.install_renderer();"
        "c = scores.gain_forest([{'label': 'x', 'value': 0.1, 'lo': 0.0, 'hi': 0.2}]);"
        "print(json.dumps(sorted(c._repr_mimebundle_())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["image/svg+xml", "text/html", "text/plain"]


def test_equal_tokens_are_drawn_on_the_floor_of_a_logarithmic_axis():
    datasets = substrate.agreement_by_block(AGREEMENT).to_dict()["datasets"].values()
    drawn = {row["comparison"]: row["drawn"] for data in datasets for row in data}
    assert drawn == {"same": substrate.EQUAL, "bf16": 0.01}


def test_a_mark_and_its_token_share_their_pixels():
    rows = [row for data in substrate.token_marks(PANELS[:1]).to_dict()["datasets"].values() for row in data]
    brightest = max((row for row in rows if "response" in row), key=lambda row: row["response"])
    box = next(row for row in rows if "response" not in row)
    assert brightest["left"] <= box["left"] < box["right"] <= brightest["right"]
    assert brightest["top"] <= box["top"] < box["bottom"] <= brightest["bottom"]


def test_alarm_and_outcome_are_drawn_as_they_are_and_what_was_not_computed_is_left_out():
    rows = [row for data in alarm.alarm_against_failure(ALARMS).to_dict()["datasets"].values() for row in data]
    drawn = {row["condition"]: (row["alarm"], row["outcome"]) for row in rows if "condition" in row}
    assert drawn == {
        "0 0": ("silent", "C− worked"),
        "0 1": ("silent", "C− failed"),
        "1 0": ("alarm", "C− worked"),
        "1 1": ("alarm", "C− failed"),
    }
    with pytest.raises(CovtokenError, match="expected one of backing, agreement, drift, units"):
        alarm.alarm_against_failure(ALARMS, statistic="luck")


def test_a_caption_counts_what_came_out_and_says_n():
    reports = {"busi": {"split": "test", "metrics": {"a": {"n_units": 4}, "b": {"n_units": 7}}}}
    rows = [*GAINS, {"label": "better", "value": -0.2, "lo": -0.3, "hi": -0.1}]
    words = captions.caption_of("gain_forest", "A minus each", rows, reports)
    assert words == (
        "A minus each. Of 3 comparisons 1 are won, 1 lost (to better), 1 undecided. BUSI, test split, 7 units."
    )
    blocks = [{"scorer": "A", "block": b, "value": v} for b, v in ((1, 0.5), (2, 0.7), ("norm", 0.9), (None, 0.95))]
    assert "Highest, on plain tokens: A at block 2 (0.700)." in captions.caption_of("auroc_by_block", "x", blocks, {})
    assert 'aria-label="x. y"' in to_html({"title": "t"}, svg="", words="x. y")


def test_a_drawn_chart_keeps_its_text_and_loses_decimals_of_places():
    """Numbers that are read stay as they are; a mark may lie a hundredth of a pixel aside."""
    rows = alt.Data(values=[{"x": "0.8712", "y": 1 / 3}, {"x": "0.8719", "y": 2 / 3}])
    svg = to_svg(alt.Chart(rows).mark_text().encode(x="x:N", y="y:Q", text="x:N").to_dict())
    assert ">0.8712<" in svg and ">0.8719<" in svg
    tags = "".join(re.findall("<[^>]*>", svg))
    assert not re.findall(r"\d\.\d{3,}", tags) and "aria-label" not in tags


@pytest.mark.parametrize("name", ["lidc-idri", "msd-task06"])
def test_cohorts_without_intervals_have_charts_too(name):
    """A gate's notebook draws them all from the report of the run, whatever the cohort."""
    first, third = (read_report(report_path(name, gate, recorded=True)).chart_data for gate in (1, 3))
    assert not first["gains"] and not third["gains"]
    drawn = [scores.auroc_by_block(first["blocks"], threshold=0.8), scores.score_densities(first["densities"])]
    drawn += [scores.gain_forest(rows) for rows in (first["gains"], third["gains"])]
    drawn += [budgets.miss_by_method(third["miss"])]
    texts = [to_svg(chart.to_dict()) for chart in drawn]
    assert "fewer than five units" in texts[2] and all("<svg" in text for text in texts)
    report = read_report(report_path(name, 1, recorded=True))
    assert "no interval" in gate1.delong_line(SimpleNamespace(report=report, records=None))
