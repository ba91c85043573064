// The page of one latent.
async function openLatent(rung, latent) {
  const start = fileStart(rung, latent);
  const [file, own] = await Promise.all([fileOf(rung, `latents/${start}`), explanations(rung)]);
  const at = (name) => rowOf(file[name], latent - start);
  const of = { rung, latent, file, at, max: at("max")[0] };
  const columns = [examplesOf(of), plotsOf(of), splitting(rung, latent), file.top_tokens ? logitsOf(of) : null, neighboursOf(of)];
  const [examples, plots, ...rest] = await Promise.all(columns);
  if (!isHere(rung, latent)) return;
  document.title = `latent ${count(latent)} · ${rung.rung}`;
  main.className = "one";
  main.replaceChildren(head(of, own), make("div.columns", {}, examples, make("div.side", {}, plots, ...rest.filter(Boolean))));
  scrollTo(0, 0);
  label(main);
}

const isHere = (rung, latent) => { const place = here(); return place.rung === rung && place.latent === latent; };

function head({ rung, latent, at, max }, own) {
  const [before, after] = beside(rung, latent), text = own.text(latent), fired = at("fired")[0];
  const step = (to, label, rel) => (to === undefined ? make("span", { "aria-hidden": "true" }, label) : make("a", { href: addressOf(rung, to), rel, "data-told": `latent ${count(to)}` }, label));
  const facts = [["fires on", `${percent(fired / Math.max(1, about.num_tokens))} of tokens`], ["tokens", count(fired)],
    ["sequences", `${count(at("sequences")[0])} of ${count(about.num_sequences)}`], ["largest activation", digits(max)],
    ...(fired ? [["mean where it fires", digits(at("sum")[0] / fired)]] : []),
    ...own.scorers.map((name, i) => [name, figure(own.score(latent, i))]).filter(([, value]) => text && value !== "–")];
  return make("header.about", {},
    make("p.path", {}, make("a", { href: listAddress(rung) }, `All of ${rung.rung}`), step(before, "← previous", "prev"), step(after, "next →", "next")),
    make("h1", {}, swatch(rung), `Latent ${count(latent)}`),
    text ? make("p.explanation", { dir: "auto" }, visible(text)) : make("p.explanation.peaks", {}, fired ? "peaks on " : "", ...peaksOf(listTable(rung), latent)),
    text ? make("p.author", {}, own.author(latent)) : null,
    make("dl.facts", {}, ...facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value)))));
}

function groupTitle(rung, group, values) {
  const [least, most] = [Math.min(...values), Math.max(...values)].map((value) => digits(value));
  const span = least === most ? most : `${least} to ${most}`;
  return group === 0 ? ["Strongest", span] : [`Quantile ${group} of ${rung.num_quantiles}${group === 1 ? ", the highest" : ""}`, span];
}

async function examplesOf({ rung, at, max }) {
  const peaks = at("examples"), groups = at("groups"), starts = at("starts"), values = at("values");
  const length = about.sequence_length, found = new Map();
  await Promise.all(Array.from(peaks, async (peak, i) => {
    if (peak < 0) return;
    const number = Math.floor(peak / length), start = starts[i] % length;
    const own = { number, peak: peak % length, start, tokens: await sequence(number), values: values.subarray(i * rung.window, (i + 1) * rung.window) };
    if (!found.has(groups[i])) found.set(groups[i], []);
    found.get(groups[i]).push({ ...own, i, top: own.values[own.peak - start] });
  }));
  if (!found.size) return make("div.examples", {}, make("p.missing", {}, "It never fires on these tokens."));
  const sections = [...found].sort(([a], [b]) => a - b).map(([group, own]) => {
    const [title, span] = groupTitle(rung, group, own.map(({ top }) => top));
    own.sort((a, b) => a.i - b.i);
    return make("section.group", { "data-group": group }, make("h3", {}, title, make("span.span", {}, `activation ${span}`)), ...own.map((one) => example(one, rung, max)));
  });
  return make("div.examples", {}, make("div.scale", { "aria-hidden": "true" }, "0", make("span"), digits(max)), ...sections);
}

