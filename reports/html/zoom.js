"use strict";
// Tensors by part, place, module: each level a row of boxes as wide as their bytes; a click makes one as wide as all.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const figure = document.querySelector(".zoom");
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
})();
