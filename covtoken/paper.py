"""Sphinx extension of the working paper: every measured number comes from a committed gate report.

Roles: ``{report}`busi/gate1 auroc.density` `` (value with its 95 % interval), ``{report-value}`` (value alone),
``{report-decision}`busi/gate1` `` and ``{report-parameter}`busi/gate1 middle` ``. Directives: ``{report-table}``,
``{report-chart}``, ``{published-table}`` and ``{looks-table}``. What no report holds is a warning, and the book is
built with warnings as errors: a page cannot quietly show a number that was never recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from covtoken.errors import CovtokenError
from covtoken.gates.method_names import WAYS
from covtoken.offline_renderer import to_html, write_bundle
from covtoken.paths import write_then_rename

logger = logging.getLogger(__name__)
MISSING = "not recorded yet"
MATHJAX_SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"  # npm mathjax 3.2.2
READABLE = {
    "auroc": "token AUROC",
    "image_auroc": "AUROC inside one image",
    "organ_auroc": "token AUROC inside the organ",
    "organ_aupr": "token AUPR inside the organ",
    "organ_image_auroc": "AUROC inside one image's organ",
    "organ_auroc_gain": "difference in token AUROC inside the organ",
    "organ_image_auroc_gain": "difference in AUROC inside one image's organ",
    "organ_froc": "lesion sensitivity inside the organ",
    "aupr": "token AUPR",
    "auroc_gain": "difference in token AUROC",
    "image_auroc_gain": "difference in AUROC inside one image",
    "froc": "lesion sensitivity",
    "spearman": "Spearman's ρ with recall",
    "miss_small": "small lesions missed",
    "miss_gain": "difference in small lesions missed",
    "recall_small": "recall of small lesions",
    "recall_gain": "difference in recall of small lesions",
    "constraint_met": "floor met",
    "dual": "dual as specified",
    "repaired": "repaired dual",
    "gflops": "GFLOP a picture",
    "spectrum": "RankMe of pooled tokens",
    "likeness": "mean squared cosine",
    "rank": "rank in the order of choice",
}


def read_metric(root: Path, where: str) -> dict[str, Any]:
    """One metric of a committed report.

    Args:
        root: the checkout. where: ``"<cohort>/gate<N> <metric>"``.

    Raises:
        CovtokenError: no such report, no such metric, or no value in it.
    """
    place, _, name = where.strip().partition(" ")
    entry = _read(root, place)["metrics"].get(name.strip())
    if not entry or entry["value"] is None:
        raise CovtokenError(f"{where}: {MISSING}")
    return entry


def as_text(entry: dict[str, Any], *, interval: bool = True, signed: bool = False) -> str:
    """``0.912 [0.897, 0.925]``; differences carry their sign."""
    style = "+.3f" if signed else ".3f"
    text = format(entry["value"], style)
    if interval and entry.get("ci95"):
        text += " [" + ", ".join(format(bound, style) for bound in entry["ci95"]) + "]"
    return text.replace("-", "−")


def _read(root: Path, place: str) -> dict[str, Any]:
    path = root / "gate_reports" / f"{place}.json"
    if not path.is_file():
        raise CovtokenError(f"gate_reports/{place}.json: {MISSING}")
    return json.loads(path.read_text())


def _signed(name: str) -> bool:
    return "_gain." in name or "_minus_" in name


class _Reader:
    """What roles and directives share: the checkout's root, dependencies and the warning for what is missing."""

    def root(self) -> Path:
        return Path(self.env.srcdir).resolve().parent

    def depends_on(self, path: Path) -> None:
        self.env.note_dependency(str(path))

    def missing(self, error: Exception, line: int) -> nodes.Node:
        logger.warning("%s", error, location=(self.env.docname, line))
        return nodes.strong(text=MISSING)


