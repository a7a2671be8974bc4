"""Write ``llms.txt``: what the site holds, a line a page, for programs that read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from sphinx.application import Sphinx

from covtoken.paths import write_then_rename

ABOUT = """\
# {title}

> {subtitle}

Every measured number on these pages comes from a file in `gate_reports/` that a recorded run wrote; `numbers.html` has
them with interval, sample, split and the command that prints each. A decision (GO, NO-GO, NO-VERDICT) belongs to one
question on one data set. This is research software and no medical device.
"""


def llms_text(book: Path) -> str:
    """Write the text from ``_toc.yml`` and the headings of its pages.

    Args:
        book: the folder of the pages.
    """
    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    first = (book / f"{toc['root']}.md").read_text(encoding="utf-8")
    subtitle = re.search(r"\*\*(.+?)\*\*", first, re.DOTALL)
    head = ABOUT.format(title=_title(book, toc["root"]), subtitle=" ".join(subtitle[1].split()) if subtitle else "")
    parts = [head]
    for part in toc.get("parts", []):
        lines = [f"- [{_title(book, name)}]({name}.html)" for name in _pages(part["chapters"])]
        parts.append("\n".join([f"## {part['caption']}", "", *lines, ""]))
    return "\n".join(parts)


def _pages(entries: list[dict]) -> list[str]:
    return [name for entry in entries for name in (entry["file"], *_pages(entry.get("sections", [])))]


def _title(book: Path, name: str) -> str:
    """Read a page's first heading; its name, where it has none."""
    page, notebook = book / f"{name}.md", book / f"{name}.ipynb"
    if page.is_file():
        text = page.read_text(encoding="utf-8")
    else:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.is_file() else []
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading[1].strip() if heading else name


def write_llms(app: Sphinx, config) -> None:
    """Write the file into the book's ``_extra``, which is copied beside the pages."""
    book = Path(app.srcdir)
    with write_then_rename(book / "_extra" / "llms.txt") as temporary:
        temporary.write_text(llms_text(book), encoding="utf-8")


def register(app: Sphinx) -> None:
    """Write it before Sphinx looks at ``_extra`` (priority 800)."""
    app.connect("config-inited", write_llms, priority=110)
