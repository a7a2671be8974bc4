"""Draw the charts of the book by name: what a page shows, its data as CSV, and a plain SVG."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError, unknown
from covtoken.gates.gate5 import cells
from covtoken.gates.transfer.rows import joined_metrics, joined_paths
from covtoken.names import cohort_name, split_name, with_short_names
from covtoken.paper.captions import as_sentence, caption_of
from covtoken.paper.charts.offline_renderer import title_of, to_svg
from covtoken.paper.charts_by_name import CHARTS
from covtoken.paper.numbers import MISSING, cohorts_of, read_content
from covtoken.paper.tables.economy import setting_marks
from covtoken.paths import write_then_rename
from covtoken.studies.volumes import STUDY

UNITS = {"gate3": "small lesions missed (share)"}  # of differences that are not of AUROC, by report
OPTIONS = ("score", "size", "task")  # of single charts, by their arguments' names
VOLUMES = "volume_retention"
_DIRECTIVE = re.compile(r"^```\{(report|volumes|across)-chart\} *(.*)\n((?::.*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Drawn:
    """A chart as it is drawn: its name, Vega-Lite specification, caption, recorded rows, and the files it read."""

    name: str
    spec: dict[str, Any] = field(repr=False)
    words: str
    rows: list[dict[str, Any]] = field(repr=False)
    files: tuple[Path, ...]

    @property
    def data(self) -> list[dict[str, Any]]:
        """The rows that the chart draws, with the columns that were recorded or that it encodes."""
        recorded = list(dict.fromkeys(column for row in self.rows for column in row))
        columns = list(dict.fromkeys([*recorded, *_encoded(self.spec)]))
        tables = self.spec["datasets"].values()
        # Ticks, stripes and names share no two columns with what was recorded. Pictures have only rows of their own.
        of_data = [rows for rows in tables if len(set(recorded) & set(rows[0])) >= 2]
        panels = [[row | {"panel": n} for row in rows] for n, rows in enumerate(tables, 1) if len(rows[0]) > 4]
        columns += [] if of_data else ["panel"]
        kept = [{name: row[name] for name in columns if name in row} for rows in of_data or panels for row in rows]
        return list({json.dumps(row, sort_keys=True): row for row in kept}.values())

    def csv(self) -> str:
        """Write ``data`` as CSV; a list as JSON in its cell."""
        rows, text = self.data, io.StringIO()
        writer = csv.DictWriter(
            text, list(dict.fromkeys(column for row in rows for column in row)), lineterminator="\n"
        )
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
        return text.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write CSV and SVG into a folder; return their paths."""
        paths = []
        for ending, content in (("csv", self.csv()), ("svg", to_svg(self.spec))):
            paths.append(folder / f"{self.name}.{ending}")
            with write_then_rename(paths[-1]) as temporary:
                temporary.write_text(content)
        return paths


