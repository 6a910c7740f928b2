"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const plots = [...document.querySelectorAll("[data-picture]")];
  const PRINTED = 640; // CSS pixels: what fits between the margins of A4 and of US letter

  const paint = (name) => {
    const [variable, opacity] = name.slice(1).split("/");
    const colour = getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim();
    if (opacity === undefined) return colour;
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${red},${green},${blue},${opacity})`;
  };

  // Only what stands under a colour's key is a colour: a label may begin with "@" too.
  const painted = (value, key = "") => {
    if (typeof value === "string") return /color(scale)?$/.test(key) && value.startsWith("@") ? paint(value) : value;
    if (Array.isArray(value)) return value.map((part) => painted(part, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, painted(part, name)]));
  };

  // Names beside points need room; where there is none, a legend below has them.
  const narrow = ({ data, layout }) => {
    layout.margin.l = 44;
    layout.margin.r = 8;
    layout.font.size = 12;
    const labelled = data.filter((trace) => trace.mode === "markers+text");
    for (const trace of labelled) trace.mode = "markers";
    layout.showlegend ||= labelled.length > 0;
    for (const trace of data.filter(({ type }) => type === "heatmap")) {
      trace.showscale = false;
      if (trace.x.length < 4) continue;
      trace.textfont.size = 10;
      layout.xaxis.tickangle = -60; // names side by side would not fit
      layout.margin.t += 90;
      layout.height += 90;
    }
  };

  const draw = (plot, width) => {
    const spec = painted(specs[plot.dataset.picture]);
    spec.layout.width = width || plot.clientWidth;
    if (spec.layout.width < 420) narrow(spec);
    return Plotly.react(plot, spec.data, spec.layout, { displayModeBar: false, responsive: false });
  };

  // A page of many tasks has dozens of pictures: each is drawn when it comes near.
  const seen = new Set();
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !seen.has(target)) {
        seen.add(target);
        near.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "600px" });
  for (const plot of plots) {
    plot.style.minHeight = `${specs[plot.dataset.picture].layout.height}px`;
    near.observe(plot);
  }

  const again = () => seen.forEach((plot) => draw(plot));
  let waiting = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's bars come and go
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(again, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("print").addEventListener("change", ({ matches }) => (matches ? print() : again()));
  const print = () => plots.forEach((plot) => draw(plot, PRINTED));
  addEventListener("beforeprint", print);
  addEventListener("afterprint", again);

  const compared = (one, other, down) => {
    const [a, b] = [one, other].map((cell) => cell.dataset.order);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // what is not known comes last
    const numbers = [Number(a), Number(b)];
    const order = numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
    return down ? -order : order;
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const body = heading.closest("table").tBodies[0];
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((one, other) => compared(one.cells[heading.cellIndex], other.cells[heading.cellIndex], down));
      body.append(...rows);
    });
  }
})();
