"""Write the explorer as HTML: pictures, scores, a slider of tokens kept, its script and its data."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from covtoken.paper.explorer.content import RULE, message_of

SCRIPT = Path(__file__).with_name("explorer.js")


def explorer_html(data: dict, pictures: str) -> str:
    """Write the explorer as HTML with its script and its data.

    Args:
        data: of ``page_data``.
        pictures: where the pictures lie, seen from the page, with a slash at its end.
    """
    content = json.dumps(data, separators=(",", ":"), sort_keys=False).replace("</", "<\\/")
    options = "".join(f'<option value="{c["cohort"]}">{escape(c["words"])}</option>' for c in data["cohorts"])
    rows = "".join(
        f"<tr><td>{escape(row['words'])}, {row['split']}</td><td>{escape(data['scores'][row['score']])}</td>"
        f"<td>{row['percent']} %</td><td>{row['missed']} of {row['lesions']}</td></tr>"
        for row in data["recorded"]
    )
    credit = "; ".join(escape(cohort["credit"]) for cohort in data["cohorts"])
    words = {"message": message_of(data["cohorts"]), "rule": RULE}
    return TEMPLATE.format(
        pictures=escape(pictures),
        options=options,
        rows=rows,
        credit=credit,
        data=content,
        script=SCRIPT.read_text(),
        **{name: escape(text) for name, text in words.items()},
    )


TEMPLATE = """\
<div id="explorer" class="explorer" data-pictures="{pictures}">
<p class="explorer-message">{message}</p>
<div class="explorer-controls" role="group" aria-label="score" data-part="buttons"></div>
<div class="explorer-controls">
<label>tokens kept <input type="range" min="5" max="100" step="1" value="25" dir="rtl" data-part="slider"></label>
<output data-part="percent">25 %</output>
<label><input type="checkbox" checked data-part="outline"> outline of the lesion</label>
</div>
<p data-part="line" class="explorer-line" role="status" aria-live="polite"></p>
<p class="explorer-about" data-part="about"></p>
<div class="explorer-pair">
<svg role="img" viewBox="0 0 224 224" data-part="kept"></svg>
<svg role="img" viewBox="0 0 224 224" data-part="score"></svg>
</div>
<p data-part="split" class="covtoken-note"></p>
<div class="explorer-scroll" tabindex="0" role="region" aria-label="all scores at this budget"><table>
<thead><tr><th scope="col">at this budget</th><th scope="col">lesion tokens</th><th scope="col">lesion</th>
<th scope="col">AUROC here</th><th scope="col">FLOPs left</th><th scope="col">missed in the split</th></tr></thead>
<tbody data-part="scores"></tbody></table></div>
<div class="explorer-controls">
<label>sort by <select data-part="sort"><option value="size">lesion size</option>
<option value="auroc">AUROC of the score</option></select></label>
<label>show <select data-part="cohort"><option value="all">all</option>{options}</select></label>
<button type="button" data-part="everything" hidden>show all</button>
<span data-part="strip"></span>
</div>
<div class="explorer-thumbnails" role="group" aria-label="pictures" data-part="thumbnails"></div>
<p class="covtoken-note">← and → step through the pictures. {rule} Pictures: {credit}; squashed to 224 px.</p>
<h2 id="explorer-budget">Budget against missed lesions</h2>
<p>Line: all lesions of the selection split, by the score that is chosen above; a dot is a picture at the budget below
which its lesion is missed: press it to open the picture. ◆: recorded on the other
split (<a href="gate3_results.html">matched budgets</a>); press it to see which pictures here are missed
at that budget.</p>
<div data-part="legend" class="explorer-legend"></div>
<div class="explorer-chart"><svg data-part="chart" role="group" aria-label="lesions missed by tokens kept"></svg></div>
<p data-part="brushed" class="covtoken-note" role="status"></p>
<details><summary>The recorded counts as a table</summary><div class="explorer-scroll" tabindex="0" role="region"
aria-label="recorded counts"><table><thead><tr><th scope="col">cohort</th><th scope="col">score</th>
<th scope="col">tokens kept</th><th scope="col">lesions missed</th></tr></thead><tbody>{rows}</tbody></table></div>
</details>
<noscript>Pictures and slider need JavaScript; the counts stand in the table.</noscript>
<script type="application/json" id="explorer-data">{data}</script>
<script>
{script}</script>
</div>
"""
