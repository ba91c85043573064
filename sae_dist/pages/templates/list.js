// The table of a rung's latents: as many rows are there as are in sight.
const MOST_HEIGHT = 12e6; // pixels that browsers can scroll; a million rows share them
const main = document.querySelector("main");
let list = null; // what the table shows: its rung, rows, columns

async function openList(rung, asked, from) {
  const [table, own, { cosines, splits }] = await Promise.all([fileOf(rung, "list"), explanations(rung), fileOf(rung, "parents")]);
  if (list?.rung !== rung) {
    const frequency = Float64Array.from(table.fired, (fired) => fired / Math.max(1, about.num_tokens));
    const columns = new Map([
      ["frequency", { title: "fires on", values: frequency, write: percent, meaning: "share of tokens on which it fires" }],
      ["max", { title: "largest", values: table.max, write: digits, meaning: "its largest activation" }],
      ...(table.cosine ? [["cosine", { title: "cosine", values: table.cosine, write: figure, meaning: "with the nearest latent of this rung" }]] : []),
      ...(cosines ? [["parent", { title: "narrower", values: cosines, write: figure, meaning: "cosine with the nearest latent of the next narrower rung: a low one is novel" }]] : []),
      ...(splits ? [["splits", { title: "splits", values: splits, write: count, meaning: `latents of the next wider rung whose nearest it is, with a cosine of at least ${figure(about.min_cosine)}` }]] : []),
      ...own.scorers.map((name, i) => [name, { title: name, write: figure, meaning: `how well its explanation does at ${name}`,
        values: Float32Array.from({ length: rung.num_latents }, (_, latent) => own.score(latent, i)) }]),
    ]);
    list = { rung, table, own, columns, rows: [], note: null, asked: null, current: 0 };
  }
  if (!list.view) buildList();
  if (list.view.parentNode !== main) main.replaceChildren(list.view);
  main.className = "listing";
  document.title = `${rung.rung} · latents`;
  await find(asked);
  const place = from === undefined ? -1 : list.rows.indexOf(from);
  if (place >= 0) focusRow(place);
}

function buildList() {
  const { rung, table, columns } = list;
  const heading = (key, title, meaning) => make("button", { type: "button", "data-sort": key, "data-told": meaning, onclick: () => sortBy(key) }, title);
  const silent = table.fired.reduce((sum, fired) => sum + (fired === 0), 0);
  const facts = [`${count(rung.num_latents)} latents of a ${rung.kind} ${rung.form.replace("_", " ")}`,
    `at ${rung.site}${rung.target === rung.site ? "" : ` → ${rung.target}`}`, `L0 ${digits(rung.l0)}`,
    silent ? `${percent(silent / rung.num_latents)} never fire on these ${count(about.num_tokens)} tokens` : `watched on ${count(about.num_tokens)} tokens`];
  const kinds = Object.keys(SEARCHES).map((by) => make("label", {}, make("input", { type: "radio", name: "by", value: by, onchange: ask }), by));
  const box = make("input", { type: "search", id: "asked", "aria-label": "Search latents", autocomplete: "off", spellcheck: "false", oninput: ask, onkeydown: openFirst });
  list.view = make("div.list", {},
    make("header", {},
      make("div.head", {}, make("div", {}, make("h1", {}, swatch(rung), rung.rung), make("p.lead", {}, facts.join(" · "))),
        make("figure.spread", {}, frequencies(list), make("figcaption", {}, "latents by log₁₀ of how often they fire"))),
      make("form.search", { role: "search", onsubmit: (event) => event.preventDefault() },
        make("fieldset", {}, make("legend", {}, "Search by"), ...kinds), box),
      make("p.hint", {}), make("p.found", { role: "status" })),
    make("div.rows", { role: "region", "aria-label": "Latents" },
      make("div.titles", { style: `--figures: ${columns.size}` }, heading("number", "latent", "its number, from 0"),
        make("span", { "data-told": "the tokens on which its strongest examples peak most often" }, "peaks on"),
        make("span.promoted", { "data-told": "the tokens whose logits it raises most" }, table.promoted ? "promotes" : ""),
        make("span.said", {}, "explanation"),
        ...[...columns].map(([key, { title, meaning }]) => heading(key, title, meaning))),
      make("div.scrolled")));
  const rows = list.view.querySelector(".rows");
  let isDue = false;
  rows.addEventListener("scroll", () => {
    list.top = rows.scrollTop;
    if (!isDue) requestAnimationFrame(() => { isDue = false; showRows(); });
    isDue = true;
  });
  rows.addEventListener("focusin", ({ target }) => {
    if (target.matches(".row")) list.current = Number(target.dataset.place);
  });
  rows.addEventListener("keydown", (event) => {
    const seen = Math.max(1, Math.floor(rows.clientHeight / rowSize()) - 2);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: seen, PageUp: -seen, Home: -Infinity, End: Infinity }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".row")) return;
    event.preventDefault();
    focusRow(list.current + by);
  });
}

// Arrows lead from row to row, of which Tab reaches one.
function focusRow(place) {
  const box = list.view.querySelector(".rows"), titles = box.querySelector(".titles").offsetHeight;
  list.current = Math.max(0, Math.min(place, list.rows.length - 1));
  const top = list.current * rowSize() * rowScale(), bottom = top + titles + rowSize();
  box.scrollTop = Math.max(Math.min(box.scrollTop, top), bottom - box.clientHeight);
  showRows();
  box.querySelector(".row[tabindex='0']")?.focus({ preventScroll: true });
}

