// The address says what is shown: `#RUNG`, `#RUNG?by=token&q=…&sort=…` or `#RUNG/LATENT`.
const lists = new Map(); // the address of what each rung's table showed last

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // which then names nothing
  }
}

function here() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [name, number] = path.split("/").map(decoded);
  const rung = rungs.get(name) ?? about.rungs[0], latent = Number(number);
  const isOne = number !== undefined && Number.isInteger(latent) && latent >= 0 && latent < rung.num_latents;
  return { rung, latent: isOne ? latent : undefined, asked: Object.fromEntries(new URLSearchParams(query)) };
}

const listAddress = (rung) => lists.get(rung.rung) ?? `#${encodeURIComponent(rung.rung)}`;
const tables = new Map();
const listTable = (rung) => tables.get(rung.rung);

// The latents before and after one: in the table as it was last sorted and searched, if it is there.
function beside(rung, latent) {
  const rows = list?.rung === rung ? list.rows : [], place = rows.indexOf(latent);
  if (place >= 0) return [rows[place - 1], rows[place + 1]];
  return [latent > 0 ? latent - 1 : undefined, latent + 1 < rung.num_latents ? latent + 1 : undefined];
}

let shown = {}; // the rung and the latent of the page before
async function show() {
  const { rung, latent, asked } = here(), before = shown;
  shown = { rung, latent };
  told.hidden = true;
  for (const link of document.querySelectorAll(".rungs a")) link.toggleAttribute("aria-current", link.dataset.rung === rung.rung);
  try {
    const files = [about.has_vocabulary ? load("vocabulary") : null, fileOf(rung, "list"), fileOf(rung, "explanations")];
    const [texts, table] = await Promise.all(files);
    const now = here();
    if (now.rung !== rung || now.latent !== latent) return; // somebody was faster than the files
    vocabulary = texts;
    tables.set(rung.rung, table);
    if (latent === undefined) await openList(rung, asked, before.rung === rung ? before.latent : undefined);
    else await openLatent(rung, latent);
  } catch (error) {
    main.replaceChildren(make("p.missing", {}, error.message));
  }
}

function contents() {
  const place = document.querySelector(".rungs"), groups = Map.groupBy(about.rungs, (rung) => `${rung.kind} ${rung.form.replace("_", " ")} · ${rung.site}${rung.target === rung.site ? "" : ` → ${rung.target}`}`);
  for (const [title, own] of groups) {
    place.append(make("h3", {}, title), make("ul", {}, ...own.map((rung) => make("li", {}, make("a", { href: listAddress(rung), "data-rung": rung.rung, title: rung.rung }, swatch(rung), `${width(rung.num_latents)} · L0 ${digits(rung.l0)}`)))));
  }
}

addEventListener("hashchange", show);
addEventListener("resize", () => { if (list?.view?.isConnected) showRows(); });
addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const { rung, latent } = here();
  if (event.key === "/") {
    event.preventDefault();
    if (latent !== undefined) location.hash = listAddress(rung);
    else document.getElementById("asked")?.focus();
  }
  if (latent === undefined) return;
  if (event.key === "ArrowLeft") document.querySelector("[rel=prev]")?.click();
  if (event.key === "ArrowRight") document.querySelector("[rel=next]")?.click();
  if (event.key === "Escape") location.hash = listAddress(rung);
});
contents();
show();
