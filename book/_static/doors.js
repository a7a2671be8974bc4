// A number's title, which says where it comes from, as a popup on hover, focus or tap; a second tap follows the link.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  var popup = null, owner = null, timer = 0;
  function hide() {
    clearTimeout(timer);
    if (owner) { owner.removeAttribute("aria-describedby"); }
    if (popup) { popup.hidden = true; }
    owner = null;
  }
  function later() { clearTimeout(timer); timer = setTimeout(hide, 200); }
  function show(link) {
    clearTimeout(timer);
    if (owner === link) { return; }
    hide();
    if (!popup) {
      popup = document.createElement("div");
      popup.id = "covtoken-popup";
      popup.setAttribute("role", "tooltip");
      popup.addEventListener("pointerenter", function () { clearTimeout(timer); });
      popup.addEventListener("pointerleave", later);
      document.body.appendChild(popup);
    }
    popup.replaceChildren();
    link.dataset.door.split(" · ").forEach(function (text) {
      var line = document.createElement("div");
      line.textContent = text;
      popup.appendChild(line);
    });
    popup.hidden = false;
    var box = link.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    popup.style.left = Math.max(8, Math.min(box.left, wide - popup.offsetWidth - 8)) + window.scrollX + "px";
    var above = box.bottom + popup.offsetHeight + 8 > window.innerHeight && box.top > popup.offsetHeight + 8;
    popup.style.top = (above ? box.top - popup.offsetHeight - 4 : box.bottom + 4) + window.scrollY + "px";
    link.setAttribute("aria-describedby", popup.id);
    owner = link;
  }
  document.querySelectorAll("a.covtoken-door").forEach(function (link) {
    var tapped = false;
    link.dataset.door = link.title;
    link.removeAttribute("title");
    link.addEventListener("pointerenter", function (event) { if (event.pointerType !== "touch") { show(link); } });
    link.addEventListener("pointerleave", function (event) { if (event.pointerType !== "touch") { later(); } });
    link.addEventListener("pointerdown", function (event) { tapped = event.pointerType === "touch" && owner !== link; });
    link.addEventListener("focus", function () { show(link); });
    link.addEventListener("blur", later);
    link.addEventListener("click", function (event) {
      if (tapped) { event.preventDefault(); show(link); }
      tapped = false;
    });
  });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") { hide(); } });
});
