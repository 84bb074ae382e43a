"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // Empty values stay last, whichever way the others are sorted; equal ones keep their order.
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    if (numbers.every(Number.isFinite)) return sign * (numbers[0] - numbers[1]);
    return sign * a.localeCompare(b);
  };

  for (const table of all("table.sortable")) {
    for (const button of all("thead button", table)) {
      button.addEventListener("click", () => {
        const heading = button.closest("th"), key = button.dataset.key;
        const opposite = { ascending: "descending", descending: "ascending" };
        const order = opposite[heading.getAttribute("aria-sort")] || button.dataset.first;
        all("thead th", table).forEach((one) => one.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const value = (row) => row.querySelector(`[data-${key}]`).dataset[key];
        for (const body of table.tBodies) {
          body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), sign)));
        }
      });
    }
  }

  const model = byId("model"), find = byId("find");
  if (model) {
    model.addEventListener("change", () => {
      all("#by-class tbody").forEach((body) => { body.hidden = body.dataset.model !== model.value; });
    });
    find.addEventListener("input", () => {
      const wanted = find.value.trim().toLowerCase();
      for (const row of all("#by-class tbody tr")) {
        row.hidden = !row.querySelector("th").dataset.name.toLowerCase().includes(wanted);
      }
    });
  }

  const gallery = byId("gallery");
  if (!gallery) return;
  const cards = all(".card", gallery);
  const order = byId("order"), chosen = byId("class"), count = byId("count");

  const sort = () => {
    const [key, sign] = order.value.split(":");
    gallery.append(...[...cards].sort((a, b) => compare(a.dataset[key], b.dataset[key], Number(sign))));
  };
  const filter = () => {
    for (const card of cards) {
      card.hidden = chosen.value !== "" && !JSON.parse(card.dataset.labels).includes(chosen.value);
    }
    count.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} clips`;
  };
  order.addEventListener("change", sort);
  chosen.addEventListener("change", filter);
  sort();
  filter();

  for (const button of all(".enlarge", gallery)) {
    button.addEventListener("click", () => {
      const large = button.closest(".card").classList.toggle("large");
      button.setAttribute("aria-pressed", String(large));
      button.textContent = large ? "Reduce" : "Enlarge";
    });
  }
  for (const name of ["veil", "outline"]) {
    const box = byId(name);
    const set = () => gallery.classList.toggle(`no-${name}`, !box.checked);
    box.addEventListener("change", set);
    set();
  }

  const frames = Number(gallery.dataset.frames), slider = byId("frame"), play = byId("play");
  let at = 0, timer = null;
  const draw = () => {
    gallery.style.setProperty("--at", frames > 1 ? `${(100 * at) / (frames - 1)}%` : "0%");
    for (const films of all("[data-places]", gallery)) {  // a box that moves
      for (const side of films.dataset.places.split("|")[at].split(";")) films.style.setProperty(...side.split(":"));
    }
    gallery.dataset.frame = at;
    slider.value = at;
  };
  const run = (on) => {
    clearInterval(timer);
    const pause = Math.max(150, (1000 * Number(gallery.dataset.seconds)) / frames);
    timer = on ? setInterval(() => { at = (at + 1) % frames; draw(); }, pause) : null;
    play.textContent = on ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(on));
  };
  play.addEventListener("click", () => run(timer === null));
  slider.addEventListener("input", () => { run(false); at = Number(slider.value); draw(); });
  draw();
  run(frames > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches);
})();
