// Histograms, drawn by hand: a few bars each.
function bars(counts, { wide, high, tell, fill, low, high_label, middle }) {
  const most = Math.log1p(Math.max(...counts)), size = wide / counts.length;
  const svg = drawn("svg", { viewBox: `0 0 ${wide} ${high + 16}`, role: "img", class: "bars" });
  Array.from(counts, (number, i) => {
    const tall = number ? Math.max(1.5, (high * Math.log1p(number)) / most) : 0;
    svg.append(drawn("rect", { x: i * size + 0.5, y: high - tall, width: Math.max(0.5, size - 1), height: tall, style: `fill: ${fill(i)}` }));
    svg.append(drawn("rect", { x: i * size, y: 0, width: size, height: high, class: "pointed", "data-told": tell(i, number) }));
  });
  svg.append(drawn("path", { d: `M0 ${high + 0.5}H${wide}`, class: "axis" }));
  for (const [text, x, anchor] of [[low, 0, "start"], [middle, wide / 2, "middle"], [high_label, wide, "end"]]) {
    if (text) svg.append(drawn("text", { x, y: high + 13, "text-anchor": anchor }, text));
  }
  return svg;
}

// How many latents fire how often.
function frequencies({ rung, columns }) {
  const values = columns.get("frequency").values, least = Math.min(-3, Math.floor(-Math.log10(Math.max(10, about.num_tokens))));
  const counts = new Uint32Array(-least * 6);
  for (const value of values) {
    if (value > 0) counts[Math.min(counts.length - 1, Math.max(0, Math.floor((Math.log10(value) - least) * 6)))]++;
  }
  const edge = (i) => percent(10 ** (least + i / 6));
  return bars(counts, { wide: 300, high: 44, fill: () => `var(--series-${rung.colour})`, low: String(least).replace("-", "−"), high_label: "0",
    tell: (i, number) => `${count(number)} latents fire on ${edge(i)} to ${edge(i + 1)} of the tokens` });
}

function activations(histogram, max) {
  const size = max / histogram.length;
  return bars(histogram, { wide: 320, high: 84, low: "0", high_label: digits(max), fill: (i) => shade((i + 0.5) * size, max),
    tell: (i, number) => `${count(number)} tokens with an activation of ${digits(i * size)} to ${digits((i + 1) * size)}` });
}

function effects(histogram, [least, most]) {
  const size = (most - least) / histogram.length;
  const colour = (i) => (least + (i + 0.5) * size < 0 ? "var(--lowered)" : "var(--raised)");
  return bars(histogram, { wide: 320, high: 60, low: digits(least), high_label: digits(most), fill: colour,
    tell: (i, number) => `${count(number)} tokens whose logit changes by ${digits(least + i * size)} to ${digits(least + (i + 1) * size)}` });
}

// The colour of an activation: from none at 0 to full at the latent's largest; another below 0.
const shade = (value, max) => `color-mix(in oklab, var(--${value < 0 ? "cold" : "fire"}) ${(12 + 88 * Math.min(1, Math.abs(value) / max)).toFixed(1)}%, var(--paper))`;
