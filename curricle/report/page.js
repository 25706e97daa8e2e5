/* Wakes a chart: when it is touched, hovered or focused, its still picture gives way to the same chart with tooltips.
   The bundle lies in the page as text and runs only then. Without this script the page loses nothing but tooltips. */
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const loadVega = () => {
    if (window.vegaEmbed) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("vega").textContent;
    document.head.append(script);
  };

  const wake = async (chart) => {
    if (chart.dataset.state) return;
    chart.dataset.state = "waking";
    loadVega();
    const live = chart.querySelector(".live");
    const spec = JSON.parse(chart.querySelector("script").textContent);
    await window.vegaEmbed(live, spec, {
      renderer: "svg", actions: false, ast: true, tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    chart.dataset.state = "awake";
  };

  for (const chart of document.querySelectorAll(".chart"))
    for (const event of ["pointerenter", "pointerdown", "focus"])
      chart.addEventListener(event, () => wake(chart));
})();
