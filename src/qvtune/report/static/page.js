"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const known = document.getElementById("configs");
  const configs = known ? JSON.parse(known.textContent) : {};
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  // Beside the pointer, and within the window. The nearest point is found by an area around it, whose datum it is.
  const explain = (handler, event, item, value) => {
    const text = value == null ? "" : (item.datum.datum ?? item.datum).details;
    tip.hidden = !text;
    if (!text) return;  // and there may be no event, as when a picture is drawn anew
    tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, document.documentElement.clientWidth - width - 4))}px`;
    tip.style.top = `${event.clientY + (event.clientY + 16 + height > innerHeight ? -10 - height : 16)}px`;
  };
  addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
  const pictures = [...document.querySelectorAll("script.figure")].map((script) => ({
    spec: JSON.parse(script.textContent),
    // Within the element that has words for the picture: Vega writes its own on the one that it draws in.
    place: document.getElementById(script.dataset.plot).firstElementChild,
  }));
  // Of the width of a picture, what numbers and title of the vertical axis take.
  const AXIS = 70;
  // One after the other: a picture may be drawn anew before it has been drawn.
  const draw = (picture) => {
    picture.drawn = Promise.resolve(picture.drawn).then((before) => {
      before?.finalize();
      const { spec, place } = picture;
      picture.width = place.clientWidth;
      for (const param of spec.params ?? []) if (param.name === "room") param.value = picture.width - AXIS;
      return vegaEmbed(place, spec, {
        mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false,
        config: configs[dark.matches ? "dark" : "light"], tooltip: explain,
      });
    });
  };
  pictures.forEach(draw);
  // Names below a picture take other lines where it has another width.
  const redraw = () => pictures.filter(({ place, width }) => place.clientWidth !== width).forEach(draw);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
  dark.addEventListener("change", () => pictures.forEach(draw));

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