// What is asked for stands in the address, so that it can be shared and gone back to.
function addressOfList({ by, q, sort }) {
  const query = new URLSearchParams(Object.entries({ ...(q && { by, q }), sort }).filter(([, value]) => value));
  return `#${encodeURIComponent(list.rung.rung)}${query.size ? `?${query}` : ""}`;
}

let typing = 0;
function ask() {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const by = list.view.querySelector("[name=by]:checked").value, q = list.view.querySelector("#asked").value;
    const asked = { by, q };
    history.replaceState(null, "", addressOfList(asked));
    find(asked);
  }, 150);
}

function openFirst(event) {
  if (event.key === "ArrowDown") {
    event.preventDefault();
    focusRow(0);
  }
  if (event.key !== "Enter") return;
  const { rung, rows, asked } = list, number = Number(event.target.value);
  const isNumber = asked.by === "number" && event.target.value.trim() && number < rung.num_latents;
  if (isNumber || rows.length) location.hash = addressOf(rung, isNumber ? number : rows[0]);
}

function sortBy(key) {
  const rising = key === "number" ? list.asked.sort === "-number" || list.asked.sort : list.asked.sort === `-${key}`;
  const asked = { ...list.asked, sort: `${rising ? "" : "-"}${key}` };
  history.replaceState(null, "", addressOfList(asked));
  find(asked);
}

let finding = 0;
async function find(asked) {
  const mine = ++finding, { rung, view } = list, isStale = () => mine !== finding;
  const by = asked.by in SEARCHES ? asked.by : "token", q = asked.q ?? "";
  view.querySelector(`[value=${by}]`).checked = true;
  const box = view.querySelector("#asked");
  if (box.value !== q) box.value = q;
  box.placeholder = { number: "123", token: "a token", text: "a text within the examples", explanation: "words" }[by];
  view.querySelector(".hint").textContent = SEARCHES[by].hint;
  const isSame = list.asked && list.asked.q === q && list.asked.by === by;
  if (!isSame) {
    const working = setTimeout(() => { view.querySelector(".found").textContent = "searching …"; }, 300);
    const found = q ? await SEARCHES[by].find(rung, q, isStale) : null;
    clearTimeout(working);
    if (isStale()) return;
    list.found = found?.latents ?? Uint32Array.from({ length: rung.num_latents }, (_, i) => i);
    list.note = found?.note;
    view.querySelector(".found").textContent = q ? [`${count(list.found.length)} latents`, found.told].filter(Boolean).join(" · ") : "";
  }
  const isSorted = isSame && list.asked.sort === (asked.sort ?? "");
  view.classList.toggle("worded", Boolean(list.note || list.own.latents.length));
  view.querySelector(".titles .said").textContent = list.note ? "found" : "explanation";
  list.asked = { by, q, sort: asked.sort ?? "" };
  lists.set(rung.rung, addressOfList(list.asked));
  if (!isSorted) {
    sortRows();
    list.top = list.current = 0;
  }
  showRows();
  view.querySelector(".rows").scrollTop = list.top; // it loses its place while a latent is shown
}

function sortRows() {
  const key = list.asked.sort.replace("-", ""), sign = list.asked.sort.startsWith("-") ? -1 : 1;
  const values = list.columns.get(key)?.values;
  list.rows = Uint32Array.from(list.found);
  if (values) {
    list.rows.sort((a, b) => {
      const isLast = Number.isNaN(values[a]) - Number.isNaN(values[b]);
      return isLast || sign * (values[a] - values[b]) || a - b;
    });
  } else if (key === "number") list.rows.sort((a, b) => sign * (a - b));
  for (const heading of list.view.querySelectorAll("[data-sort]")) {
    const isBy = heading.dataset.sort === key;
    heading.setAttribute("aria-pressed", isBy);
    heading.dataset.order = isBy ? (sign < 0 ? "falling" : "rising") : "";
  }
}

const rowSize = () => parseFloat(getComputedStyle(list.view).getPropertyValue("--row"));
const rowScale = () => Math.min(1, MOST_HEIGHT / (list.rows.length * rowSize() || 1));

function showRows() {
  const box = list.view.querySelector(".rows"), inner = box.querySelector(".scrolled"), { rows } = list;
  const size = rowSize(), scale = rowScale(), hadFocus = inner.contains(document.activeElement);
  inner.style.height = `${rows.length * size * scale}px`;
  const first = Math.max(0, Math.min(Math.floor(box.scrollTop / scale / size), rows.length - 1));
  const last = Math.min(rows.length, first + Math.ceil(box.clientHeight / size) + 1);
  const top = Math.min(box.scrollTop - (scale === 1 ? box.scrollTop % size : 0), rows.length * size * scale - (last - first) * size);
  const reached = Math.max(first, Math.min(list.current, last - 1));
  inner.replaceChildren(...Array.from(rows.subarray(first, last), (latent, i) => row(latent, first + i, Math.max(0, top) + i * size, first + i === reached)));
  if (!rows.length) inner.append(make("p.nothing", {}, "No latent is found by that."));
  if (hadFocus) inner.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
}

function row(latent, place, top, isReached) {
  const { rung, table, own, columns, note } = list, said = note ? note(latent) : visible(own.text(latent));
  return make("a.row", { href: addressOf(rung, latent), "data-place": place, tabindex: isReached ? 0 : -1, style: `top: ${top}px; --figures: ${columns.size}` },
    make("span.number", {}, count(latent)),
    make("span.peaks", {}, ...peaksOf(table, latent)),
    make("span.promoted", {}, ...(table.promoted ? chips(rowOf(table.promoted, latent)) : [])),
    make(note ? "span.said.note" : "span.said", { title: said }, said),
    ...[...columns].map(([key, { values, write, title }]) => make("span.figure", { "data-key": key, "data-title": title }, write(values[latent]))));
}