function example(one, rung, max) {
  const line = make("p.example", { dir: "auto" }, ...windowOf(one, one.start, one.start + rung.window, max));
  const button = make("button.where", { type: "button", "aria-expanded": "false", "data-told": `sequence ${count(one.number)}, token ${count(one.peak)}: show or fold all of it` }, digits(one.top));
  button.addEventListener("click", () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", !isOpen);
    line.replaceChildren(...windowOf(one, isOpen ? one.start : 0, isOpen ? one.start + rung.window : about.sequence_length, max));
  });
  return make("div.shown", {}, button, line);
}

// Tokens of a sequence, each in the colour of its activation; what lies outside the window has none.
function windowOf({ tokens, values, start, peak }, from, to, max) {
  const own = tokens.subarray(from, to);
  return pieces(own).flatMap((text, i) => {
    const place = from + i, value = values[place - start] ?? 0;
    const shownText = text === "" ? "⋯" : visible(text);
    const kind = ["span", ...(place === peak ? ["peak"] : []), ...(place < start || place >= start + values.length ? ["outside"] : []), ...(shownText !== text ? ["mark"] : [])].join(".");
    const blank = shownText.match(/^ +(?=\S)/)?.[0] ?? ""; // in no colour: it may hang at the end of a line
    return [blank, make(kind, value ? { style: `background: ${shade(value, max)}`, "data-told": `${digits(value, 4)}  ·  ${named(own[i])}  ·  token ${count(own[i])}`, "data-value": value } : {}, shownText.slice(blank.length))];
  });
}

function plotsOf({ at, max }) {
  if (!max) return make("section.block");
  return make("section.block", { id: "activations" }, make("h3", {}, "Activations"), activations(at("histogram"), max),
    make("p.caption", {}, "Tokens on which it fires, by activation; heights are logarithmic."));
}

function logitsOf({ at }) {
  const column = (title, tokens, logits, kind) => {
    const most = Math.max(...Array.from(logits, Math.abs), 1e-9);
    return make(`ol.logits.${kind}`, { "aria-label": title }, make("li.title", {}, title), ...Array.from(tokens, (token, i) => (token < 0 ? null :
      make("li", { style: `--share: ${(100 * Math.abs(logits[i])) / most}%` }, chip(token), make("span.figure", {}, digits(logits[i]))))));
  };
  return make("section.block", { id: "logits" }, make("h3", {}, "Logits"),
    make("div.two", {}, column("promoted", at("top_tokens"), at("top_logits"), "up"), column("suppressed", at("bottom_tokens"), at("bottom_logits"), "down")),
    effects(at("logits_histogram"), at("logits_range")), make("p.caption", {}, "Its direct effect on the tokens’ logits at an activation of 1; below, on all of them (heights are logarithmic)."));
}

async function neighboursOf({ rung, file, at, latent }) {
  const table = async (title, told, of, latents, values) => {
    const lines = Array.from(latents, (other, i) => ({ other, value: values[i] })).filter(({ other }) => other >= 0 && !(of === rung && other === latent));
    return lines.length ? [make("h4", { "data-told": told }, title), make("ul.near", {}, ...lines.map(({ other, value }) => make("li", {},
      make("a", { href: addressOf(of, other) }, count(other)), make("span.label", { "data-rung": of.rung, "data-latent": other }), make("span.figure", {}, figure(value)))))] : [];
  };
  const others = Object.keys(file).filter((name) => name.startsWith("nearest/")).map((name) => rungs.get(name.slice(8))).filter(Boolean);
  const parts = await Promise.all([
    table("Nearest here, by cosine", "cosine of decoder rows", rung, at("nearest"), at("cosine")),
    table("Firing with it, by φ", "correlation of firing on a token", rung, at("cofiring"), at("together")),
    ...others.map((other) => table(`Nearest in ${other.rung}, by cosine`, "cosine of decoder rows", other, at(`nearest/${other.rung}`), at(`cosine/${other.rung}`)))]);
  const found = parts.flat();
  return found.length ? make("section.block", { id: "neighbours" }, make("h3", {}, "Neighbours"), ...found) : null;
}
