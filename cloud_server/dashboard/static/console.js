// What the pages cannot do without a script: charts of their tables, times as people say them, and quiet polling.
"use strict";
(() => {
  const language = document.documentElement.lang;
  const ago = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const exact = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
  const steps = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [Infinity, "day", 86400]];

  const tellTimes = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const when = Date.parse(time.dateTime);
      if (Number.isNaN(when)) continue;
      const passed = (when - Date.now()) / 1000;
      const [, unit, seconds] = steps.find(([limit]) => Math.abs(passed) < limit);
      // As everywhere on the pages there is a space between a figure and a Chinese unit.
      const text = ago.format(Math.trunc(passed / seconds), unit).replace(/(\d)(?=\p{Script=Han})/u, "$1 ");
      if (time.textContent !== text) time.textContent = text;
      if (!time.title) time.title = exact.format(when);
    }
  };

  // A chart draws what its table says; colours are the style sheet's.
  const charts = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const draw = (figure) => {
    const table = document.getElementById(figure.dataset.chart);
    const canvas = figure.querySelector(".canvas");
    if (!table || !canvas || !window.uPlot) return;
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const columns = names.map((_, place) =>
      [...table.tBodies[0].rows].map((row) => {
        const value = row.cells[place].dataset.value;
        return value === undefined ? null : Number(value);
      }));
    const inks = [colour("--warp"), colour("--weft")];
    const axis = () => ({ stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${colour("--sans")}` });
    const low = figure.dataset.low, high = figure.dataset.high;
    const range = (_chart, least, most) => {
      const margin = (most - least || Math.abs(most) || 1) * 0.08;
      const bottom = low !== undefined ? Number(low) : least - margin;
      return [bottom, Math.max(high !== undefined ? Number(high) : most + margin, most)];
    };
    charts.get(figure)?.destroy();
    canvas.replaceChildren();
    const few = columns[0].length < 40;
    charts.set(figure, new uPlot({
      width: canvas.clientWidth,
      height: canvas.clientHeight - 28,
      scales: { x: { time: false }, y: { range } },
      axes: [{ ...axis(), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] }, { ...axis(), size: 56 }],
      series: [{ label: names[0] }, ...names.slice(1).map((label, place) => ({
        label, stroke: inks[place % inks.length], width: 2, spanGaps: true, dash: place ? [6, 5] : undefined,
        points: { show: few, size: 6, fill: inks[place % inks.length] },
      }))],
      cursor: { y: false },
    }, columns, canvas));
  };
  const drawAll = () => {
    for (const figure of [...charts.keys()]) if (!figure.isConnected) { charts.get(figure).destroy(); charts.delete(figure); }
    document.querySelectorAll("[data-chart]").forEach(draw);
  };

  // Polls tell that they are polls, and ask for nothing that is here already.
  const marks = new Map();
  const offline = () => document.getElementById("offline");
  document.addEventListener("htmx:configRequest", (event) => {
    const element = event.detail.elt;
    if (element.id !== "live") return;
    event.detail.headers["X-Live"] = "1";
    if (marks.has(element.id)) event.detail.headers["If-None-Match"] = marks.get(element.id);
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    // A page that nobody looks at, or in which somebody reads a table, is left alone.
    const live = event.detail.elt;
    if (live.id === "live" && (document.hidden || live.querySelector("details[open]"))) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr, failed } = event.detail;
    if (elt.id === "live" && xhr.status === 200) marks.set(elt.id, xhr.getResponseHeader("ETag"));
    if (elt.id === "live") offline().textContent = failed && xhr.status !== 304 ? document.body.dataset.offline : "";
  });
  document.addEventListener("htmx:sendError", () => { offline().textContent = document.body.dataset.offline; });
  document.addEventListener("htmx:afterSwap", () => { tellTimes(); drawAll(); });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 150); });
  document.querySelector(".sections [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  tellTimes();
  drawAll();
  setInterval(tellTimes, 1000);
})();
