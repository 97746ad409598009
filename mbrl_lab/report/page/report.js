"use strict";
// Draws the charts, and applies the switches for groups and seeds to all of them.
const specs = JSON.parse(document.getElementById("specs").textContent);
// `ast`: expressions are interpreted, not compiled, so that the page's security policy can forbid eval.
// `logLevel` 1, errors only: a layer whose rows are all switched off is no mistake.
const options = { mode: "vega-lite", renderer: "svg", ast: true, actions: false, logLevel: 1 };
const views = [];

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
