// Draws the plots with the colours of the style sheet, one after the other so that the page answers meanwhile.
(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const COLOR = /^@([a-z]+\d*)(?:\/([\d.]+))?$/;

  function color(name, opacity) {
    const hex = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    if (opacity === undefined) return hex;
    const full = hex.length === 4 ? hex.replace(/[^#]/g, "$&$&") : hex;
    const parts = [1, 3, 5].map((i) => parseInt(full.slice(i, i + 2), 16));
    return "rgba(" + parts.join(",") + "," + opacity + ")";
  }

  function themed(value) {
    if (typeof value === "string") {
      const found = COLOR.exec(value);
      return found ? color(found[1], found[2]) : value;
    }
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]));
    }
    return value;
  }

  function draw(id) {
    const place = document.getElementById(id);
    const figure = themed(figures[id]);
    for (const trace of figure.data) {
      if (trace.meta && trace.meta.row !== undefined) trace.visible = !hidden.has(trace.meta.row);
    }
    const config = { responsive: true, displayModeBar: false, staticPlot: figure.static, plotlyServerURL: "" };
    return Plotly.react(place, figure.data, figure.layout, config).then(() => place.classList.add("drawn"));
  }

  function failed(id, error) {
    const place = document.getElementById(id);
    place.classList.add("failed");
    place.textContent = "This plot could not be drawn: " + error;
  }

  let round = 0; // a change of theme while plots are being drawn begins anew
  async function drawAll() {
    const mine = ++round;
    for (const id of Object.keys(figures)) {
      if (mine !== round) return;
      try {
        await draw(id);
      } catch (error) {
        failed(id, error);
      }
      await new Promise((next) => setTimeout(next, 0));
    }
  }

  for (const key of document.querySelectorAll(".key")) {
    key.addEventListener("click", () => {
      const row = Number(key.dataset.row);
      const show = hidden.delete(row);
      if (!show) hidden.add(row);
      key.setAttribute("aria-pressed", String(show));
      for (const id of Object.keys(figures)) {
        if (figures[id].static) draw(id).catch((error) => failed(id, error));
      }
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
