// Plots by uPlot: lines over steps or minutes, drawn again when the page's colours or width change.

const plots = new Map(); // element of a plot -> {draw, plot}

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

/** Return a number with four digits at most. */
function short(value) {
  return value === null || value === undefined ? "\u2013" : String(Number(value.toPrecision(4)));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * Return an element with a plot.
 * @param {string} axis name of the axis below, such as "step".
 * @param {{name, x, y, low?, high?, colour?}[]} lines the series; `low` and `high` are the ends of a
 *   band, and `colour` is a number, by default the place of the line.
 * @param {boolean} log whether the axis below is logarithmic; it then names the values of the lines.
 */
function plot(axis, lines, height = 240, log = false) {
  const element = make("div.plot");
  const draw = () => {
    const { data, series, bands } = joined(lines);
    const ink = colour("--ink-soft");
    const grid = { stroke: colour("--rule"), width: 1 };
    const ticks = log
      ? {
          splits: () => data[0],
          filter: (_, values) => values,
          values: (_, values) => values.map((value) => value.toLocaleString("en")),
        }
      : {};
    const scale = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif" };
    return new uPlot(
      {
        width: Math.max(element.clientWidth, 200),
        height,
        scales: { x: { time: false, distr: log ? 3 : 1 } },
        axes: [
          { ...scale, ...ticks, size: 30, label: axis, labelSize: 18, labelGap: 0, labelFont: scale.font },
          { ...scale, size: 56, values: (_, ticks) => ticks.map(short) },
        ],
        series: [{ label: axis, value: (_, value) => short(value) }, ...series],
        bands,
        legend: { live: true },
        cursor: { points: { size: 6 } },
      },
      data,
      element
    );
  };
  plots.set(element, { draw, plot: null });
  watcher.observe(element);
  return element;
}

/** Return the series of lines over one common axis. */
function joined(lines) {
  const tables = [];
  const series = [];
  const bands = [];
  lines.forEach((line, n) => {
    const stroke = colour(COLOURS[(line.colour ?? n) % COLOURS.length]);
    const few = line.x.length < 30;
    const own = {
      label: line.name,
      stroke,
      width: 2,
      points: { show: few, size: 6, fill: stroke },
      spanGaps: true,
      value: (_, value) => short(value),
    };
    const columns = [line.x, line.y];
    if (line.low) {
      // A band has two edges of its own, which have neither a stroke nor a place in the legend.
      const edge = { stroke: "transparent", points: { show: false }, spanGaps: true, class: "edge" };
      bands.push({ series: [series.length + 3, series.length + 2], fill: stroke + "33" });
      series.push(own, edge, edge);
      columns.push(line.low, line.high);
    } else series.push(own);
    tables.push(columns);
  });
  return { data: uPlot.join(tables), series, bands };
}

/** Draw a plot once it has a width, and again if the width changes. */
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const known = plots.get(target);
    if (!known || !target.clientWidth) continue;
    if (!known.plot) known.plot = known.draw();
    else known.plot.setSize({ width: target.clientWidth, height: known.plot.height });
  }
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [element, known] of plots) {
    if (!known.plot || !element.isConnected) continue;
    known.plot.destroy();
    known.plot = known.draw();
  }
});

/** Forget the plots below an element that is about to be emptied. */
function dropPlots(element) {
  for (const inner of element.querySelectorAll(".plot")) {
    watcher.unobserve(inner);
    plots.get(inner)?.plot?.destroy();
    plots.delete(inner);
  }
}
