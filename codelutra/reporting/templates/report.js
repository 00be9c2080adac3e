// All dev problems, filtered and sorted, and any two policies side by side. Data and models' answers only ever become text
// nodes, never markup. Without this script the page has examples instead.
"use strict";
(() => {
  const source = document.getElementById("answers"), explorer = document.getElementById("explorer");
  if (!source || !explorer) return;
  const { policies, chosen, texts, problems } = JSON.parse(source.textContent);
  const el = (name, attributes, ...inside) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  };
  const words = (s) => s.replaceAll("_", " ");
  const pill = (a) => el("span", { class: `pill ${a ? (a[0] === "correct" ? "good" : "bad") : ""}` }, a ? words(a[0]) : "not asked");

  // ---- what is shown: the state of the controls
  const choice = (label, options, value) => {
    const select = el("select", {}, ...options.map(([v, said]) => el("option", { value: v }, said)));
    select.value = value;
    select.addEventListener("change", () => list(true));
    controls.append(el("label", {}, label, select));
    return select;
  };
  const controls = el("div", { class: "controls" });
  const names = policies.map((name, i) => [String(i), name]);
  const show = choice("show", [["failed", "not solved"], ["solved", "solved"], ["gained", "gained"], ["lost", "lost"], ["flipped", "gained or lost"],
    ["same", "both fail"], ["all", "all problems"]], "failed");
  const after = choice("policy", names, String(chosen));
  const before = choice("beside", [["", "the reference"], ...names], chosen > 0 ? "0" : "");
  const statuses = [...new Set(problems.flatMap((p) => p[7].filter(Boolean).map((a) => a[0])))].sort();
  const status = choice("status", [["", "any"], ...statuses.map((s) => [s, words(s)])], "");
  const groups = new Map();
  for (const p of problems) groups.set(p[1], (groups.get(p[1]) || 0) + 1);
  const group = choice("group", [["", "any"], ...[...groups].sort().map(([name, n]) => [`=${name}`, `${name} (${n})`])], "");
  const order = choice("sort by", [["id", "id"], ["group", "group"], ["status", "status"], ["difficulty", "difficulty"], ["long", "longest program"]], "id");
  const search = el("input", { type: "search", placeholder: "question, id, program, error" });
  search.addEventListener("input", () => list(true));
  controls.append(el("label", { class: "search" }, "text", search));
  const said = el("p", { class: "facts", "aria-live": "polite" }), rows = el("div", { class: "rows" });
  const more = el("button", { type: "button" }, "show more");
  more.addEventListener("click", () => list(false));
  explorer.append(controls, said, rows, more);

  const right = (a) => a && a[0] === "correct";
  const answers = (p) => [before.value === "" ? null : p[7][before.value], p[7][after.value]];
  const kinds = {
    all: () => true, failed: (a, b) => b && !right(b), solved: (a, b) => right(b), gained: (a, b) => a && b && right(b) && !right(a),
    lost: (a, b) => a && b && right(a) && !right(b), same: (a, b) => a && b && !right(a) && !right(b),
    flipped: (a, b) => a && b && right(a) !== right(b),
  };
  const keys = {
    id: () => "", group: (p) => p[1], difficulty: (p) => p[2], status: (p) => (answers(p)[1] || [""])[0],
    long: (p) => 1e6 - (answers(p)[1] ? texts[answers(p)[1][1]].length : 0),
  };
  const wanted = (p) => {
    const [a, b] = answers(p);
    if (!kinds[show.value](a, b)) return false;
    if (status.value && !(b && b[0] === status.value)) return false;
    if (group.value && `=${p[1]}` !== group.value) return false;
    const sought = search.value.trim().toLowerCase();
    const read = () => [p[0], texts[p[3]], ...[a, b].flatMap((x) => (x ? [texts[x[1]], texts[x[3]]] : []))];
    return !sought || read().some((t) => t.toLowerCase().includes(sought));
  };
  let matching = [], shown = 0;
  function list(anew) {
    if (anew) {
      const key = keys[order.value];
      matching = problems.filter(wanted).map((p) => [key(p), p]);
      matching.sort((x, y) => (x[0] < y[0] ? -1 : x[0] > y[0] ? 1 : x[1][0] < y[1][0] ? -1 : 1));
      rows.replaceChildren();
      shown = 0;
    }
    const next = matching.slice(shown, shown + 30);
    shown += next.length;
    rows.append(...next.map(([, p]) => row(p)));
    const two = ["gained", "lost", "same", "flipped"].includes(show.value) && before.value === "";
    said.textContent = two ? "Choose a second policy under “beside”." : `${matching.length} of ${problems.length} dev problems`;
    more.hidden = shown >= matching.length;
  }

  // ---- one problem; its body is made when it is opened
  function row(p) {
    const [a, b] = answers(p), at = [before.value, after.value];
    const facts = [p[0], p[1], p[2]].filter(Boolean).join(" · ");
    const pills = a ? [pill(a), " → ", pill(b)] : [pill(b)];
    const made = el("details", {}, el("summary", {}, el("span", { class: "asked" }, texts[p[3]]), el("span", { class: "pills" }, ...pills),
      el("span", { class: "soft" }, facts)));
    made.addEventListener("toggle", () => { if (made.open && made.childElementCount === 1) made.append(body(p, a, b, at)); });
    return made;
  }
  function body(p, a, b, at) {
    const [context, reference, expected] = p.slice(4, 7).map((i) => texts[i]);
    const programs = [a ? texts[a[1]] : at[0] === "" ? reference : "", b ? texts[b[1]] : ""];
    const titles = [a ? [`${policies[at[0]]} `, pill(a)] : at[0] === "" ? ["the reference"] : [`${policies[at[0]]}: not asked`], [`${policies[at[1]]} `, pill(b)]];
    const marked = diff(...programs);
    const sides = [0, 1].map((i) => el("div", { class: "side" }, el("div", {}, ...titles[i]), el("pre", {}, ...marked[i])));
    const told = (kind, text) => (text ? [el("p", { class: "said" }, el("b", {}, `${kind} `), el("code", {}, text))] : []);
    const gave = [a, b].flatMap((x, i) => (x ? [...told(`${policies[at[i]]} gave`, texts[x[2]]), ...told(`${policies[at[i]]} error`, texts[x[3]])] : []));
    const prompt = context ? [el("details", {}, el("summary", {}, "what else the prompt says"), el("pre", {}, context))] : [];
    const other = at[0] === "" ? [] : [el("div", { class: "side" }, el("div", {}, "the reference"), el("pre", {}, reference))];
    return el("div", { class: "card" }, ...prompt, el("div", { class: "sides" }, ...sides), ...gave, ...told("expected", expected), ...other);
  }
  /** Both programs as nodes: <del> around what only the left has, <ins> around what only the right has (longest common words). */
  function diff(left, right) {
    const [a, b] = [left, right].map((s) => s.match(/\s+|\w+|[^\w\s]/g) || []), width = b.length + 1;
    const best = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    const out = [[], []];
    const put = (side, name, word) => {
      const last = out[side].at(-1);
      if (last && last.name === name) last.text += word;
      else out[side].push({ name, text: word });
    };
    for (let i = 0, j = 0; i < a.length || j < b.length; ) {
      if (i < a.length && j < b.length && a[i] === b[j]) { put(0, "", a[i++]); put(1, "", b[j++]); }
      else if (j >= b.length || (i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) put(0, "del", a[i++]);
      else put(1, "ins", b[j++]);
    }
    return out.map((side) => (side.length ? side.map(({ name, text }) => (name ? el(name, {}, text) : text)) : [el("span", { class: "soft" }, "(empty)")]));
  }
  document.getElementById("examples").hidden = true;
  list(true);
})();
