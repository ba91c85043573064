// Plots by Vega-Lite from the page's data, each when it comes into sight; every one as CSV, too.
const { plots, styles } = JSON.parse(document.getElementById("data").textContent);
const QUIET = "var(--quiet)", LONE = { colour: "var(--accent)", dash: [1, 0], marker: "circle" };
const isDrawnInRows = (plot) => plot.mark === "bars" || plot.mark === "spans";

// One object a value, with the index of its series and what that is called.
function rowsOf(series) {
  return series.flatMap((one, index) => one.columns.y.map((_, i) => ({
    index, i, coder: one.label, line: one.line,
    ...Object.fromEntries(Object.entries(one.columns).map(([key, values]) => [key, values[i]])) })));
}

function csvOf(plot, panels) {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const named = { ...plot.names, x2: `${plot.names.x}_to`, y2: `${plot.names.y}_to` };
  const keys = Object.keys(panels[0].series[0].columns);
  const lines = panels.flatMap((panel) => panel.series.flatMap((one) => one.columns.y.map((_, i) =>
    [quoted(panel.title), quoted(one.rung ?? one.label), ...keys.map((key) => one.columns[key][i])])));
  return [["panel", "coder", ...keys.map((key) => named[key] ?? key)], ...lines].join("\r\n") + "\r\n";
}

// A number as short as a tick's label: 0.05, 250, 20k; of widths 16K, as the field writes them.
const LABEL = "abs(datum.value) >= 1000 ? format(datum.value, '~s') : format(datum.value, '.3~g')";
const WIDTH = "datum.value % 1048576 == 0 ? datum.value / 1048576 + 'M' : " +
  "datum.value % 1024 == 0 ? datum.value / 1024 + 'K' : format(datum.value, ',')";

function channel(panel, which, rows) {
  const { log, domain } = panel.scales[which], isWidth = which === "x" && panel.isByWidth;
  const type = log || isWidth ? "log" : "linear";
  const values = isWidth ? [...new Set(rows.map((row) => row.x))] : undefined;
  return { field: which, type: "quantitative", title: panel.labels[which],
    scale: { type, domain, nice: false, ...(type === "linear" && { zero: false }) },
    axis: { values, tickCount: 6, labelOverlap: "greedy", labelSeparation: 8, labelExpr: isWidth ? WIDTH : LABEL } };
}

function specOf(plot, panel) {
  const rows = rowsOf(panel.series);
  const style = panel.series.map((one) => styles[one.like] ?? LONE), domain = style.map((_, i) => i);
  const by = (range) => ({ field: "index", type: "nominal", legend: null, scale: { domain, range } });
  const color = by(style.map((own) => own.colour));
  const number = (field, title) => ({ field, title, format: ".4~g" });
  let x = channel(panel, "x", rows), y = channel(panel, "y", rows), height = 240;
  let told = [number("x", x.title), number("y", y.title)];
  if (isDrawnInRows(plot)) {
    const labels = JSON.stringify(panel.series.map((one) => one.label));
    x = { ...y, field: "y" };
    y = { field: "index", type: "ordinal", title: null, scale: { domain, padding: 0.3 },
      axis: { labelExpr: `${labels}[datum.value]`, grid: false, ticks: false, domain: false, labelLimit: 170 } };
    height = 26 * panel.series.length;
    told = [number("y", x.title)];
  }
  const tooltip = [{ field: "coder", title: "coder" }, ...told];
  const rule = (value, at) => value > panel.scales[at].domain[0] && value < panel.scales[at].domain[1] ?
    [{ data: { values: [{}] }, mark: { type: "rule", color: QUIET }, encoding: { [at]: { datum: value } } }] : [];
  const hollow = panel.series.map((one) => one.hollow ? "var(--paper)" : (styles[one.like] ?? LONE).colour);
  const symbols = (data, more = {}, encoding = {}) => ({ data: { values: data },
    mark: { type: "point", size: 70, opacity: 1, cursor: "pointer", ...more },
    encoding: { x, y, color, fill: by(hollow), shape: by(style.map((own) => own.marker)), tooltip, ...encoding } });
  const layers = {
    points: () => [...rule(0, "y"), ...joined(rows, style, x, y),
      ...("x2" in rows[0] || "y2" in rows[0] ? [
        { data: { values: rows }, mark: "rule", encoding: { x, y, x2: { field: "x2" }, y2: { field: "y2" }, color } },
        symbols(rows, { size: 18 }, { x: { ...x, field: "x2" }, y: { ...y, field: "y2" },
          tooltip: [tooltip[0], number("x2", `${x.title}, to`), number("y2", `${y.title}, to`)] })] : []),
      ...("fitted" in rows[0] ? [symbols(rows, { size: 130 }, { y: { ...y, field: "fitted" }, fill: { value: "none" },
        tooltip: [...tooltip, number("fitted", "fitted")] })] : []),
      symbols(rows)],
    line: () => [...rule(0, "y"),
      { data: { values: rows }, mark: { type: "line", tooltip: null },
        encoding: { x, y, color, strokeDash: by(style.map((own) => own.dash)), detail: { field: "index" } } },
      { data: { values: rows }, mark: { type: "point", opacity: 0, size: 50, filled: true },
        encoding: { x, y, color, tooltip } }],
    steps: () => {
      const outline = panel.series.flatMap(({ columns: { x, x2, y } }, index) =>
        [[x[0], 0], ...x.map((edge, i) => [edge, y[i]]), [x2.at(-1), 0]].map(([x, y], i) => ({ index, x, y, i })));
      return [
        { data: { values: outline }, mark: { type: "line", interpolate: "step-after", tooltip: null },
          encoding: { x, y, color, order: { field: "i" }, detail: { field: "index" },
            strokeDash: by(style.map((own) => own.dash)) } },
        { data: { values: rows }, mark: { type: "rect", opacity: 0 },
          encoding: { x, x2: { field: "x2" }, y, y2: { datum: panel.scales.y.domain[0] }, color,
            tooltip: [tooltip[0], number("x", "from"), number("x2", "to"), number("y", y.title)] } }];
    },
    spans: () => {
      const bar = (from, to, size) => ({ data: { values: rows }, mark: { type: "rule", size, tooltip: null },
        encoding: { x: { ...x, field: from }, x2: { field: to }, y, color } });
      const all = [tooltip[0], number("q05", "median"), number("y", "mean"),
        ...["q01", "q025", "q075", "q09"].map((q) => number(q, `quantile ${q[1]}.${q.slice(2)}`))];
      return [bar("q01", "q09", 1), bar("q025", "q075", 5),
        symbols(rows, { shape: "circle" }, { x: { ...x, field: "q05" }, shape: undefined, tooltip: all }),
        symbols(rows, { shape: "diamond", color: "var(--ink)", fill: "none" },
          { color: undefined, fill: undefined, shape: undefined, tooltip: all })];
    },
    bars: () => [{ data: { values: rows }, mark: { type: "bar", strokeWidth: 1.5, cursor: "pointer" },
      encoding: { x: { ...x, stack: null }, y, color: by(hollow), stroke: color, tooltip } }, ...rule(0, "x")],
    path: () => {
      const first = panel.series.map((one) => one.first ?? Infinity);
      const ends = rows.filter((row) => row.i === 0 || row.i === panel.series[row.index].columns.y.length - 1);
      return [
        { data: { values: rows.filter((row) => row.i < first[row.index]) }, mark: { type: "line", tooltip: null },
          encoding: { x, y, color, order: { field: "i" }, detail: { field: "index" } } },
        symbols(rows.filter((row) => row.i >= first[row.index]), { size: 8 }),
        symbols(ends, {}, { fill: { condition: { test: "datum.i == 0", value: "var(--paper)" }, value: hollow[0] } })];
    },
  }[plot.mark]();
  if (plot.diagonal) {
    layers.unshift({ data: { values: [{ x: 0, y: 0 }, { x: 1, y: 1 }] },
      mark: { type: "line", color: QUIET, strokeWidth: 1, strokeDash: [4, 3] }, encoding: { x, y } });
  }
  const axis = { labelColor: "var(--ink)", titleColor: "var(--ink)", domainColor: "var(--grid)",
    gridColor: "var(--grid)", tickColor: "var(--grid)", titleFontWeight: "normal", titleFontSize: 12, labelFontSize: 11 };
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height, layer: layers,
    background: null, autosize: { type: "fit-x", contains: "padding" }, config: { axis, font: getComputedStyle(document.body).fontFamily, view: { stroke: null }, rule: { tooltip: null } } };
}

