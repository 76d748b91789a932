// Does it fit? The replay of qlora_doctor/memory (folded.py, scaling.py, allocator.py, scratch.py, replay.py), over the
// same traces: a test holds every figure against the command's.
const qloraDoctor = (() => {
  "use strict";

  // --- A tape of any batch, length and rank (folded.py) ---
  const TILE = 4096, PAGED_FROM = 100000, BLOCK = 256, MIN_8BIT = 4096, CHUNK = 65536, SHARED = 1024;
  const up = (value, step) => Math.ceil(value / step) * step;
  const FORMS = [
    () => 1, (b, s) => b * s, (b, s) => s, (b) => b, (b, s) => s * s, (b, s) => b * s * s, (b, s) => b * (s - 1),
    (b, s) => b * (s + 1), (b, s) => s - 1, (b, s) => b * s - 1, (b, s) => b * s + Math.floor((b * s) / 10),
    (b, s) => b * s * up(s, 8), (b, s) => b * s * up(s, 16), (b, s) => s * up(s, 16), (b, s) => b * up(s, 128),
    (b, s) => b * up(s, 32), (b, s) => Math.min(b * (s - 1), TILE),
  ];
  const statesOf = (count) => {
    const small = count < MIN_8BIT;
    const out = count >= PAGED_FROM ? [] : [count * (small ? 4 : 1), count * (small ? 4 : 1)];
    return small ? out : [...out, Math.ceil(count / BLOCK) * 4, Math.ceil(count / BLOCK) * 4];
  };

  const unfold = ([, repeats, layers, , course, blocks]) => {
    const out = [];
    let done = 0;
    for (const [start, end, place] of layers) {
      for (; done < place; done++) out.push(course[done]);
      for (let n = 0; n < repeats; n++) for (let at = start; at < end; at++) out.push(blocks[at]);
    }
    for (; done < course.length; done++) out.push(course[done]);
    return out;
  };

  const tapeOf = (folded, batch, sequence, rank, accumulation) => {
    const [, repeats, , tokens] = folded;
    const products = FORMS.map((form) => form(batch, sequence));
    const course = unfold(folded);
    const tape = { events: [], sizes: [], categories: [], kernels: [], phases: [], emptied: [], spaces: [], start: 0 };
    const places = [], went = [], begun = [0];
    let waiting = null, first = 0, shared = [SHARED, SHARED], most = 0, states = 0;
    for (const each of course) {
      if (tokens[each][0] !== "state") continue;
      states++;
      most = Math.max(most, Math.ceil((tokens[each][1] * rank) / CHUNK));
    }
    const alloc = (category, size) => {
      tape.events.push(tape.sizes.length * 4);
      tape.sizes.push(size);
      tape.categories.push(category);
      return tape.sizes.length - 1;
    };
    for (const each of course) {
      const token = tokens[each];
      switch (token[0]) {
        case "near":
          tape.events.push(places[places.length - token[1] - token[2] * repeats] * 4 + 1);
          break;
        case "far": {
          const last = went[token[1]] ?? begun[token[1]];
          went[token[1]] = last + token[2] + token[3] * repeats;
          tape.events.push(places[went[token[1]]] * 4 + 1);
          break;
        }
        case "alloc": {
          const [, category, , workspace, form, power, factor, slope] = token;
          if (workspace) tape.spaces.push(tape.sizes.length);
          places.push(alloc(category, products[form] * (factor + slope * repeats) * (power ? rank : 1)));
          break;
        }
        case "open":
          tape.events.push(tape.kernels.length * 4 + 2);
          tape.kernels.push([token[1], token[2].map(([form, power, n]) => products[form] * n * (power ? rank : 1))]);
          break;
        case "close":
          tape.events.push(3);
          break;
        case "state": {
          const count = token[1] * rank;
          if (count >= MIN_8BIT) { for (const size of shared) alloc("optimizer", size); shared = []; }
          for (const size of statesOf(count)) alloc("optimizer", size);
          places.push(null, null);
          break;
        }
        case "clip":
          places.push(alloc("activations", 4 * states * most));
          break;
        case "phase":
          if (token[1] === "forward" && waiting === null) {
            const half = (tape.sizes.length - first) / 2;
            waiting = Array.from({ length: accumulation - 2 }, () =>
              Array.from({ length: half }, (_, at) => alloc(tape.categories[first + at], tape.sizes[first + at])));
          } else if (token[1] === "end") {
            for (const group of waiting.reverse()) for (const place of group) tape.events.push(place * 4 + 1);
          }
          tape.phases.push([tape.events.length, token[1]]);
          begun.push(places.length);
          break;
        case "start":
          tape.start = tape.events.length;
          first = tape.sizes.length;
          break;
        default:
          tape.emptied.push(tape.events.length);
      }
    }
    return tape;
  };

  // --- PyTorch's caching allocator (allocator.py) ---
  const MIB = 1048576;
  const rounded = (size) => Math.max(512, up(size, 512));
  const before = (one, size, address) => one.size < size || (one.size === size && one.address < address);

  class Allocator {
    constructor() {
      this.pools = [[], []];
      this.allocated = this.reserved = this.peakAllocated = this.peakReserved = 0;
      this.next = 2 ** 40;
    }
    place(pool, size, address) {
      let low = 0, high = pool.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (before(pool[middle], size, address)) low = middle + 1; else high = middle;
      }
      return low;
    }
    insert(block) {
      block.free = true;
      const pool = this.pools[block.small ? 1 : 0];
      pool.splice(this.place(pool, block.size, block.address), 0, block);
    }
    remove(block) {
      block.free = false;
      const pool = this.pools[block.small ? 1 : 0];
      pool.splice(this.place(pool, block.size, block.address), 1);
    }
    malloc(size) {
      const small = size <= MIB;
      const pool = this.pools[small ? 1 : 0];
      const place = this.place(pool, size, -1);
      let block;
      if (place < pool.length) {
        block = pool[place];
        pool.splice(place, 1);
        block.free = false;
      } else {
        const bytes = small ? 2 * MIB : size < 10 * MIB ? 20 * MIB : up(size, 2 * MIB);
        block = { address: this.next, size: bytes, small, previous: null, next: null, free: false };
        this.next += bytes;
        this.reserved += bytes;
        this.peakReserved = Math.max(this.peakReserved, this.reserved);
      }
      const remaining = block.size - size;
      if (small ? remaining >= 512 : remaining > MIB) {
        const rest = { address: block.address + size, size: remaining, small, previous: block, next: block.next, free: true };
        if (block.next) block.next.previous = rest;
        block.next = rest;
        block.size = size;
        this.insert(rest);
      }
      this.allocated += block.size;
      this.peakAllocated = Math.max(this.peakAllocated, this.allocated);
      return block;
    }
    free(block) {
      this.allocated -= block.size;
      const { previous, next } = block;
      if (previous && previous.free) {
        this.remove(previous);
        previous.size += block.size;
        previous.next = next;
        if (next) next.previous = previous;
        block = previous;
      }
      if (next && next.free) {
        this.remove(next);
        block.size += next.size;
        block.next = next.next;
        if (next.next) next.next.previous = block;
      }
      this.insert(block);
    }
    empty() {
      for (const pool of this.pools) {
        for (const block of [...pool]) {
          if (block.previous || block.next) continue;
          this.remove(block);
          this.reserved -= block.size;
        }
      }
    }
  }

  // --- What kernels take for themselves (scratch.py) ---
  const SCRATCH = {
    gemm_4bit: (card, tokens, n, k, blocksize, nested, itemsize, cast) => {
      const flips = tokens <= 1536 && k % blocksize === 0 ? card.flips(itemsize, n, k) : null;
      if (flips && flips.filter((each) => each <= tokens).length % 2 === 0) return [];
      const absmax = nested ? [4 * Math.ceil((n * k) / blocksize), 4 * Math.ceil((n * k) / blocksize)] : [];
      return [...absmax, n * k * itemsize, ...(cast ? [2 * n * k, 2 * tokens * k] : [])];
    },
    safe_softmax: (card, scores, rows) => [scores, rows, 4],
    softmax_backward: (card, size) => [size],
    cudnn_attention: () => [256],
    cudnn_attention_backward: (card, b, h, hk, q, k, d, size) =>
      [4 * b * h * q * d + 4 * b * h * q + 256 + (hk !== h ? 2 * b * h * k * d * size : 0)],
    flash_attention_backward: (card, b, h, hk, q, k, d, size) => {
      const rows = up(q, 128), head = d <= 128 ? up(d, 32) : up(d, 64), copy = b * k * h * d * size;
      return [4 * b * h * rows, 4 * b * rows * h * head, ...(hk !== h ? [copy, copy] : [])];
    },
    efficient_attention_backward: (card, b, h, hk, q, k, d, size) => {
      const rows = Math.ceil(q / 64), head = up(d, 64);
      const keys = size < 4 && d > 128 ? 2 * b * h * 64 * head * 4 : 0;
      return [4 * b * h * q, b * h * rows * (64 * head * 4 + 16) + keys];
    },
    embedding_backward: (card, tokens, features) => tokens <= 3072 ? []
      : [8 * tokens, 8 * tokens, 8 * tokens, 8 * tokens, 4 * features * (tokens + Math.floor(tokens / 10))],
  };
  const SCRATCH_PART = { gemm_4bit: "dequantized_weights", embedding_backward: "gradients" };

  // --- The run (replay.py): the load and three steps ---
  const replay = (tape, card) => {
    const allocator = new Allocator();
    const sizes = tape.sizes.slice();
    for (const index of tape.spaces) sizes[index] = card.workspace;
    const scratch = tape.kernels.map(([rule, shape]) => SCRATCH[rule](card, ...shape));
    const alive = new Set();
    for (let at = tape.start; at < tape.events.length; at++) {
      const kind = tape.events[at] & 3, index = tape.events[at] >> 2;
      if (kind === 0) alive.add(index); else if (kind === 1) alive.delete(index);
    }
    const blocks = new Map(), parts = {}, peaks = {};
    let best = 0, breakdown = {}, phase = "load", opened = [];
    const play = (start, end, step) => {
      for (let at = start; at < end; at++) {
        const event = tape.events[at], kind = event & 3, index = event >> 2;
        if (kind === 0) {
          if (step && alive.has(index)) continue;
          blocks.set(index, allocator.malloc(rounded(sizes[index])));
          parts[tape.categories[index]] = (parts[tape.categories[index]] || 0) + sizes[index];
        } else if (kind === 1) {
          const block = blocks.get(index);
          if (!block) continue;
          allocator.free(block);
          blocks.delete(index);
          parts[tape.categories[index]] -= sizes[index];
        } else if (kind === 2) {
          opened = scratch[index].map((size) => allocator.malloc(rounded(size)));
        } else {
          for (const block of opened.reverse()) allocator.free(block);
          opened = [];
        }
        if (allocator.allocated > best) {
          best = allocator.allocated;
          breakdown = { ...parts };
          if (kind === 2) {
            const part = SCRATCH_PART[tape.kernels[index][0]] || "workspaces";
            breakdown[part] = (breakdown[part] || 0) + scratch[index].reduce((sum, size) => sum + size, 0);
          }
        }
      }
    };
    let done = 0;
    for (const place of tape.emptied) { play(done, place, 0); allocator.empty(); done = place; }
    play(done, tape.start, 0);
    for (let step = 0; step < 3; step++) play(tape.start, tape.events.length, step);
    breakdown.fragmentation = best - Object.values(breakdown).reduce((sum, size) => sum + size, 0);
    return { allocated: allocator.peakAllocated, reserved: allocator.peakReserved, breakdown };
  };

  // --- Files ---
  const files = new Map();
  const fetched = (folder, name, packed) => {
    const address = folder + name;
    if (!files.has(address)) {
      files.set(address, (async () => {
        const answer = await fetch(address);
        if (!answer.ok) throw new Error(`${name} is not there`);
        if (!packed) return answer.json();
        return new Response(answer.body.pipeThrough(new DecompressionStream("deflate"))).json();
      })());
    }
    return files.get(address);
  };

  const cardOf = (card, gemm) => {
    const kind = gemm.kinds.findIndex((each) => each.join() === [...card.capability, card.multiprocessors].join());
    return {
      workspace: card.workspace,
      flips: (itemsize, n, k) => {
        if (kind < 0) return null;
        const shape = gemm.shapes.findIndex((each) => each[0] === n && each[1] === k);
        return shape < 0 ? null : gemm.flips[itemsize === 4 ? "float32" : "bfloat16"][kind][shape];
      },
    };
  };

  // What `qlora-doctor plan` says of one cell.
  const predict = async (data, folder, asked) => {
    const model = data.models[asked.model], card = data.cards[asked.card];
    const name = `${model.file}.${asked.trainer}.${asked.targets}.${asked.checkpointing ? "checkpointed" : "whole"}.traces`;
    const [document, index] = await Promise.all([fetched(folder, name, true), fetched(folder, "index.json", false)]);
    const wide = document.outline.head > 192;
    const key = `${card.precision} ${wide ? card.wide : card.kind} ${asked.batch === 1 ? "one" : "more"}`;
    const folded = (document.tapes[key] || []).find((each) => asked.sequence <= each[0]);
    if (!folded) return null;
    const tape = tapeOf(folded, asked.batch, asked.sequence, asked.rank, asked.accumulation ?? 16);
    return { ...replay(tape, cardOf(card, index.gemm)), capacity: card.capacity };
  };

  return { predict };
})();

