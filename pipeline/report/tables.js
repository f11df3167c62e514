"use strict";
// Headers become buttons that sort their column; a link to a training opens its page.
(() => {
  const compare = (a, b) => {
    if (a === b) return 0;
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
  };

  function valueOf(row, column) {
    const cell = row.cells[column];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent.trim();
  }

  function sort(header) {
    const column = header.cellIndex, body = header.closest("table").tBodies[0];
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [valueOf(row, column), row]);
    const known = rows.filter(([value]) => value !== ""), unknown = rows.filter(([value]) => value === "");
    known.sort(([a], [b]) => descending ? compare(b, a) : compare(a, b));
    body.append(...[...known, ...unknown].map(([, row]) => row));  // what is empty stays last
  }

  for (const header of document.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(header));
  }

  function open() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  addEventListener("hashchange", open);
  open();
})();