class ReportRole(_Reader, SphinxRole):
    """A number of a report, with the n behind it as a tooltip."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self):
        place, _, name = self.text.strip().partition(" ")
        self.depends_on(self.root() / "gate_reports" / f"{place}.json")
        try:
            text = self._find(place, name.strip())
        except CovtokenError as error:
            return [self.missing(error, self.lineno)], []
        # Numbers stay on one line; a parameter may be a sentence.
        return [nodes.inline(text=text, classes=[] if self.kind == "parameter" else ["covtoken-number"])], []

    def _find(self, place: str, name: str) -> str:
        if self.kind == "decision":
            return _read(self.root(), place)["decision"]
        if self.kind == "parameter":
            found = _read(self.root(), place)["parameters"].get(name)
            if found is None:
                raise CovtokenError(f"{place} {name}: {MISSING}")
            return str(found)
        entry = read_metric(self.root(), f"{place} {name}")
        return as_text(entry, interval=self.kind == "interval", signed=_signed(name))


class ReportTable(_Reader, SphinxDirective):
    """Metrics of every committed report of a gate (or of the named cohorts), long form, one row a number."""

    option_spec: ClassVar = {
        "gate": directives.unchanged,
        "cohorts": directives.unchanged,
        "metrics": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        gate, root = self.options.get("gate", "1"), self.root()
        cohorts = self.options.get("cohorts", "").split() or _cohorts(root, gate)
        if not cohorts:
            return [nodes.paragraph("", "", self.missing(CovtokenError(f"gate {gate}: {MISSING}"), self.lineno))]
        rows, notes = [], []
        for cohort in cohorts:
            place = f"{cohort}/{stem_of(gate)}"
            self.depends_on(root / "gate_reports" / f"{place}.json")
            try:
                report = _read(root, place)
                entries = {name: read_metric(root, f"{place} {name}") for name in self.options["metrics"].split()}
                for name, entry in entries.items():
                    value = nodes.inline(text=as_text(entry, signed=_signed(name)), classes=["covtoken-number"])
                    rows.append([cohort, readable(name), value])
                notes.append(about(cohort, report, entries.values()))
            except CovtokenError as error:
                rows.append([cohort, "", self.missing(error, self.lineno)])
        table = _table(["cohort", "quantity", "value [95 % over units]"], rows)
        return [table, nodes.paragraph(text=" ".join(notes), classes=["covtoken-note"])]


def about(cohort: str, report: dict[str, Any], entries: Iterable[dict[str, Any]]) -> str:
    """What stands under every table: split, the n of its numbers, backbone, how pictures were curated, the decision."""
    found = dict.fromkeys(f"{entry['n_units']} units, {entry['n_images']} images" for entry in entries)
    curated = f"; {report['parameters']['curated']}" if report["parameters"].get("curated") else ""
    n = " or ".join(found) or "no number"
    return f"{cohort}: {report['split']} split, {n}, {report['backbone']}{curated}; {report['decision']}."


class ReportChart(_Reader, SphinxDirective):
    """A chart drawn from a committed report's ``chart_data``: ``{report-chart} busi/gate1 auroc_by_block blocks``.

    ``gate5`` without a cohort draws the rows of all cohorts together; ``:score:`` says of which score.
    """

    required_arguments = 3
    option_spec: ClassVar = {name: directives.unchanged_required for name in ("title", "score")}

    def run(self) -> list[nodes.Node]:
        from covtoken import budget_figures, figures, transfer_figures

        place, chart, key = self.arguments
        charts = figures.CHARTS | budget_figures.CHARTS | transfer_figures.CHARTS
        cohorts = [] if "/" in place else _cohorts(self.root(), place.removeprefix("gate"))
        places = [f"{cohort}/{place}" for cohort in cohorts] or [place]
        try:
            if chart not in charts:
                raise CovtokenError(f"chart {chart!r}: expected one of {', '.join(charts)}")
            rows = []
            for one in places:
                self.depends_on(self.root() / "gate_reports" / f"{one}.json")
                report = _read(self.root(), one)
                if not report["chart_data"].get(key):
                    raise CovtokenError(f"{one} chart_data {key}: {MISSING}")
                rows += report["chart_data"][key]
            options = {name: self.options[name] for name in ("title", "score") if name in self.options}
            if chart == "auroc_by_block":
                thresholds = report["thresholds"]
                options["threshold"] = thresholds.get("auroc.recommended", thresholds.get("auroc.density"))
            spec = charts[chart](rows, **options).to_dict()
        except CovtokenError as error:
            return [nodes.paragraph("", "", self.missing(error, self.lineno))]
        return [nodes.raw("", to_html(spec), format="html")]


class PublishedTable(_Reader, SphinxDirective):
    """``configs/published.json``: published figures beside what this project measured, on which data."""

    def run(self) -> list[nodes.Node]:
        path = self.root() / "configs" / "published.json"
        self.depends_on(path)
        rows = []
        for figure in json.loads(path.read_text())["figures"]:
            measured = []
            for where in figure["here"]:
                self.depends_on(self.root() / "gate_reports" / f"{where.split()[0]}.json")
                try:
                    name = where.split()[1]
                    text = as_text(read_metric(self.root(), where), signed=_signed(name))
                    measured.append(f"{where.split('/')[0]}, {readable(name)}: {text}")
                except CovtokenError as error:
                    measured.append(self.missing(error, self.lineno).astext())
            rows.append(
                [figure["what"], figure["setting"], figure["published"], "; ".join(measured) or "not measured yet"]
            )
        return [_table(["headline", "published setting", "published, not reproduced here", "measured here"], rows)]


class LooksTable(_Reader, SphinxDirective):
    """How often each test split was looked at, from ``gate_reports/test_log.jsonl``."""

    def run(self) -> list[nodes.Node]:
        path = self.root() / "gate_reports" / "test_log.jsonl"
        self.depends_on(path)
        if not path.is_file():
            error = CovtokenError(f"gate_reports/test_log.jsonl: {MISSING}")
            return [nodes.paragraph("", "", self.missing(error, self.lineno))]
        looks: dict[tuple, list[str]] = {}
        for line in filter(None, path.read_text().splitlines()):
            look = json.loads(line)
            looks.setdefault((look["cohort"], str(look["gate"]), look["split"]), []).append(look["when"][:10])
        rows = [[*key, str(len(days)), min(days), max(days)] for key, days in sorted(looks.items())]
        return [_table(["cohort", "gate", "split", "recorded looks", "first", "last"], rows)]


def readable(name: str) -> str:
    """A metric's name in words: ``auroc_gain.density_minus_centre_prior`` → difference in token AUROC, …"""
    kind, _, rest = name.partition(".")
    words = rest.replace("_", " ").replace(" minus ", " − ").replace("density", "membership A")
    words = words.replace(".keep", ", keep ").replace(".slack", ", slack ")
    for way, title in WAYS.items():
        words = words.replace(f".{way}", f": {title}").replace(f"− {way}", f"− {title}")
    return f"{READABLE.get(kind, kind.replace('_', ' '))}, {words}" if rest else READABLE.get(kind, kind)


