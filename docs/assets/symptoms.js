// Finds rules by a symptom: the search of `qlora-doctor explain --symptom` (engine/search.py), over the same words.
(() => {
  "use strict";
  const field = document.getElementById("symptom");
  const list = document.getElementById("matches");
  const said = document.getElementById("said");
  const data = JSON.parse(document.getElementById("symptom-index").textContent);
  const stop = new Set(data.stop);
  const frame = new Set(data.frame);

  const stem = (word) => {
    const ending = data.endings.find((each) => word.endsWith(each) && word.length - each.length >= 3);
    return ending ? word.slice(0, -ending.length) : word;
  };

  const tokens = (text) => {
    const words = [];
    for (const [word] of text.replace(/([a-z])(?=[A-Z])/g, "$1_").toLowerCase().matchAll(/[a-z0-9_]+(?:-bit)?/g)) {
      const parts = word.split("_").filter(Boolean);
      words.push(...(parts.length > 1 ? [word, ...parts] : parts));
    }
    const same = words.flatMap((word) => (Object.hasOwn(data.same, word) ? data.same[word] : word).split(/\s+/));
    return same.filter((word) => !stop.has(word)).map(stem);
  };

  const nearest = (wanted, rule) => {
    let best = [-1, ""];
    for (const symptom of rule.symptoms) {
      const own = new Set(tokens(symptom));
      const shared = [...wanted].filter((word) => own.has(word)).length;
      const all = new Set([...wanted, ...own]).size || 1;
      const covered = (3 * shared) / all;
      if (covered > best[0] || (covered === best[0] && symptom > best[1])) best = [covered, symptom];
    }
    return best;
  };

  const search = (text) => {
    const words = [...new Set(tokens(text))];
    const scores = new Float64Array(data.rules.length);
    const held = new Float64Array(data.rules.length);
    let whole = 0;
    const mean = data.lengths.reduce((sum, each) => sum + each, 0) / Math.max(data.lengths.length, 1) || 1;
    for (const word of words) {
      const holding = Object.hasOwn(data.words, word) ? data.words[word] : [];
      const rarity = Math.log(1 + (data.rules.length - holding.length + 0.5) / (holding.length + 0.5));
      const weight = rarity * (frame.has(word) ? data.frame_weight : 1);
      whole += weight;
      for (const [index, count] of holding) {
        const long = 1 - data.b + (data.b * data.lengths[index]) / mean;
        held[index] += weight;
        scores[index] += (weight * count * (data.k1 + 1)) / (count + data.k1 * long);
      }
    }
    const wanted = new Set(words);
    const found = data.rules
      .map((rule, index) => ({ rule, score: scores[index], held: held[index] }))
      .filter((match) => match.held > data.least_covered * whole)
      .map((match) => {
        const [closeness, symptom] = nearest(wanted, match.rule);
        return { rule: match.rule, score: match.score + closeness, symptom };
      })
      .sort((one, other) => other.score - one.score || (one.rule.id < other.rule.id ? -1 : 1));
    return found.slice(0, 8).filter((match) => match.score > 0.25 * found[0].score);
  };

  const show = () => {
    list.replaceChildren();
    const text = field.value.trim();
    const found = text ? search(text) : [];
    for (const match of found) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `../rules/${match.rule.id}/`;
      link.textContent = `${match.rule.id} ${match.rule.name}`;
      const title = document.createElement("span");
      title.textContent = ` passes where: ${match.rule.title}`;
      const other = document.createElement("small");
      other.textContent = `as others put it: ${match.symptom}`;
      item.append(link, title, other);
      list.append(item);
    }
    said.textContent = !text ? "" : found.length ? `${found.length} rules, the likeliest first` : "No rule's page speaks of that.";
  };

  field.addEventListener("input", show);
  field.value = new URLSearchParams(location.search).get("q") || "";
  show();
})();
