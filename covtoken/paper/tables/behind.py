"""Write the table that stands behind a chart, for those who do not see the chart."""

from __future__ import annotations

from html import escape
from typing import Any

from covtoken.names import column_words, value_words
from covtoken.paper.drawn import Drawn

MOST_ROWS = 50
MINUS = str.maketrans("-", "−")


def table_behind(drawn: Drawn, csv: str) -> str:
    """Write a chart's first rows as a folded HTML table, with a link to all of them.

    Args:
        csv: the address of the whole data.
    """
    rows, recorded = drawn.data, {column for row in drawn.rows for column in row}
    # A chart places marks by columns of its own, which say nothing that was measured; pictures have no others.
    columns = [column for column in rows[0] if column in recorded] or list(rows[0])
    columns = [column for column in columns if not any(isinstance(row.get(column), list | dict) for row in rows)]
    head = "".join(f'<th scope="col">{escape(column_words(column))}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(row.get(column)))}</td>" for column in columns) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    left = f"The first {MOST_ROWS} of {len(rows)} rows; " if len(rows) > MOST_ROWS else ""
    more = f'<p class="covtoken-note">{left}<a href="{escape(csv)}">{"all" if left else "the same"} as CSV</a>.</p>'
    table = f'<table class="covtoken-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<details class="covtoken-behind"><summary>The data as a table</summary>{table}{more}</details>'


def _text(value: Any) -> str:
    """Write a cell: numbers to four digits, names in words, nothing as a dash."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value_words(value)
    return f"{value:.4g}".translate(MINUS)
