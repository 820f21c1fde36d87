// The list of episodes, and the plots and pictures of the one that is selected.
(function () {
  "use strict";
  const id = (name) => document.getElementById(name);
  const head = [...document.querySelectorAll("#list thead th")];
  const body = document.querySelector("#list tbody");
  const rows = [...body.rows];
  const plot = id("plot"), step = id("step");
  const NUMBERS = ["episode", "length", "return", "interventions", "weight"];
  const COLORS = 8, ROW = 150, LINE = 19, GAP = 34; // pixels of a plot, of a name in its legend, between plots
  let episode = null, timer = null;

  // ---- the list
  function value(row, column) {
    const text = row.cells[column].textContent;
    return NUMBERS.includes(head[column].textContent.trim()) ? (text === "" ? NaN : Number(text)) : text;
  }

  function sort(column) {
    const down = head[column].getAttribute("aria-sort") === "ascending";
    head.forEach((h, k) => h.setAttribute("aria-sort", k !== column ? "none" : down ? "descending" : "ascending"));
    const keyed = rows.map((row, k) => [value(row, column), k, row]);
    const unknown = (v) => v === "" || Number.isNaN(v);
    keyed.sort(([a, i], [b, k]) => {
      if (unknown(a) || unknown(b)) return unknown(a) - unknown(b) || i - k; // what is not known comes last
      const order = typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return (down ? -order : order) || i - k;
    });
    body.append(...keyed.map((k) => k[2]));
  }

  head.forEach((h, k) => h.querySelector("button").addEventListener("click", () => sort(k)));
  id("filter").addEventListener("input", () => {
    const wanted = id("filter").value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !row.classList.contains("absent")) select(row);
  });

  // ---- an episode
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function select(row) {
    stop();
    rows.forEach((r) => r.setAttribute("aria-selected", String(r === row)));
    episode = JSON.parse(id("episode-" + row.dataset.number).textContent);
    id("episode").hidden = false;
    id("name").textContent = "Episode " + episode.number + " of " + episode.environment;
    const rate = episode.rate ? ", " + Number(episode.rate.toPrecision(4)) + " Hz" : ", rate unknown";
    const texts = Object.entries(episode.texts).map(([name, text]) => "\n" + name + ": " + text);
    id("facts").textContent = episode.length + " steps" + rate + texts.join("");
    id("note").textContent = notes();
    step.max = episode.length - 1;
    step.value = 0;
    cameras();
    draw();
    move(0);
  }

  function notes() {
    const said = [];
    if (episode.note) said.push("Shown are " + episode.note + ".");
    if (episode.every > 1) said.push("Two points are the least and the greatest value of " + episode.every + " steps.");
    return said.join(" ");
  }

  function cameras() {
    id("cameras").replaceChildren(...episode.cameras.map((camera) => {
      const figure = document.createElement("figure"), picture = document.createElement("div");
      const caption = document.createElement("figcaption");
      picture.className = camera.width < 120 ? "picture few" : "picture";
      picture.style.aspectRatio = camera.width + " / " + camera.height;
      picture.style.backgroundImage = "url(" + camera.url + ")";
      picture.style.backgroundSize = 100 * camera.steps.length + "% 100%";
      picture.setAttribute("role", "img");
      figure.append(picture, caption);
      return figure;
    }));
  }

  function x(length) { // steps of a line's points
    if (episode.every === 1) return Array.from({ length }, (_, k) => k);
    return Array.from({ length }, (_, k) => Math.min(episode.length - 1, (k * episode.every) / 2));
  }

  function figure() {
    const heights = episode.plots.map((p) => Math.max(ROW, LINE * p.lines.length));
    const total = heights.reduce((a, h) => a + h + GAP, 0) || ROW;
    const wide = plot.clientWidth > 560;
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: total + 40, showlegend: wide,
      font: { family: "system-ui, sans-serif", size: 12, color: "@ink2" }, margin: { l: 56, r: 8, t: 24, b: 40 },
      hovermode: "closest", dragmode: "zoom", annotations: [],
      hoverlabel: { bgcolor: "@surface", bordercolor: "@line", font: { color: "@ink" }, namelength: -1 },
      xaxis: {
        title: { text: "step" }, range: [-0.5, Math.max(episode.length - 0.5, 0.5)], gridcolor: "@grid",
        linecolor: "@line", zeroline: false, anchor: episode.plots.length > 1 ? "y" + episode.plots.length : "y",
      },
    };
    const traces = [];
    let top = total;
    episode.plots.forEach((p, k) => {
      const n = k ? String(k + 1) : "", domain = [(top - heights[k]) / total, top / total];
      layout["yaxis" + n] = { domain, gridcolor: "@grid", linecolor: "@line", zeroline: false, fixedrange: true, automargin: true };
      layout["legend" + n] = { y: domain[1], yanchor: "top", x: 1.01, xanchor: "left", font: { size: 11 }, tracegroupgap: 0 };
      layout.annotations.push({
        text: escaped(p.title), x: 0, xref: "paper", xanchor: "left", y: domain[1], yref: "paper", yanchor: "bottom",
        showarrow: false, font: { color: "@ink", size: 13 },
      });
      const common = { type: "scatter", yaxis: "y" + n, legend: "legend" + n, hovertemplate: "%{y:.5~g} at step %{x}" };
      p.lines.forEach((l, i) => traces.push({
        ...common, mode: l.y.length > 1 ? "lines" : "markers", name: escaped(l.name), x: x(l.y.length), y: l.y,
        line: { color: p.chunks ? "@ink" : "@row" + (i % COLORS), width: 1.5, dash: i < COLORS ? "solid" : "dot" },
      }));
      if (p.chunks) {
        const predicted = { ...common, mode: "lines+markers", name: "predicted", x: [], y: [] };
        predicted.line = { color: "@row0", width: 1.5 };
        predicted.marker = { size: 3 };
        p.chunks.forEach((chunk, i) => {
          predicted.x.push(...chunk.map((_, h) => episode.at[i] + h), null); // a gap between chunks
          predicted.y.push(...chunk, null);
        });
        traces.push(predicted);
      }
      top -= heights[k] + GAP;
    });
    return { traces, layout };
  }

  function draw() {
    const config = { responsive: true, displayModeBar: false, plotlyServerURL: "" };
    const { traces, layout } = themed(figure());
    plot.className = "plot";
    plot.setAttribute("aria-label", episode.plots.map((p) => p.title).join(", ") + " of episode " + episode.number);
    plot.parentElement.hidden = !episode.plots.length;
    if (!episode.plots.length) return;
    Plotly.react(plot, traces, layout, config).then(
      () => { plot.classList.add("drawn"); cursor(); },
      (error) => { plot.classList.add("failed"); plot.textContent = "This plot could not be drawn: " + error; },
    );
    plot.removeAllListeners("plotly_click");
    plot.on("plotly_click", (event) => move(Math.round(event.points[0].x)));
  }

  // ---- time
  function cursor() {
    if (!plot.classList.contains("drawn")) return;
    const at = Number(step.value);
    const line = { color: "@warn", width: 1, dash: "dot" };
    Plotly.relayout(plot, { shapes: themed([{ type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line }]) });
  }

  function seconds(at) { // of a step between two of which it is known
    const [steps, times] = episode.seconds;
    const i = Math.max(0, steps.findLastIndex((s) => s <= at)), k = Math.min(i + 1, steps.length - 1);
    return k === i ? times[i] : times[i] + ((at - steps[i]) / (steps[k] - steps[i])) * (times[k] - times[i]);
  }

  function move(to) {
    step.value = to;
    const at = Number(step.value);
    id("at").textContent = "step " + at + (episode.seconds ? ", " + seconds(at).toFixed(2) + " s" : "");
    episode.cameras.forEach((camera, k) => {
      const figure = id("cameras").children[k], n = camera.steps.length;
      let i = 0;
      while (i + 1 < n && camera.steps[i + 1] <= at) i += 1;
      figure.firstChild.style.backgroundPosition = (n > 1 ? (100 * i) / (n - 1) : 0) + "% 0";
      const words = camera.name + " (" + camera.what + (camera.note ? ", " + camera.note : "") + "), step " + camera.steps[i];
      figure.firstChild.setAttribute("aria-label", words);
      figure.lastChild.textContent = words;
    });
    cursor();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    id("play").textContent = "Play";
  }

  id("play").addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(step.value) >= episode.length - 1) move(0);
    id("play").textContent = "Stop";
    const began = Date.now(), from = Number(step.value), rate = episode.rate || 10;
    timer = setInterval(() => {
      move(Math.min(episode.length - 1, from + Math.floor(((Date.now() - began) / 1000) * rate)));
      if (Number(step.value) >= episode.length - 1) stop();
    }, 100);
  });
  step.addEventListener("input", () => { stop(); move(Number(step.value)); });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => episode && draw());

  const first = rows.find((row) => !row.classList.contains("absent"));
  if (first) select(first);
})();
