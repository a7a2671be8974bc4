"""Draw Altair charts where there is no network: in a notebook, on a page opened from disk, in a pull request.

Altair's own renderer loads scripts from a network and gives every chart a random id. This module writes a chart as HTML
with a finished SVG, which the page's own copy of Vega turns into the live chart; as a plain SVG; and as a line of text.
Equal charts give equal output, so that notebooks compare cleanly.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from covtoken.names import column_words
from covtoken.paths import write_then_rename

SVG_WIDTH = 680  # px: what "as wide as the page" means where there is no page

# An SVG wider than the page is scaled down, so that a phone shows a whole chart.
_HTML = """\
<style>.covtoken-chart {{overflow-x: auto}} .covtoken-chart svg {{max-width: 100%; height: auto}}</style>
<div id="{id}" class="covtoken-chart" role="img" aria-label="{label}" style="width:100%">{svg}</div>
<script>
(function () {{
  var spec = {spec};
  // Panels of fixed sizes: as many beside each other as there is room for, and none wider than the page.
  function fit(spec, room) {{
    var panels = spec.concat;
    if (!panels || !room) {{ return; }}
    var widest = Math.max.apply(null, panels.map(function (panel) {{ return panel.width || 0; }}));
    var side = JSON.stringify(panels[0]).indexOf('"url"') < 0 ? 62 : 14;  // axes, or pictures without
    panels.forEach(function (panel) {{ if (panel.width > room - side) {{ panel.width = room - side; }} }});
    spec.columns = Math.max(1, Math.min(spec.columns || panels.length, Math.floor((room + 14) / (widest + side))));
  }}
  function draw() {{
    var host = document.getElementById("{id}");
    if (!host || !window.vegaEmbed) {{ return; }}
    fit(spec, host.clientWidth);
    window.vegaEmbed(host, spec, {{renderer: "svg", actions: false}}).then(function () {{
      // Vega reads its width when the window changes, which is before the page's columns have settled.
      var width = host.clientWidth;
      new ResizeObserver(function () {{
        if (host.clientWidth === width) {{ return; }}
        width = host.clientWidth;
        requestAnimationFrame(function () {{ window.dispatchEvent(new Event("resize")); }});
      }}).observe(host);
    }});
  }}
  if (document.readyState === "loading") {{ document.addEventListener("DOMContentLoaded", draw); }} else {{ draw(); }}
}})();
</script>"""


def install_renderer() -> None:
    """Make every Altair chart of this process draw without a network. Call it in a notebook's first cell."""
    import altair as alt

    alt.data_transformers.disable_max_rows()
    alt.renderers.register("covtoken", lambda spec, **_: mime_bundle(spec))
    alt.renderers.enable("covtoken")


def mime_bundle(spec: dict[str, Any]) -> dict[str, str]:
    """Draw a Vega-Lite specification as ``text/html``, ``image/svg+xml`` and ``text/plain``."""
    svg = to_svg(spec)
    return {"text/html": to_html(spec, svg), "image/svg+xml": svg, "text/plain": f"<chart: {title_of(spec)}>"}


def to_html(spec: dict[str, Any], svg: str | None = None, words: str = "") -> str:
    """Write a ``div``, named by the specification's hash, with the SVG in it and the script that makes it live.

    Args:
        words: what a reader who does not see the chart is told; its title, if not given.
    """
    # "</" would end the script element early, wherever it stands in the data.
    text = json.dumps(_with_words(spec), sort_keys=True, separators=(",", ":")).replace("</", "<\\/")
    name = "chart-" + hashlib.sha256(text.encode()).hexdigest()[:16]
    label = (words or title_of(spec)).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return _HTML.format(id=name, label=label, spec=text, svg=to_svg(spec) if svg is None else svg)


def to_svg(spec: dict[str, Any]) -> str:
    """Draw a chart as SVG in this process, by vl-convert."""
    import vl_convert

    fixed = copy.deepcopy(spec)
    for part in _parts(fixed):
        if part.get("width") == "container":
            part["width"] = SVG_WIDTH
    return _lighter(vl_convert.vegalite_to_svg(fixed))


def _with_words(part: Any) -> Any:
    """Copy a specification whose tooltips head each value with words rather than with its column."""
    if isinstance(part, list):
        return [_with_words(child) for child in part]
    if not isinstance(part, dict):
        return part
    part = {key: child if key == "datasets" else _with_words(child) for key, child in part.items()}
    if isinstance(part.get("tooltip"), list):
        part["tooltip"] = [{"title": column_words(tip["field"]), **tip} for tip in part["tooltip"] if "field" in tip]
    return part


_UNSEEN = r'role="graphics-[^"]*"|aria-(?:roledescription|label|hidden)="[^"]*"|pointer-events="none"|opacity="1"'


def _lighter(svg: str) -> str:
    """Leave out what no reader sees: words of single marks (the chart has its own), decimals, what is said twice."""
    svg = re.sub(f" (?:{_UNSEEN})", "", svg)
    svg = re.sub("<image[^>]*>", _with_one_source, svg)
    svg = re.sub("<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda x: f"{float(x[0]):.2f}", tag[0]), svg)
    fonts = set(re.findall(r' font-family="[^"]*"', svg))
    if len(fonts) == 1:
        font = fonts.pop()
        svg = svg.replace(font, "").replace("<svg", f"<svg{font}", 1)
    return svg


def _with_one_source(tag: re.Match) -> str:
    """Leave an image its pixels once: versions of vl-convert write them as ``xlink:href``, as ``href``, or as both."""
    text = tag[0]
    return re.sub(' xlink:href="[^"]*"', "", text) if ' href="' in text else text.replace(" xlink:href=", " href=")


def title_of(spec: dict[str, Any]) -> str:
    """Give a chart's description or title in one line."""
    title = spec.get("description") or spec.get("title") or "chart"
    if isinstance(title, dict):
        title = title.get("text", "chart")
    return " ".join(title) if isinstance(title, list) else str(title)


def write_bundle(target: Path) -> Path:
    """Write Vega, Vega-Lite and vega-embed as one script (0.9 MB) that defines only ``window.vegaEmbed``."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # The bundle is a module's body: without a function around it, its names would collide with the theme's scripts.
    wrapped = "(function () {\n" + bundle + "\n})();\n"
    if not target.exists() or target.read_text(encoding="utf-8") != wrapped:
        with write_then_rename(target) as temporary:
            temporary.write_text(wrapped, encoding="utf-8")
    return target


def _parts(spec: Any):
    if isinstance(spec, dict):
        yield spec
        for key in ("layer", "concat", "hconcat", "vconcat"):
            for child in spec.get(key, []):
                yield from _parts(child)
