// Long tables show their first ten rows, wide ones say that they scroll, and the menu's arrows have names.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  var FIRST = 10, SLACK = 6;
  document.querySelectorAll("nav details > summary").forEach(function (summary) {
    var link = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", "Pages under " + (link ? link.textContent.trim() : "this one"));
  });
  document.querySelectorAll("a.btn-download-source-button").forEach(function (link) {
    link.removeAttribute("target");
    link.setAttribute("download", "");
  });
  function scroller(table) {
    var box = table.closest(".pst-scrollable-table-container, .covtoken-scroll");
    if (!box) {
      box = document.createElement("div");
      table.replaceWith(box);
      box.appendChild(table);
    }
    box.classList.add("covtoken-scroll");
    return box;
  }
  // On a phone a row of such a table becomes a card, a line a cell, with its column's name before it.
  var CARDS = ".cell_output table, .covtoken-cards table, table.covtoken-cards, #in-numbers table";
  function label(table) {
    var heads = table.tHead ? table.tHead.rows[0].cells : [];
    Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
      for (var i = 1; i <= Math.min(row.cells.length, heads.length - 1); i++) {  // from the right: rows may share their first cell
        var cell = row.cells[row.cells.length - i];
        if (cell.colSpan === 1) { cell.dataset.head = heads[heads.length - i].textContent.trim(); }
      }
    });
    return heads.length > 0;
  }
  function tellOfWidth(table, box) {
    var hint = document.createElement("p");
    hint.className = "covtoken-hint";
    hint.textContent = "More columns to the right: scroll the table.";
    box.before(hint);
    var heads = table.matches(CARDS) ? label(table) : false;
    new ResizeObserver(function () {
      table.classList.remove("is-cards");
      var cut = box.scrollWidth > box.clientWidth + 2;
      if (cut && heads && window.matchMedia("(max-width: 480px)").matches) {
        table.classList.add("is-cards");
        cut = false;
      }
      hint.hidden = !cut;
      box.classList.toggle("is-cut", cut);
      if (cut) { box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Table, scrolls"); }
      else { box.removeAttribute("tabindex"); box.removeAttribute("role"); box.removeAttribute("aria-label"); }
    }).observe(box);
  }
  function fold(table, box) {
    var rows = table.tBodies.length ? table.tBodies[0].rows.length : 0;
    if (rows <= FIRST + SLACK) { return; }
    var button = document.createElement("button");
    button.type = "button";
    button.className = "covtoken-unfold";
    function set(folded) {
      table.classList.toggle("is-folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
      button.textContent = folded ? "Show all " + rows + " rows" : "Show the first " + FIRST + " rows";
    }
    button.addEventListener("click", function () { set(!table.classList.contains("is-folded")); });
    box.after(button);
    set(true);
  }
  document.querySelectorAll("table.covtoken-table, .cell_output table, .bd-article table.table").forEach(function (table) {
    if (table.closest(".explorer, .covtoken-pictures")) { return; }
    var box = scroller(table);
    tellOfWidth(table, box);
    if (!table.closest(".covtoken-behind, .verdict-grid")) { fold(table, box); }
  });
});
