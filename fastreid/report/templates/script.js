"use strict";
(() => {
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const noMatch = document.getElementById("no-match");
  const cards = [...document.querySelectorAll(".card")];
  const total = cards.length;
  const off = (element, hidden) => element.classList.toggle("off", hidden);

  /** What the filters are set to; a page without a filter behaves as if it showed everything. */
  function choices() {
    const value = (name, otherwise) => (form.elements[name] ? form.elements[name].value : otherwise);
    const boxes = [...form.querySelectorAll("input[name=run]")];
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    return { set: value("set", "all"), first: value("first", "all"), order: value("order", "worst"), hidden };
  }

  /** Whether a card stays, by whether the first image of its visible lists is right. */
  function matches(lists, first) {
    const right = lists.filter((list) => list.dataset.first === "right").length;
    switch (first) {
      case "right": return right === lists.length;
      case "wrong": return right < lists.length;
      case "differ": return right > 0 && right < lists.length;
      default: return true;
    }
  }

  function averagePrecision(card) {
    const shown = [...card.querySelectorAll(".list:not(.off)")].map((list) => Number(list.dataset.ap));
    return shown.length ? Math.min(...shown) : 0;
  }

  function sortCards(order) {
    const sign = order === "best" ? -1 : 1;
    for (const box of document.querySelectorAll(".cards")) {
      const keyed = [...box.children].map((card) => [averagePrecision(card), card]);
      keyed.sort((a, b) => sign * (a[0] - b[0]));
      box.append(...keyed.map(([, card]) => card));
    }
  }

  function apply() {
    const { set, first, order, hidden } = choices();
    for (const element of document.querySelectorAll("main [data-run]")) off(element, hidden.has(element.dataset.run));
    for (const element of document.querySelectorAll("main [data-set]")) off(element, set !== "all" && element.dataset.set !== set);
    let shown = 0;
    for (const card of cards) {
      const lists = [...card.querySelectorAll(".list:not(.off)")];
      const stays = !card.classList.contains("off") && lists.length > 0 && matches(lists, first);
      off(card, !stays);
      shown += stays;
    }
    for (const section of document.querySelectorAll(".query-set")) off(section, !section.querySelector(".card:not(.off)"));
    sortCards(order);
    if (count) count.textContent = `${shown} of ${total} queries`;
    if (noMatch) noMatch.hidden = shown > 0;
  }

  // The values of a chart's lines at the pointer, in a box beside it.
  const readout = document.createElement("div");
  readout.id = "readout";
  readout.hidden = true;
  document.body.append(readout);

  /** The point of a line that is drawn nearest to a place: [what stands on the x axis, the value], as text. */
  function pointAt(series, place) {
    series.places ??= [...series.querySelector("path").getAttribute("d").matchAll(/[ML]([\d.]+) /g)].map((found) => Number(found[1]));
    series.points ??= series.dataset.points.split(" ").map((point) => point.split(","));
    const distances = series.places.map((x) => Math.abs(x - place));
    return series.points[distances.indexOf(Math.min(...distances))];
  }

  function line(words, run) {
    const element = document.createElement("div");
    element.textContent = words;
    if (run !== undefined) element.dataset.run = run;
    return element;
  }

  function showReadout(event, svg) {
    const lines = [...svg.querySelectorAll(".series:not(.off)")];
    if (!lines.length) return;
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const head = line(`${svg.dataset.unit} ${pointAt(lines[0], place)[0]}`);
    readout.replaceChildren(head, ...lines.map((series) => line(`${pointAt(series, place)[1]} ${series.dataset.name}`, series.dataset.run)));
    readout.hidden = false;
    const space = document.documentElement.clientWidth - readout.offsetWidth - 8;
    readout.style.left = `${Math.max(8, Math.min(event.clientX + 14, space))}px`;
    readout.style.top = `${event.clientY + 14}px`;
  }

  for (const svg of document.querySelectorAll("svg[data-unit]")) {
    svg.addEventListener("pointermove", (event) => showReadout(event, svg));
    svg.addEventListener("pointerleave", () => { readout.hidden = true; });
  }

  document.querySelector("select[name=theme]").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });
  form.addEventListener("change", apply);
  // Where the filters stay in sight, a link's target must not end up behind them.
  new ResizeObserver(() => {
    const covered = getComputedStyle(form).position === "sticky" ? form.offsetHeight : 0;
    document.documentElement.style.scrollPaddingTop = `${covered}px`;
  }).observe(form);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
