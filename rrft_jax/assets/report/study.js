// The page of a study: its figures and its tables. No text of a model is in it.

const BARS = "bars";
// A paradigm has the same colour in all plots.
const NAMES = [...new Set(content.figures.flatMap((one) => one.panels.flatMap((p) => p.lines.map((l) => l.name))))];

function figure(panel) {
  const lines = panel.lines.map((line) => ({ ...line, colour: NAMES.indexOf(line.name) }));
  return make("figure", make("figcaption", panel.title), plot(panel.axis, lines, 260, panel.kind === "log"));
}

/** Return bars as rows of a table: a group per row, a paradigm per column. */
function bars(panel) {
  const groups = [...new Set(panel.lines.flatMap((line) => line.x))];
  const cell = (line, group) => {
    const at = line.x.indexOf(group);
    return at < 0 ? "\u2013" : line.y[at].toFixed(1);
  };
  const rows = groups.map((group) => [group, ...panel.lines.map((line) => cell(line, group))]);
  return table([panel.title, ...panel.lines.map((line) => line.name)], rows);
}

/** Return the lines of a table in Markdown as a table, and other lines as paragraphs. */
function markdown(text) {
  return text.split(/\n{2,}/).map((block) => {
    if (block.startsWith("## ")) return make("h3", block.slice(3));
    if (!block.startsWith("|")) return make("p.note", block);
    const rows = block.split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
    return table(rows[0], rows.slice(2));
  });
}

document.getElementById("header").append(
  make("h1", content.title),
  make("p.note", "Lines are means over seeds. Bands of accuracies are a standard error to each side, bands of training from the least seed to the most.")
);
document.getElementById("main").append(
  ...content.figures.map((one) =>
    make(
      "section",
      make("h2", one.title),
      one.panels.filter((panel) => panel.kind === BARS).map(bars),
      make("div.grid", one.panels.filter((panel) => panel.kind !== BARS).map(figure))
    )
  ),
  make("section", make("h2", "Tables"), markdown(content.table))
);
