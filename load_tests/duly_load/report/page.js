// Draws every figure of the page, and again when the colour scheme changes. Colours in the figures are names of CSS
// custom properties, so that the style sheet alone knows what they look like.
"use strict";
(() => {
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // none that shares the picture with a server
  };

  function figureOf(text) {
    const style = getComputedStyle(document.documentElement);
    return JSON.parse(text, (key, value) =>
      key.endsWith("color") && typeof value === "string" && value.startsWith("--")
        ? style.getPropertyValue(value).trim()
        : value);
  }

  function draw() {
    for (const place of document.querySelectorAll(".plot")) {
      const figure = figureOf(place.nextElementSibling.textContent);
      if (place.clientWidth < 640) figure.layout.height += 80; // for the lines that the legend wraps to
      figure.layout.dragmode = touch ? false : "zoom"; // a finger on a picture scrolls the page
      Plotly.react(place, figure.data, figure.layout, config);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
