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

  // Tensors by part, place, module: each level a row of boxes as wide as their bytes; a click makes one as wide as all.
  all(".zoom").forEach((figure) => {
    const [phases, path, levels, readout] = ["phases", "path", "rows"].map((name) => figure.querySelector(`.zoom-${name}`)).concat(figure.querySelector(".readout"));
    const roots = new Map();
    const child = (node, name, key) => {
      if (!node.inner.has(name)) node.inner.set(name, { name, key, bytes: 0, count: 0, inner: new Map(), above: node });
      return node.inner.get(name);
    };
    for (const row of all("tbody tr", document.getElementById(figure.dataset.table))) {
      const [phase, part, module, tensor] = [...row.cells].map((cell) => cell.textContent);
      const layer = /[^.]+\.\*(\.[^.]+)?/.exec(module); // layers.*.mlp
      const names = [part, layer ? layer[0] : module.replace(/^model\./, ""), module, tensor];
      if (!roots.has(phase)) roots.set(phase, { name: phase, bytes: 0, count: 0, inner: new Map() });
      let node = roots.get(phase);
      for (const name of [null, ...names]) {
        if (name !== null) node = child(node, name, row.dataset.key);
        node.bytes += Number(row.dataset.bytes);
        node.count += Number(row.cells[4].textContent.replace(/\D/g, ""));
      }
    }
    const size = (bytes) => bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toPrecision(3)} MiB` : `${(bytes / 2 ** 30).toPrecision(3)} GiB`;
    const told = (node) => `${node.name}: ${size(node.bytes)}${node.count > 1 ? ` in ${node.count} tensors` : ""}`;
    const button = (text, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.addEventListener("click", act);
      return made;
    };
    const depthOf = (node) => node.above ? 1 + depthOf(node.above) : 0;
    function zoom(node) {
      const trail = [];
      for (let at = node; at; at = at.above) trail.unshift(at);
      path.replaceChildren(...trail.map((at) => { const made = button(told(at), () => zoom(at)); made.disabled = at === node; return made; }));
      const depth = depthOf(node);
      const rows = [];
      let level = [[node, 0, 100]];
      for (let row = depth; row < 4 && level.length; row += 1) {
        const next = [];
        for (const [parent, left, width] of level) {
          let x = left;
          for (const inner of [...parent.inner.values()].sort((a, b) => b.bytes - a.bytes)) {
            const wide = inner.bytes / parent.bytes * width;
            next.push([inner, x, wide]);
            x += wide;
          }
        }
        const line = document.createElement("div");
        for (const [inner, left, width] of next) {
          if (width < .2) continue;
          const box = button(width > 3 ? inner.name.split(".*.").pop() : "", () => inner.inner.size ? zoom(inner) : (readout.textContent = told(inner)));
          box.style.left = `${left}%`;
          box.style.width = `${width}%`;
          box.style.setProperty("--part", `var(--p-${inner.key})`);
          box.title = told(inner);
          box.setAttribute("aria-label", told(inner));
          if (width < 1) box.tabIndex = -1;
          line.append(box);
        }
        rows.push(line);
        level = next;
      }
      levels.replaceChildren(...rows);
      for (const each of phases.children) each.setAttribute("aria-pressed", String(each.dataset.phase === trail[0].name));
      readout.textContent = "Point at a box to read it.";
    }
    levels.addEventListener("pointerover", (event) => { if (event.target.title) readout.textContent = event.target.title; });
    levels.addEventListener("focusin", (event) => { readout.textContent = event.target.title; });
    for (const root of roots.values()) {
      const made = button(`${root.name} ${size(root.bytes)}`, () => zoom(root));
      made.className = "chip";
      made.dataset.phase = root.name;
      phases.append(made);
    }
    zoom([...roots.values()].reduce((best, root) => root.bytes > best.bytes ? root : best));
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
    addEventListener("beforeprint", () => rows.forEach((row) => { row.hidden = false; }));
    addEventListener("afterprint", show);
    show();
  });

  // Paper cannot be clicked.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((element) => { element.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((element) => { element.open = false; }));
})();
