// Draws every figure of the page, and again when the colour scheme changes. Colours in the figures are names of CSS
// custom properties, so that the style sheet alone knows what they look like.
"use strict";
(() => {
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

  function figureOf(text) {
    const style = getComputedStyle(document.documentElement);
    return JSON.parse(text, (key, value) =>
      typeof value === "string" && value.startsWith("--") ? style.getPropertyValue(value).trim() : value);
  }

  function draw() {
    for (const place of document.querySelectorAll(".plot")) {
      const figure = figureOf(place.nextElementSibling.textContent);
      Plotly.react(place, figure.data, figure.layout, config);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