// Lines that join points, in the colour of these where it is one.
function joined(rows, style, x, y) {
  const lines = Object.entries(Object.groupBy(rows, (row) => row.line)).filter(([line, own]) =>
    line && own.length > 1 && new Set(own.map((row) => row.x)).size === own.length);
  const colour = (own) => new Set(own.map((row) => style[row.index].colour)).size > 1 ? QUIET : style[own[0].index].colour;
  return lines.map(([_, own]) => ({ data: { values: own }, mark: { type: "line", tooltip: null, color: colour(own) },
    encoding: { x, y: "fitted" in rows[0] ? { ...y, field: "fitted" } : y } }));
}

function panelsOf(block) {
  const rung = block.dataset.rung, { panels } = plots[block.dataset.plot];
  if (!rung) return panels;
  return panels.map((panel) => ({ ...panel, series: panel.series.filter((one) => one.rung === rung) }))
    .filter((panel) => panel.series.length);
}

async function draw(block) {
  const plot = plots[block.dataset.plot], panels = panelsOf(block);
  for (const [i, place] of block.querySelectorAll(".drawing").entries()) {
    const options = { renderer: "svg", actions: false, defaultStyle: false };
    const { view } = await vegaEmbed(place, specOf(plot, panels[i]), options);
    view.addEventListener("click", (_, item) => {
      const style = styles[panels[i].series[item?.datum?.index]?.rung];
      if (style?.anchor && !block.dataset.rung) location.hash = style.anchor;
    });
  }
  block.dataset.drawn = "";
}

for (const block of document.querySelectorAll("[data-plot]")) {
  block.querySelector(".csv").addEventListener("click", () => {
    const link = document.createElement("a"), csv = csvOf(plots[block.dataset.plot], panelsOf(block));
    link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
    link.download = `${[block.dataset.plot, block.dataset.rung].filter(Boolean).join("-")}.csv`;
    link.click();
  });
}
// What is in sight is drawn; to be printed, all parts are opened at once.
const undrawn = new Set(document.querySelectorAll("[data-plot]"));
const drawOnce = (block) => undrawn.delete(block) && draw(block);
const watch = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting)
  .forEach((entry) => drawOnce(entry.target)), { rootMargin: "300px" });
undrawn.forEach((block) => watch.observe(block));
const drawAll = () => location.hash === "#everything" && undrawn.forEach(drawOnce);
addEventListener("hashchange", drawAll);
drawAll();
