// The explorer: a picture beside a score's ranks, a slider of tokens kept, and what that does to the lesion.
(function () {
  "use strict";
  var SVG = "http://www.w3.org/2000/svg", SIDE = 224;
  var RAMP = [[0, 32, 76], [24, 61, 107], [87, 93, 109], [124, 123, 120], [167, 155, 116], [214, 190, 96], [255, 234, 70]];
  var host = document.getElementById("explorer");
  if (!host) { return; }
  var data = JSON.parse(document.getElementById("explorer-data").textContent);
  var folder = host.dataset.pictures;
  var pictures = [];
  data.cohorts.forEach(function (cohort) {
    cohort.cases.forEach(function (item) {
      pictures.push({ cohort: cohort, item: item, needed: {} });
    });
  });
  pictures.forEach(function (p) {
    p.ranks = {};
    Object.keys(data.scores).forEach(function (score) {
      p.ranks[score] = p.item.ranks[score].match(/../g).map(function (byte) { return parseInt(byte, 16); });
      var sorted = p.item.lesion_tokens.map(function (t) { return p.ranks[score][t] + 1; }).sort(function (a, b) { return a - b; });
      p.needed[score] = sorted[Math.ceil(sorted.length / 2) - 1];  // tokens to keep for half of the lesion's
    });
  });
  var first = pictures.filter(function (p) { return p.item.why === data.first; });
  var state = { picture: first.find(function (p) { return p.needed.recommended <= nTokens(p) / 4; }) || pictures[0], score: "recommended", percent: 25,
                outline: true, sort: "size", cohort: "all", only: null };

  function $(name) { return host.querySelector("[data-part='" + name + "']"); }
  function make(tag, attributes, parent, text) {
    var node = tag === "button" || tag === "img" || tag === "tr" || tag === "td" || tag === "th" || tag === "span"
      ? document.createElement(tag) : document.createElementNS(SVG, tag);
    Object.keys(attributes).forEach(function (key) { node.setAttribute(key, attributes[key]); });
    if (text !== undefined) { node.textContent = text; }
    if (parent) { parent.appendChild(node); }
    return node;
  }
  function nTokens(p) { return p.cohort.grid[0] * p.cohort.grid[1]; }
  function budget(n, percent) { return Math.max(1, Math.ceil(n * percent / 100 - 1e-9)); }
  function counts(p, score) {
    var k = budget(nTokens(p), state.percent);
    var n = p.item.lesion_tokens.filter(function (t) { return p.ranks[score][t] < k; }).length;
    return { k: k, n: n, of: p.item.lesion_tokens.length, stays: 2 * n >= p.item.lesion_tokens.length,
             flops: Math.floor(100 * p.cohort.flops_share_by_tokens_kept[score][k - 1] + 0.5) };
  }
  function line(p, score) {
    var c = counts(p, score);
    return data.scores[score] + " keeps " + c.k + " of " + nTokens(p) + " tokens: " + c.n + " of " + c.of +
      " lesion tokens, lesion " + (c.stays ? "retained" : "missed") + ". " + c.flops + " % of the FLOPs.";
  }
  function about(p) {
    return p.cohort.words + ", case " + p.item.case + ": lesion " + (100 * p.item.lesion_share_of_the_picture).toFixed(1) +
      " % of the picture, " + p.item.place_by_size + " of " + p.cohort.pictures_with_one_lesion + " by size.";
  }
  function colour(rank, n) {
    var place = (1 - rank / (n - 1)) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
    return "rgb(" + RAMP[low].map(function (v, i) {
      return Math.round(v + (RAMP[low + 1][i] - v) * (place - low));
    }).join(",") + ")";
  }

  // Two drawings of one picture: what is kept of it, and the score.
  function draw(name, words, paint) {
    var p = state.picture, svg = $(name), cols = p.cohort.grid[1], size = SIDE / cols;
    svg.replaceChildren();
    svg.setAttribute("aria-label", words);
    make("image", { href: folder + p.item.file, width: SIDE, height: SIDE }, svg);
    p.ranks[state.score].forEach(function (rank, t) {
      var look = paint(rank, nTokens(p));
      if (look) {
        make("rect", { x: (t % cols) * size, y: Math.floor(t / cols) * size, width: size, height: size, fill: look[0],
                       "fill-opacity": look[1], "shape-rendering": "crispEdges" }, svg);
      }
    });
    if (state.outline) {
      make("path", { d: p.item.outline, fill: "none", stroke: "#000", "stroke-width": 4, "stroke-opacity": 0.55 }, svg);
      make("path", { d: p.item.outline, fill: "none", stroke: "#ffd60a", "stroke-width": 2 }, svg);
    }
  }
  function drawPicture() {
    var p = state.picture, k = counts(p, state.score).k, said = about(p) + " " + line(p, state.score);
    draw("kept", "Picture and kept tokens. " + said, function (rank) { return rank < k ? null : ["#000", 0.72]; });
    draw("score", "Ranks by " + data.scores[state.score] + ", yellow first. " + said, function (rank, n) {
      return [colour(rank, n), rank < k ? 0.75 : 0.35];
    });
    $("about").textContent = about(p);
    $("line").textContent = line(p, state.score);
    $("line").className = "explorer-line " + (counts(p, state.score).stays ? "is-retained" : "is-missed");
    var split = p.cohort, total = split.lesions_in_the_split;
    $("split").textContent = "In all " + total + " lesions of this selection split, " + data.scores[state.score] + " misses " +
      split.missed_by_tokens_kept[state.score][k - 1] + " at this budget.";
    var body = $("scores");
    body.replaceChildren();
    Object.keys(data.scores).forEach(function (score) {
      var c = counts(p, score), row = make("tr", score === state.score ? { "aria-current": "true" } : {}, body);
      make("th", { scope: "row" }, row, data.scores[score]);
      make("td", {}, row, c.n + " of " + c.of);
      make("td", { class: c.stays ? "is-retained" : "is-missed" }, row, c.stays ? "✓ retained" : "✗ missed");
      make("td", {}, row, p.item.auroc_in_this_picture[score].toFixed(3));
      make("td", {}, row, c.flops + " %");
      make("td", {}, row, split.missed_by_tokens_kept[score][c.k - 1] + " of " + total);
    });
    $("percent").textContent = state.percent + " %";
    $("slider").value = state.percent;
    $("slider").setAttribute("aria-valuetext", state.percent + " % of the tokens kept");
    host.querySelectorAll("[data-score]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.score === state.score));
    });
  }

  function shown() {
    var list = pictures.filter(function (p) {
      return (state.cohort === "all" || p.cohort.cohort === state.cohort) && (!state.only || state.only.indexOf(p) >= 0);
    });
    return list.sort(function (a, b) {
      return state.sort === "size" ? a.item.lesion_share_of_the_picture - b.item.lesion_share_of_the_picture
        : a.item.auroc_in_this_picture[state.score] - b.item.auroc_in_this_picture[state.score];
    });
  }
  function drawThumbnails() {
    var strip = $("thumbnails"), list = shown(), at = document.activeElement && document.activeElement.dataset.file;
    strip.replaceChildren();
    list.forEach(function (p) {
      var stays = counts(p, state.score).stays, words = stays ? "retained" : "missed";
      var button = make("button", { type: "button", "data-file": p.item.file, class: stays ? "is-retained" : "is-missed",
        "aria-pressed": String(p === state.picture), "aria-label": about(p) + " " + words, title: about(p) + " " + words }, strip);
      make("img", { src: folder + p.item.file, alt: "", width: 64, height: 64, class: "dark-light" }, button);
      make("span", {}, button, stays ? "✓" : "✗");
      button.addEventListener("click", function () { open(p); });
      if (at === p.item.file) { button.focus(); }
    });
    var n = list.filter(function (p) { return counts(p, state.score).stays; }).length;
    $("strip").textContent = n + " of these " + list.length + " lesions stay at " + state.percent + " %" +
      (state.only ? " (brushed in the chart)" : "") + ".";
    $("everything").hidden = !state.only && state.cohort === "all";
  }

  // The second view. Lines: every lesion of the selection split. Dots on them: the pictures. Marks: recorded on the test split.
  function drawChart() {
    var svg = $("chart"), W = svg.parentNode.clientWidth || 640, H = 320, L = 44, R = 14, T = 12, B = 42;
    var names = [], rows = data.recorded.filter(function (row) { return row.score === state.score; });
    rows.forEach(function (row) { if (names.indexOf(row.words) < 0) { names.push(row.words); } });
    function x(percent) { return L + Math.log(100 / percent) / Math.log(256) * (W - L - R); }
    function y(share) { return T + (1 - share) * (H - T - B); }
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 " + W + " " + H);
    [0, 0.25, 0.5, 0.75, 1].forEach(function (tick) {
      make("line", { x1: L, x2: W - R, y1: y(tick), y2: y(tick), class: "grid" }, svg);
      make("text", { x: L - 6, y: y(tick) + 4, "text-anchor": "end" }, svg, Math.round(100 * tick) + " %");
    });
    [100, 50, 25, 10, 5, 2, 1].forEach(function (tick) {
      make("text", { x: x(tick), y: H - B + 18, "text-anchor": "middle" }, svg, tick + " %");
    });
    make("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, svg, "tokens kept");
    make("line", { x1: x(state.percent), x2: x(state.percent), y1: T, y2: H - B, class: "budget" }, svg);
    data.cohorts.forEach(function (cohort) {
      var missed = cohort.missed_by_tokens_kept[state.score], total = cohort.lesions_in_the_split, n = missed.length;
      var index = names.indexOf(cohort.words), d = "";
      for (var k = 1; k <= n; k += 1) { d += (d ? "L" : "M") + x(100 * k / n) + " " + y(missed[k - 1] / total); }
      make("path", { d: d, fill: "none", class: "curve colour-" + index }, svg);
      pictures.filter(function (p) { return p.cohort === cohort; }).forEach(function (p) {
        var k = p.needed[state.score], words = about(p) + " Needs " + k + " of " + n + " tokens by " + data.scores[state.score] + ".";
        var dot = make("circle", { cx: x(100 * k / n), cy: y(missed[k - 1] / total), class: "dot colour-" + index,
          r: p === state.picture ? 7 : 4.5, tabindex: 0, role: "button", "aria-label": words, "data-file": p.item.file }, svg);
        make("title", {}, dot, words);
        onPress(dot, function () { open(p); host.scrollIntoView({ block: "start" }); });
      });
    });
    rows.forEach(function (row) {
      var index = names.indexOf(row.words), share = row.missed / row.lesions;
      var words = row.words + ", " + row.split + " split: " + data.scores[row.score] + " misses " + row.missed + " of " + row.lesions +
        " lesions at " + row.percent + " %.";
      var mark = make("path", { d: "M0-7L7 0L0 7L-7 0Z", transform: "translate(" + (x(row.percent) + 11 * (index - 1.5)) + " " + y(share) + ")",
        class: "mark colour-" + index, tabindex: 0, role: "button", "aria-label": words, "data-mark": row.cohort + " " + row.percent }, svg);
      make("title", {}, mark, words);
      onPress(mark, function () { brush(row, words); });
    });
    var legend = $("legend");
    legend.replaceChildren();
    names.forEach(function (name, i) {
      var last = rows.filter(function (row) { return row.words === name && row.percent === 25; })[0];
      var item = make("span", { class: "key colour-" + i }, legend);
      make("span", {}, item, "◆");
      make("span", {}, item, " " + name + ": " + last.missed + " of " + last.lesions + " missed at 25 % (" + last.split + ")");
    });
  }
  // A recorded mark opens the pictures of its cohort that are missed at its budget: the largest lesion first.
  function brush(row, words) {
    state.percent = row.percent;
    state.cohort = "all";
    var own = pictures.filter(function (p) { return p.cohort.cohort === row.cohort; });
    var missed = own.filter(function (p) { return !counts(p, state.score).stays; });
    $("brushed").textContent = words + (own.length ? " Of the " + own.length + " pictures here: " + missed.length + "."
      : " No picture of this cohort is shown, for its licence.");
    if (own.length) {
      state.only = missed.length ? missed : null;
      state.cohort = row.cohort;
      state.picture = (missed.length ? missed : own)[0];
    }
    drawAll();
  }
  function onPress(node, act) {
    node.addEventListener("click", act);
    node.addEventListener("keydown", function (event) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); }
    });
  }
  function open(p) { state.picture = p; drawAll(); }
  function drawAll() { drawPicture(); drawThumbnails(); drawChart(); }

  Object.keys(data.scores).forEach(function (score) {
    var button = make("button", { type: "button", "data-score": score }, $("buttons"), data.scores[score]);
    button.addEventListener("click", function () { state.score = score; state.only = null; drawAll(); });
  });
  $("slider").addEventListener("input", function () { state.percent = Number(this.value); state.only = null; drawAll(); });
  $("outline").addEventListener("change", function () { state.outline = this.checked; drawPicture(); });
  $("sort").addEventListener("change", function () { state.sort = this.value; drawThumbnails(); });
  $("cohort").addEventListener("change", function () { state.cohort = this.value; state.only = null; drawThumbnails(); });
  $("everything").addEventListener("click", function () {
    state.only = null; state.cohort = "all"; $("cohort").value = "all"; drawThumbnails();
  });
  document.addEventListener("keydown", function (event) {
    var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], tag = event.target.tagName;
    if (!step || event.altKey || event.ctrlKey || event.metaKey || tag === "INPUT" || tag === "SELECT" || tag === "TEXTAREA") { return; }
    var list = shown(), at = list.indexOf(state.picture);
    event.preventDefault();
    open(list[(at + step + list.length) % list.length]);
  });
  var width = 0;
  new ResizeObserver(function () {
    var now = $("chart").parentNode.clientWidth;
    if (now !== width) { width = now; drawChart(); }
  }).observe($("chart").parentNode);
  drawAll();
}());
