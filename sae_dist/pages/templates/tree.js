// Feature splitting: which latents of wider rungs have a latent for their nearest in the rung below.
const MOST_CHILDREN = 8;
const MOST_UNFOLDED = 40; // latents of a tree that is shown whole
const kin = new Map();
let minCosine = about.min_cosine;

// A rung's parents, and the children of each latent of the rung below, nearest first.
function kinOf(rung) {
  if (!kin.has(rung.rung)) kin.set(rung.rung, fileOf(rung, "parents").then(({ parents = [], cosines = [] }) => {
    const children = new Map();
    for (let latent = 0; latent < parents.length; latent++) {
      const own = children.get(parents[latent]);
      own ? own.push(latent) : children.set(parents[latent], [latent]);
    }
    return { parents, cosines, children };
  }));
  return kin.get(rung.rung);
}

// The rungs of one ladder, narrow to wide; each stands on the one below.
function ladderOf(rung) {
  let lowest = rung;
  while (lowest.below) lowest = rungs.get(lowest.below);
  const ladder = [lowest];
  for (const own of ladder) ladder.push(...about.rungs.filter((other) => other.below === own.rung));
  return ladder;
}

async function splitting(rung, latent) {
  const ladder = ladderOf(rung);
  if (ladder.length < 2) return null;
  const all = new Map();
  for (const own of ladder) all.set(own, await kinOf(own));
  const place = make("div.tree");
  const range = make("input", { type: "range", min: 0.3, max: 0.95, step: 0.05, value: minCosine, "aria-label": "least cosine",
    oninput: () => { minCosine = Number(range.value); draw(); } });
  const said = make("span.least");
  const draw = () => {
    said.textContent = `cosine ≥ ${figure(minCosine)}`;
    place.replaceChildren(...treeOf(all, rung, latent));
    label(place);
  };
  draw();
  return make("section.block", { id: "ladder" }, make("h3", {}, "In the ladder"), make("p.caption", {},
    `From ${width(ladder[0].num_latents)} to ${width(ladder.at(-1).num_latents)} latents: below each stand those of the next rung whose nearest latent here it is.`),
    make("label.threshold", {}, range, said), place);
}

function treeOf(all, rung, latent) {
  const path = [[rung, latent]];
  while (true) {
    const [own, child] = path[0], { parents, cosines } = all.get(own);
    if (!own.below || !(cosines[child] >= minCosine)) break;
    path.unshift([rungs.get(own.below), parents[child]]);
  }
  const levels = levelsOf(all, ...path[0]);
  if (levels.length === 1) return [make("p.caption", {}, "It stands alone: no latent of the rungs beside it is as near.")];
  const isWhole = levels.reduce((sum, { number }) => sum + number, 0) <= MOST_UNFOLDED;
  return [make("p.levels", { "data-told": "latents of this tree in each rung" }, ...levels.map(({ rung: own, number }) => make("span.level", {}, widthOf(own), `× ${count(number)}`))),
    make("ul", {}, branch(all, ...path[0], null, path, isWhole))];
}

// How many latents of each rung stand below one, the widest rung last.
function levelsOf(all, rung, latent) {
  const numbers = new Map();
  for (let level = [[rung, latent]]; level.length; level = level.flatMap((one) => childrenOf(all, ...one)))
    for (const [own] of level) numbers.set(own, (numbers.get(own) ?? 0) + 1);
  return Array.from(numbers, ([own, number]) => ({ rung: own, number }));
}

const widthOf = (rung) => make("span.width", { style: `--series: var(--series-${rung.colour})` }, width(rung.num_latents));

function childrenOf(all, rung, latent) {
  const found = [];
  for (const [wider, { cosines, children }] of all) {
    if (wider.below !== rung.rung) continue;
    for (const child of children.get(latent) ?? []) if (cosines[child] >= minCosine) found.push([wider, child, cosines[child]]);
  }
  return found.sort((a, b) => b[2] - a[2]);
}

// A latent with what is below it, which is made when it is unfolded.
function branch(all, rung, latent, cosine, path, isWhole) {
  const isSelf = path.at(-1)[0] === rung && path.at(-1)[1] === latent;
  const depth = path.findIndex(([own, number]) => own === rung && number === latent);
  const children = childrenOf(all, rung, latent), next = path[depth + 1];
  const line = [widthOf(rung),
    make("a", { href: addressOf(rung, latent), "aria-current": isSelf ? "true" : undefined }, count(latent)),
    make("span.label", { "data-rung": rung.rung, "data-latent": latent }),
    cosine === null ? null : make("span.cosine", { "data-told": "cosine with the latent above it" }, figure(cosine))];
  if (!children.length) return make("li", {}, make("div.leaf", {}, ...line));
  const below = make("ul"), isOpen = isWhole || depth >= 0;
  const fill = (most) => {
    const isOnPath = ([own, number]) => depth >= 0 && next && own === next[0] && number === next[1];
    const shown = children.slice(0, most);
    if (next && depth >= 0 && !shown.some(isOnPath)) shown.push(children.find(isOnPath));
    below.replaceChildren(...shown.map((child) => branch(all, ...child, path, isWhole)));
    const left = children.length - shown.length;
    if (left) below.append(make("li", {}, make("button.more", { type: "button", onclick: () => fill(Infinity) }, `${count(left)} more`)));
    label(below);
  };
  const details = make("details", { open: isOpen, ontoggle: () => { if (!below.childElementCount) fill(MOST_CHILDREN); } },
    make("summary", {}, ...line, make("span.count", { "data-told": "latents that split off from it" }, `×${count(children.length)}`)), below);
  if (isOpen) fill(MOST_CHILDREN);
  return make("li", {}, details);
}

// What latents are called: by their explanation, or by the tokens they peak on.
async function label(place) {
  for (const element of place.querySelectorAll(".label:empty")) {
    const rung = rungs.get(element.dataset.rung);
    element.replaceChildren(...await called(rung, Number(element.dataset.latent)));
  }
}

async function called(rung, latent) {
  const text = (await explanations(rung)).text(latent);
  return text ? [visible(text)] : peaksOf(await fileOf(rung, "list"), latent);
}
