// Elements, and figures as text.
function make(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "span");
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== undefined && value !== false && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const drawn = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

const { format: count } = new Intl.NumberFormat("en-US");
const digits = (value, most = 3) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1000 ? count(Math.round(size)) : size < 1e-3 ? size.toExponential(most - 2) : size.toPrecision(most);
  return (value < 0 ? "−" : "") + text.replace("e-", "e−");
};
const percent = (share) => share > 0 && share < 1e-5 ? `${digits(100 * share)} %` : `${Number((100 * share).toPrecision(2))} %`;
const figure = (value) => Number.isNaN(value) || value === undefined ? "–" : value.toFixed(2).replace("-", "−");
const width = (size) => size % (1 << 20) === 0 ? `${size >> 20}M` : size % 1024 === 0 ? `${size >> 10}K` : count(size);
const addressOf = (rung, latent) => `#${encodeURIComponent(rung.rung)}/${latent}`;
const swatch = (rung) => make("span.swatch", { style: `color: var(--series-${rung.colour})`, "aria-hidden": "true" }, "■");

const chip = (token) => make("span.token", { dir: "auto", "data-told": isKnown(token) ? `token ${count(token)}` : undefined }, named(token));
const chips = (tokens) => Array.from(tokens).filter((token) => token >= 0).map(chip);

// The tokens on which a latent's strongest examples peak most often.
function peaksOf(table, latent) {
  const peaks = chips(rowOf(table.peaks, latent));
  return peaks.length ? peaks : [make("span.silent", {}, "never fires")];
}

// What an element has to tell is shown beside it while it is pointed at, or after a tap.
const told = document.getElementById("told");
function tell(event) {
  const element = event.target.closest?.("[data-told]");
  told.hidden = !element;
  if (!element) return;
  told.textContent = element.dataset.told;
  const box = [...element.getClientRects()].find((r) => event.clientY >= r.top && event.clientY <= r.bottom) ?? element.getBoundingClientRect();
  told.style.left = `${Math.max(8, Math.min(box.left, innerWidth - told.offsetWidth - 8))}px`;
  told.style.top = `${box.top > told.offsetHeight + 8 ? box.top - told.offsetHeight - 6 : box.bottom + 6}px`;
}
addEventListener("pointerover", tell);
addEventListener("click", tell);
addEventListener("scroll", () => { told.hidden = true; }, true);
