"""List every number that a page shows, ``{number-list}``: a table a report, a row a number, each with its pages."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from covtoken.names import COHORT_NAMES, cohort_name, in_page_order, split_name
from covtoken.paper.doors import Door, anchor_of, open_door, texts_of
from covtoken.paper.numbers import gate_name
from covtoken.paper.pages.base import NUMBERS, Reader


class number_list(nodes.General, nodes.Element):
    """Stand for the list until every page is read."""


class NumberList(Reader, SphinxDirective):
    """Leave the place of the list."""

    def run(self) -> list[nodes.Node]:
        return [number_list()]


class _Linker(Reader):
    def __init__(self, env: BuildEnvironment) -> None:
        self.env = env


def link_written(app: Sphinx, doctree: nodes.document) -> None:
    """Make doors of the numbers in tables that a command wrote as Markdown, where one metric alone reads so."""
    if app.env.docname not in WRITTEN:
        return
    linker = _Linker(app.env)
    reports = linker.root().glob("gate_reports/[!_]*/*.json")
    places = {f"{path.parent.name}/{path.stem}": json.loads(path.read_text()) for path in reports}
    texts = texts_of({place: content for place, content in places.items() if "metrics" in content})
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            text.parent.replace(text, linker.linked(text.astext(), texts))


WRITTEN = ("summary",)  # pages that include what `covtoken report` wrote


def fill_list(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the list once every page has said which numbers it shows."""
    for node in list(doctree.findall(number_list)):
        shown: dict[str, list[str]] = {}
        for page, places in sorted(_shown(app.env).items()):
            for where in places:
                shown.setdefault(where, []).append(page)
        root = Path(app.srcdir).resolve().parent
        links = {
            page: f'<a href="{app.builder.get_relative_uri(docname, page)}">{escape(page)}</a>'
            for pages in shown.values()
            for page in pages
        }
        doors = [open_door(root, where) for where in sorted(shown, key=_order)]
        html = list_html(doors, {where: ", ".join(links[page] for page in pages) for where, pages in shown.items()})
        node.replace_self(nodes.raw("", html, format="html"))


def list_html(doors: list[Door], pages: dict[str, str]) -> str:
    """Write a heading and a table a report: what its numbers share is said once.

    Args:
        pages: HTML of the links to the pages that show a number, by its place.
    """
    places = dict.fromkeys(door.where.partition(" ")[0] for door in doors)
    links = " · ".join(f'<a href="#{anchor_of(place)}">{escape(_heading(place))}</a>' for place in places)
    parts, last = [f"<p>{len(doors)} numbers are shown on the pages of this book, by report: {links}.</p>"], ""
    for door in doors:
        place, _, name = door.where.partition(" ")
        if place != last:
            parts += ["</tbody></table></div>"] if last else []
            said = f"{split_name(door.split)}, {door.backbone} weights, {door.when}."
            parts.append(
                f'<h2 id="{anchor_of(place)}">'
                f"{escape(_heading(place))}</h2><p>{escape(said[0].upper() + said[1:])} Weights "
                f"<code>{door.weights}</code>. Recorded by <code>{escape(door.makes)}</code>. "
                f"Printed by <code>covtoken number &quot;{escape(place)} NAME&quot;"
                f'</code>.</p><div class="covtoken-scroll" tabindex="0" role="region" aria-label="{escape(place)}">'
                '<table class="covtoken-numbers"><thead><tr><th scope="col">NAME</th><th scope="col">value and n</th>'
                '<th scope="col">shown on</th></tr></thead><tbody>'
            )
            last = place
        words = door.words.partition(": ")[2]
        parts.append(
            f'<tr id="{door.anchor}"><td>{escape(words)}<code>{escape(name)}</code></td>'
            f"<td>{escape(door.value)}<small>{escape(door.n)}</small></td><td>{pages[door.where]}</td></tr>"
        )
    return "\n".join([*parts, "</tbody></table></div>"] if last else parts)


def _order(where: str) -> tuple[int, str]:
    """Give the place of a number in the list: cohorts in the order of pages."""
    cohort = where.partition("/")[0]
    return in_page_order([*COHORT_NAMES, cohort]).index(cohort), where


def _heading(place: str) -> str:
    """Name a report in words: its cohort and gate."""
    cohort, _, stem = place.partition("/")
    return f"{cohort_name(cohort)}, {gate_name(stem.removeprefix('gate'))}"


def _shown(env: BuildEnvironment) -> dict[str, dict[str, None]]:
    """Give the numbers of every page, in their order."""
    if not hasattr(env, "covtoken_numbers"):
        env.covtoken_numbers = {}
    return env.covtoken_numbers


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget the numbers of a page that is read again."""
    _shown(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    """Take over what another process read."""
    _shown(env).update({page: places for page, places in _shown(other).items() if page in docnames})


def again(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Write the list anew whenever any page was."""
    return [NUMBERS] if NUMBERS in env.found_docs else []


def register(app: Sphinx) -> None:
    """Register the directive and what fills it."""
    app.add_node(number_list)
    app.add_directive("number-list", NumberList)
    app.connect("doctree-read", link_written)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", again)
    app.connect("doctree-resolved", fill_list)
