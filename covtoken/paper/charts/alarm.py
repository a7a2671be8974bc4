"""Chart the label-free alarm: what it saw against whether C− failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError
from covtoken.paper.charts.style import COLOURS, legends_below_each_other, plain_legend, styled, table_of


def alarm_against_failure(
    rows: Iterable[Mapping], title: str = "Does the alarm fire where C− fails?", statistic: str = "backing"
):
    """Plot each condition by a label-free statistic and C−'s gain over A; colour: the alarm, shape: what happened.

    Args:
        rows: mappings with ``condition``, the statistic (None: left out), ``gain`` (AUROC of C− minus A's), ``fired``
            and ``failed``; optionally ``cohort``.
        statistic: backing, agreement, drift or units.

    Raises:
        CovtokenError: unknown statistic.
    """
    if statistic not in _STATISTICS:
        raise CovtokenError(f"statistic {statistic!r}: expected one of {', '.join(_STATISTICS)}")
    table = table_of(rows, "condition", statistic, "gain", "fired", "failed")
    table = table[table[statistic].notna()]
    table = table.assign(
        alarm=np.where(table["fired"].astype(bool), "alarm", "silent"),
        outcome=np.where(table["failed"].astype(bool), "C− failed", "C− worked"),
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1).encode(y="zero:Q")
    legend = plain_legend(columns=2)
    alarms = alt.Scale(domain=["alarm", "silent"], range=[COLOURS[1], COLOURS[0]])
    outcomes = alt.Scale(domain=["C− failed", "C− worked"], range=["cross", "circle"])
    numbers = (alt.Tooltip(f"{name}:Q", format="+.3f") for name in (statistic, "gain"))
    named = ["cohort:N"] if "cohort" in table else []
    points = (
        alt.Chart(table)
        .mark_point(size=75, opacity=0.9, strokeWidth=2)
        .encode(
            x=alt.X(
                f"{statistic}:Q", title=_STATISTICS[statistic], scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)
            ),
            y=alt.Y("gain:Q", title="AUROC of C− minus A's"),
            color=alt.Color("alarm:N", scale=alarms, legend=legend),
            shape=alt.Shape("outcome:N", scale=outcomes, legend=legend),
            tooltip=[*named, "condition:N", *numbers, "alarm:N", "outcome:N"],
        )
    )
    words = "One mark a condition: a bank and the pictures it is used on."
    return legends_below_each_other(styled(alt.layer(zero, points), title, 300, words))


_STATISTICS = {
    "backing": ["How often A backs what", "C− points to (AUROC)"],
    "agreement": "Agreement of C− and A (Spearman's ρ)",
    "drift": "Drift (1: pictures like the bank's)",
    "units": "Units in the bank",
}
