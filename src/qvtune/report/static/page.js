"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const known = document.getElementById("layouts");
  const layouts = known ? JSON.parse(known.textContent) : {};
  const colours = () => ({ layout: layouts[dark.matches ? "dark" : "light"] });
  // Dragging zooms with a mouse; a finger scrolls the page.
  const fine = matchMedia("(pointer: fine)").matches;
  const plots = [];
  for (const script of document.querySelectorAll("script.figure")) {
    const figure = JSON.parse(script.textContent);
    const plot = document.getElementById(script.dataset.plot);
    const layout = { ...figure.layout, template: colours() };
    layout.dragmode ??= fine ? "zoom" : false;
    Plotly.newPlot(plot, figure.data, layout, { responsive: true, displayModeBar: false });
    plots.push(plot);
  }
  dark.addEventListener("change", () => plots.forEach((plot) => Plotly.relayout(plot, { template: colours() })));

  const value = (row, column) => {
    const cell = row.cells[column];
    return "number" in cell.dataset ? Number(cell.dataset.number) : cell.textContent;
  };
  // Numbers before text, and empty cells last, whichever way.
  const rank = (x) => (typeof x === "number" ? 0 : x === "" ? 2 : 1);
  const order = (a, b, sign) => {
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => order(value(a, column), value(b, column), sign));
      table.tBodies[0].append(...rows);
    }));
  }
})();