def stem_of(gate: str) -> str:
    """How a gate's reports are called: ``gate1``, or ``negative_result``."""
    return f"gate{gate}" if gate.isdigit() else gate


def _cohorts(root: Path, gate: str) -> list[str]:
    found = [path.parent.name for path in root.glob(f"gate_reports/*/{stem_of(gate)}.json")]
    return sorted((c for c in found if not c.startswith("_")), key=lambda cohort: (cohort != "phantom", cohort))


def _table(head: list[str], rows: list[list]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return nodes.table("", group, classes=["covtoken-table"])


def _row(cells: list) -> nodes.row:
    def content(cell):
        return cell if isinstance(cell, nodes.Node) else nodes.Text(cell)

    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", content(cell))) for cell in cells))


def write_scripts(app: Sphinx, config) -> None:
    """Put the two scripts that pages need into ``_extra``: MathJax and Vega, both from installed packages."""
    extra = Path(app.srcdir) / "_extra"
    write_bundle(extra / "vega" / "vega-bundle.js")
    target = extra / "mathjax" / "tex-svg-full.js"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == MATHJAX_SHA256:
        return
    try:
        # The wheel holds npm's files unchanged (same digest), so that no node is needed to draw formulas offline.
        found = [f for f in files("sphinx-mathjax-offline") or [] if f.name == "tex-svg-full.js"]
    except PackageNotFoundError:
        found = []
    content = found[0].locate().read_bytes() if found else b""
    if hashlib.sha256(content).hexdigest() != MATHJAX_SHA256:
        logger.warning(
            "formulas cannot be drawn: install MathJax 3.2.2 with `pip install sphinx-mathjax-offline==0.0.2`"
        )
        return
    with write_then_rename(target) as temporary:
        temporary.write_bytes(content)


def add_vega(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Load Vega (0.9 MB) on pages that hold a chart, and only there."""
    if "covtoken-chart" in (context.get("body") or ""):
        app.add_js_file("../vega/vega-bundle.js")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register roles, directives and the scripts."""
    kinds = {"report": "interval", "report-value": "value"}
    for name in ("report", "report-value", "report-decision", "report-parameter"):
        app.add_role(name, ReportRole(kinds.get(name, name.removeprefix("report-"))))
    app.add_directive("report-table", ReportTable)
    app.add_directive("report-chart", ReportChart)
    app.add_directive("published-table", PublishedTable)
    app.add_directive("looks-table", LooksTable)
    # Before Sphinx checks that html_extra_path exists (priority 800).
    app.connect("config-inited", write_scripts, priority=100)
    app.connect("html-page-context", add_vega)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
