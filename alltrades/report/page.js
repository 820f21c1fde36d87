// Draws the plots with the colours of the style sheet, one after the other so that the page answers meanwhile.
(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();

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
