/* Wakes a chart: when it is touched, hovered or focused, its still picture gives way to the same chart with tooltips.
   The bundle lies in the page as packed text, is unpacked and runs only then. It also marks tables that are wider than
   the page, so that they say so. Without this script the page loses nothing but tooltips and these words. */
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const unpacked = async () => {
    const packed = atob(document.getElementById("vega").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  let bundle;  // one promise for all charts
  const loadVega = () => {
    bundle ??= unpacked().then((text) => {
      const script = document.createElement("script");
      script.textContent = text;
      document.head.append(script);
    });
    return bundle;
  };

  const wake = async (chart) => {
    if (chart.dataset.state) return;
    chart.dataset.state = "waking";
    await loadVega();
    const live = chart.querySelector(".live");
    const spec = JSON.parse(chart.querySelector("script").textContent);
    await window.vegaEmbed(live, spec, {
      renderer: "svg", actions: false, ast: true, tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    chart.dataset.state = "awake";
  };

  const wider = new ResizeObserver((seen) => {
    for (const { target } of seen) {
      const box = target.closest(".wide");
      box.classList.toggle("more", box.scrollWidth > box.clientWidth + 1);
    }
  });
  for (const box of document.querySelectorAll(".wide"))
    for (const each of [box, ...box.querySelectorAll("table")]) wider.observe(each);

  for (const chart of document.querySelectorAll(".chart"))
    for (const event of ["pointerenter", "pointerdown", "focus"])
      chart.addEventListener(event, () => wake(chart));
})();