(() => {
  "use strict";
  const form = document.getElementById("calculator-form");
  if (!form) return;
  const data = JSON.parse(document.getElementById("calculator-data").textContent);
  const folder = form.dataset.traces;
  const field = (name) => form.elements[name];
  const at = (name) => document.getElementById(`calculator-${name}`);
  const RANKS = data.ranks, LENGTHS = data.lengths;
  const GIB = 2 ** 30, LEFT = 150, WIDE = 240, TOP = 24, TALL = 330;
  const size = (bytes) => {
    const value = bytes / GIB;
    return value >= 99.95 ? `${value.toFixed(0)} GiB` : value >= 1 ? `${value.toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  };
  const grouped = (number) => number.toLocaleString("en");

  const asked = () => {
    const model = data.models[field("model").value];
    const lengths = LENGTHS.filter((each) => !model.limit || each <= model.limit);
    field("tokens").max = lengths.length - 1;
    return {
      model: Number(field("model").value), card: Number(field("card").value), trainer: field("trainer").value,
      targets: field("targets").value, checkpointing: field("checkpointing").checked, batch: Number(field("batch").value),
      sequence: lengths[Math.min(Number(field("tokens").value), lengths.length - 1)], rank: RANKS[Number(field("rank").value)],
    };
  };

  const command = (question) => {
    const words = ["qlora-doctor plan", `--model ${data.models[question.model].id}`, `--gpu "${data.cards[question.card].name}"`,
      `--r ${question.rank}`, `--batch ${question.batch}`, `--sequence ${question.sequence}`];
    if (question.trainer !== "transformers") words.push(`--set trainer=${question.trainer}`);
    if (question.targets === "qkvo") words.push("--set target_modules=q_proj,k_proj,v_proj,o_proj");
    if (!question.checkpointing) words.push("--set gradient_checkpointing=false");
    return words.join(" ");
  };

  // The card as a vessel: its parts from the bottom, the line it is full at, and what is above it.
  const draw = (found) => {
    const parts = [...data.parts.filter(([key]) => found.breakdown[key] > 0).map(([key, name]) => [key, name, found.breakdown[key]]),
      ["reserved", "Reserved around them", found.reserved - found.allocated]].filter(([, , bytes]) => bytes > 0);
    const full = Math.max(found.capacity, found.reserved) * 1.06;
    const y = (bytes) => TOP + TALL - (bytes / full) * TALL;
    const line = y(found.capacity);
    let below = 0;
    const bars = parts.map(([key, name, bytes]) => {
      const low = below, high = (below += bytes);
      return `<rect class="part-${key.replaceAll("_", "-")}" x="${LEFT}" width="${WIDE}" y="${y(high).toFixed(2)}" height="${Math.max(0, y(low) - y(high)).toFixed(2)}"><title>${name}: ${size(bytes)}</title></rect>`;
    });
    const over = found.reserved > found.capacity;
    at("picture").innerHTML = `<svg viewBox="0 0 540 400" role="img" aria-label="${over ? "Over" : "Within"} the card: ${size(found.reserved)} of ${size(found.capacity)}">
      <defs><pattern id="over" width="9" height="9" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="4" height="9" class="over"/></pattern></defs>
      <rect class="vessel" x="${LEFT - 7}" y="${line.toFixed(2)}" width="${WIDE + 14}" height="${(TOP + TALL - line + 7).toFixed(2)}" rx="10"/>
      ${bars.join("")}
      ${over ? `<rect fill="url(#over)" x="${LEFT}" width="${WIDE}" y="${y(found.reserved).toFixed(2)}" height="${(line - y(found.reserved)).toFixed(2)}"/>` : ""}
      <line class="full" x1="${LEFT - 24}" x2="${LEFT + WIDE + 24}" y1="${line.toFixed(2)}" y2="${line.toFixed(2)}"/>
      <text x="${LEFT - 30}" y="${(line + 5).toFixed(2)}" text-anchor="end">${size(found.capacity)}</text>
      <text class="strong" x="${LEFT + WIDE + 30}" y="${(Math.abs(y(found.reserved) - line) < 22 ? y(found.reserved) + (over ? -8 : 24) : y(found.reserved) + 5).toFixed(2)}">${size(found.reserved)}</text>
      <text class="name" x="${LEFT + WIDE / 2}" y="386" text-anchor="middle">${data.cards[field("card").value].name}</text></svg>`;
    at("parts").innerHTML = parts.reverse().map(([key, name, bytes]) =>
      `<li><i class="part-${key.replaceAll("_", "-")}"></i>${name}<b>${size(bytes)}</b></li>`).join("");
  };

  let turn = 0;
  const pause = () => new Promise((resolve) => setTimeout(resolve, 0));

  // The longest samples that fit at this batch, by halves.
  const longest = async (question, mine) => {
    const model = data.models[question.model];
    let low = 0, high = Math.floor((model.limit ? Math.min(model.limit, 16384) : 16384) / 64) + 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      await pause();
      if (mine !== turn) return null;
      const found = await qloraDoctor.predict(data, folder, { ...question, sequence: middle * 64 });
      if (found && found.reserved <= found.capacity) low = middle; else high = middle;
    }
    return low * 64;
  };

  const show = async () => {
    const mine = ++turn;
    const question = asked();
    at("batch").textContent = question.batch;
    at("length").textContent = grouped(question.sequence);
    at("rank").textContent = question.rank;
    field("tokens").setAttribute("aria-valuetext", `${question.sequence} tokens`);
    field("rank").setAttribute("aria-valuetext", String(question.rank));
    at("command").textContent = command(question);
    let found;
    try {
      found = await qloraDoctor.predict(data, folder, question);
    } catch (error) {
      at("answer").textContent = `The traces could not be read: ${error.message}.`;
      return;
    }
    if (mine !== turn) return;
    if (!found) {
      at("answer").textContent = "No traces for this card come with the package; the command can make them.";
      at("picture").replaceChildren();
      at("parts").replaceChildren();
      return;
    }
    const fits = found.reserved <= found.capacity;
    const barely = fits && found.reserved * (1 + data.margin) > found.capacity;
    const answer = `${barely ? "Barely" : fits ? "Yes" : "No"}: ${size(found.reserved)} of ${size(found.capacity)}.`;
    at("answer").textContent = answer;
    at("answer").className = barely ? "barely" : fits ? "yes" : "no";
    at("answer").dataset.reserved = found.reserved;
    draw(found);
    at("longest").textContent = "…";
    const tokens = await longest(question, mine);
    if (mine !== turn) return;
    at("longest").textContent = tokens ? `Batch ${question.batch} fits up to ${grouped(tokens)} tokens.`
      : `Batch ${question.batch} does not fit at any length.`;
  };

  let soon;
  form.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(show, 60); });
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
