"use strict";
// All of this is comfort: without it every finding, number and table is there and <details> open by themselves.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");
  all("[data-js]").forEach((element) => { element.hidden = false; });

  const findings = all(".finding");
  const chips = all(".chip");
  const told = document.getElementById("shown");

  const search = document.getElementById("search");
  const chosen = new Set();
  const kinds = ["severity:", "stage:"];

  // A finding is shown where it is of one of the chosen severities, of one of the chosen stages, and has every word.
  function filter() {
    const words = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    let shown = 0;
    for (const finding of findings) {
      const tags = finding.dataset.tags.split(" ");
      const wanted = kinds.every((kind) => {
        const some = [...chosen].filter((tag) => tag.startsWith(kind));
        return some.length === 0 || some.some((tag) => tags.includes(tag));
      });
      const text = words.length && wanted ? finding.textContent.toLowerCase() : "";
      finding.hidden = !(wanted && words.every((word) => text.includes(word)));
      shown += finding.hidden ? 0 : 1;
    }
    const idle = chosen.size === 0 && words.length === 0;
    for (const chip of chips) chip.setAttribute("aria-pressed", String("all" in chip.dataset ? idle : chosen.has(chip.dataset.filter)));
    if (told) told.textContent = idle ? "" : `${shown} of ${findings.length} findings shown`;
  }

  function showAll() {
    chosen.clear();
    if (search) search.value = "";
    filter();
  }

  chips.forEach((chip) => chip.addEventListener("click", () => {
    if ("all" in chip.dataset) return showAll();
    if (!chosen.delete(chip.dataset.filter)) chosen.add(chip.dataset.filter);
    filter();
  }));
  if (search) {
    search.addEventListener("input", filter);
    addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, textarea, [contenteditable]");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        search.focus();
      } else if (event.key === "Escape" && event.target === search) showAll();
    });
  }

  all("[data-open]").forEach((button) => button.addEventListener("click", () => {
    findings.forEach((finding) => { if (!finding.hidden) finding.open = button.dataset.open === "true"; });
  }));

  // A deep link opens what it points at, also where a filter has hidden it.
  function follow() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden) showAll();
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", follow);
  follow();

  // Which section is being read.
  const places = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  const watcher = new IntersectionObserver((seen) => {
    for (const entry of seen) inView[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = [...places.keys()].find((id) => inView.has(id));
    places.forEach((link, id) => id === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  }, { rootMargin: "-10% 0px -60% 0px" });
  places.forEach((_, id) => { const section = document.getElementById(id); if (section) watcher.observe(section); });

  // The diff and the command as they are; the clipboard needs a secure context, a selection works everywhere.
  async function copy(button) {
    const source = button.parentElement.querySelector("pre");
    const text = source.textContent;
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }
  all("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button)));

  all("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const text = document.getElementById("report-data").textContent;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "qlora-doctor.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));

  // What a cell of a picture stands for, read from the table that follows it.
  all(".strip[data-table]").forEach((strip) => {
    const picture = strip.querySelector(".cells");
    const readout = strip.querySelector(".readout");
    const idle = readout.textContent;
    const rows = new Map(all("tbody tr", document.getElementById(strip.dataset.table)).map((row) => [row.cells[0].textContent, row]));
    const names = all(".strip-rows li", strip).map((item) => item.textContent);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const size = picture.viewBox.baseVal;
      const layer = Math.floor((event.clientX - box.left) / box.width * size.width);
      const index = Math.min(names.length - 1, Math.floor((event.clientY - box.top) / box.height * size.height));
      const row = rows.get(String(layer));
      readout.textContent = row ? `Layer ${layer}, ${names[index]}: ${row.cells[index + 1].textContent}` : `Layer ${layer}: not looked at`;
    });
    picture.addEventListener("pointerleave", () => { readout.textContent = idle; });
  });

  // What the curve of memory says under the pointer: the points are those of the path, in a space of 1000 × 1000.
  all(".timeline").forEach((figure) => {
    const picture = figure.querySelector("svg");
    const readout = figure.querySelector(".readout");
    const idle = readout.textContent;
    const points = figure.querySelector(".curve").getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number));
    const bands = all(".ribbon", figure).map((band) => [parseFloat(band.getAttribute("x")), band.getAttribute("class").replace(/.*ph-/, "")]);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * 1000;
      const [x, y] = points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
      const phase = bands.filter(([start]) => start * 10 <= x).pop();
      const size = (1000 - y) / 1000 * Number(figure.dataset.top) / 2 ** 30;
      readout.textContent = `${phase ? phase[1] : ""}: ${size.toPrecision(3)} GiB`;
    });
    picture.addEventListener("pointerleave", () => { readout.textContent = idle; });
  });

  // One row of the data at a time; the slider takes the arrow keys.
  all("[data-rows]").forEach((box) => {
    const rows = all(".row", box);
    const pick = box.querySelector("input");
    const told = box.querySelector("output");
    if (rows.length < 2) { pick.closest(".pick").hidden = true; return; }
    const show = () => {
      rows.forEach((row, index) => { row.hidden = index !== Number(pick.value) - 1; });
      told.textContent = `${pick.value} of ${rows.length}: ${rows[Number(pick.value) - 1].getAttribute("aria-label")}`;
      pick.setAttribute("aria-valuetext", told.textContent);
    };
    pick.addEventListener("input", show);
    show();
  });

  // Paper cannot be clicked: findings unfold; lists of what passed, and tables of what is drawn, stay on the screen.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all(".finding:not([open]), .finding details:not([open])");
    closed.forEach((element) => { element.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((element) => { element.open = false; }));
})();
