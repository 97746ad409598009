"use strict";
// Draws the charts, and applies the switches for groups and seeds to all of them.
const specs = JSON.parse(document.getElementById("specs").textContent);
// `ast`: expressions are interpreted, not compiled, so that the page's security policy can forbid eval.
// `logLevel` 1, errors only: a layer whose rows are all switched off is no mistake.
const options = { mode: "vega-lite", renderer: "svg", ast: true, actions: false, logLevel: 1 };
const views = [];

// A page that is reloaded by itself keeps what the reader has switched and opened.
const version = document.body.dataset.version;
const kept = version && JSON.parse(sessionStorage.getItem("kept") ?? "null");
if (kept) {
  for (const box of document.querySelectorAll("input[data-group]")) box.checked = !kept.hidden.includes(box.dataset.group);
  document.getElementById("seeds")?.setAttribute("aria-pressed", String(kept.seeds));
  document.querySelectorAll("details").forEach((part, k) => { part.open = kept.open.includes(k); });
}

function keep() {
  const open = Array.from(document.querySelectorAll("details"), (part, k) => (part.open ? k : -1));
  const seeds = document.getElementById("seeds")?.getAttribute("aria-pressed") === "true";
  sessionStorage.setItem("kept", JSON.stringify({ hidden: hidden(), seeds, open: open.filter((k) => k >= 0) }));
}

function hidden() {
  const off = document.querySelectorAll("input[data-group]:not(:checked)");
  return Array.from(off, (box) => box.dataset.group);
}

function apply(view) {
  const seeds = document.getElementById("seeds");
  view.signal("hidden", hidden());
  view.signal("seeds", seeds !== null && seeds.getAttribute("aria-pressed") === "true");
  return view.runAsync();
}

for (const place of document.querySelectorAll("[data-chart]")) {
  window.vegaEmbed(place, specs[place.dataset.chart], options).then(
    (result) => { views.push(result.view); place.dataset.drawn = ""; return apply(result.view); },
    (error) => { place.textContent = `This chart could not be drawn: ${error.message}`; throw error; },
  );
}

for (const box of document.querySelectorAll("input[data-group]")) {
  box.addEventListener("change", () => views.forEach(apply));
}

document.getElementById("seeds")?.addEventListener("click", (event) => {
  const button = event.currentTarget;
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  views.forEach(apply);
});

// A saved chart stands alone: it has a legend, a fixed size, and black text on white.
function standalone(part) {
  if (Array.isArray(part)) return part.map(standalone);
  if (part === "currentColor") return "black";
  if (part === null || typeof part !== "object") return part;
  const entries = Object.entries(part).map(([key, value]) => [key, key === "legend" ? { title: null } : standalone(value)]);
  return Object.fromEntries(entries);
}

async function save(event) {
  const { save: kind, of: key } = event.currentTarget.dataset;
  const spec = { ...standalone(specs[key]), width: 640, background: "white" };
  const { view, finalize } = await window.vegaEmbed(document.createElement("div"), spec, options);
  await apply(view);
  const link = document.createElement("a");
  link.href = await view.toImageURL(kind, kind === "png" ? 2 : 1);
  link.download = `${key}.${kind}`;
  link.click();
  finalize();
}

for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", save);

const pause = document.getElementById("pause");
pause?.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") !== "true"));
});

async function follow() {
  const playing = Array.from(document.querySelectorAll("video")).some((video) => !video.paused);
  if (document.hidden || playing || pause.getAttribute("aria-pressed") === "true") return;
  const live = document.getElementById("live");
  try {
    const answer = await fetch("version");
    if (!answer.ok) throw new Error(answer.statusText);
    if (await answer.text() !== version) { keep(); location.reload(); }
    live.textContent = "This page follows the runs.";
  } catch {
    live.textContent = "The server does not answer; this page shows the last state.";
  }
}
if (version) setInterval(follow, 5000);