def draw(root: Path, place: str, chart: str, key: str, options: Mapping[str, str]) -> Drawn:
    """Draw a chart from the ``chart_data`` of a committed report.

    Args:
        place: ``"<cohort>/gate<N>"``, or ``gate5`` for the rows of all cohorts together.
        chart: a name in ``CHARTS``.
        key: of the rows in the report.
        options: ``title`` and those in ``OPTIONS``.

    Raises:
        CovtokenError: an unknown chart, or rows that no report holds.
    """
    if chart not in CHARTS:
        raise CovtokenError(f"chart {chart!r}: expected one of {', '.join(CHARTS)}")
    cohorts = [] if "/" in place else cohorts_of(root, place.removeprefix("gate"))
    rows, reports, files = [], {}, []
    for name in [f"{cohort}/{place}" for cohort in cohorts] or [place]:
        files.append(root / "gate_reports" / f"{name}.json")
        report = reports[name.partition("/")[0]] = read_content(root, name)
        if not report["chart_data"].get(key):
            raise CovtokenError(f"{name} chart_data {key}: {MISSING}")
        rows += with_short_names(report["chart_data"][key])
    if chart == "transfer_heatmap" and cohorts and place == "gate5":  # cohorts without a report of gate 5
        files += joined_paths(root).values()
        rows += [row for name, found in joined_metrics(root).items() for row in cells(name, found)]
    given = {name: options[name] for name in ("title", *OPTIONS) if name in options}
    if chart == "auroc_by_block":
        thresholds = report["thresholds"]
        given["threshold"] = thresholds.get("auroc.recommended", thresholds.get("auroc.density"))
    if chart == "gain_forest":
        given["unit"] = UNITS.get(place.rpartition("/")[2], "token AUROC")
    if chart == "retention_curves":
        given["marks"] = setting_marks(report["metrics"], report["parameters"])
    if chart == "retention_by_clock":
        files.append(root / "gate_reports" / f"{place.replace('gate6', 'clock')}.json")
        given["block"] = report["parameters"]["setting"]["chosen"]["block"]
        given["clock"] = read_content(root, place.replace("gate6", "clock"))["curve"]
    spec = CHARTS[chart](rows, **given).to_dict()
    words = caption_of(chart, options.get("title", title_of(spec)), rows, reports)
    return Drawn(name_of(place, chart, key, options), spec, words, rows, tuple(files))


def draw_volumes(root: Path, cohort: str, options: Mapping[str, str]) -> Drawn:
    """Draw the study of volumes from a cohort's committed table; ``options`` are ``title`` and ``sigma``."""
    content = STUDY.read(cohort, root)
    given = {name: float(text) if name == "sigma" else text for name, text in options.items()}
    spec = CHARTS[VOLUMES](content["rows"], **given).to_dict()
    words = f"{as_sentence(given.get('title', title_of(spec)))} {cohort_name(cohort)}, {split_name(content['split'])}."
    name = name_of(f"{cohort}/{STUDY.stem}", VOLUMES, "", {})
    return Drawn(name, spec, words, content["rows"], (root / "gate_reports" / cohort / f"{STUDY.stem}.json",))


def name_of(place: str, chart: str, key: str, options: Mapping[str, str]) -> str:
    """Name a chart's files: ``busi-gate1-gain_forest-gains``."""
    return "-".join(filter(None, (*place.split("/"), chart, key, *(options.get(name) for name in OPTIONS))))


def charts_of_book(root: Path) -> dict[str, tuple]:
    """Find every chart that a page of the book shows: its name → what ``draw_by_name`` passes on."""
    return {name: call for path in sorted((root / "book").glob("*.md")) for name, call in _directives(path.read_text())}


def draw_by_name(root: Path, name: str) -> Drawn:
    """Draw a chart of the book again.

    Raises:
        CovtokenError: no page shows such a chart.
    """
    found = charts_of_book(root)
    if name not in found:
        raise unknown("figure", name, ["explorer", *found])
    function, *arguments = found[name]
    return function(root, *arguments)


def _encoded(spec: Any) -> Iterator[str]:
    """Name every column that a mark's place, colour or text shows."""
    if isinstance(spec, dict):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for name, part in spec.items():
            if name != "datasets":
                yield from _encoded(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from _encoded(part)


def _directives(text: str) -> Iterator[tuple[str, tuple]]:
    from covtoken.paper.across import draw_across  # it gives what it draws as this module's class

    for kind, arguments, lines in _DIRECTIVE.findall(text):
        options = dict(re.findall(r"^:(\w+): *(.*)$", lines, re.MULTILINE))
        if kind == "volumes":
            yield (
                name_of(f"{arguments.strip()}/{STUDY.stem}", VOLUMES, "", {}),
                (draw_volumes, arguments.strip(), options),
            )
        elif kind == "across":
            number, name = arguments.split()
            yield name, (draw_across, number, name, options)
        else:
            place, chart, key = arguments.split()
            yield name_of(place, chart, key, options), (draw, place, chart, key, options)
