// The table of results, and which answers are taken for which.

function resultsSection() {
  const rows = content.runs.flatMap((run) => run.rows.map((row) => ({ run, row })));
  if (!rows.length) return null;
  const splits = [...new Set(rows.flatMap(({ row }) => Object.keys(row.splits)))];
  const several = content.runs.length > 1;
  const named = ({ run, row }) => (several ? `${run.name}: ${row.name}` : row.name);
  const section = make("section", make("h2", "Results"));
  section.append(
    table(
      ["right answers, %", ...splits],
      rows.map((one) => [named(one), ...splits.map((split) => accuracy(own(one.row.splits, split)))])
    )
  );
  const notes = splits.map((split) => {
    const entries = rows.map(({ row }) => own(row.splits, split)).filter(Boolean);
    const words = entries.map((one) => `${one.samples.toLocaleString("en")} samples, ${one.decoding}`);
    return `${split}: ${[...new Set(words)].join(" / ")}`;
  });
  section.append(make("p.note", `\u00b1 standard error. ${notes.join("; ")}.`));
  const earned = rewardRows(rows, splits, named);
  if (earned) section.append(earned);
  const parts = partRows(rows, named);
  if (parts) section.append(parts);
  for (const run of content.runs) for (const line of run.trend) section.append(make("p.note", `${run.name}: ${line}.`));
  const confused = answers();
  if (confused) section.append(confused);
  return section;
}

/** Return the accuracy of an entry that may be missing. */
function accuracy(entry) {
  if (entry?.accuracy === undefined) return "\u2013";
  return `${percent(entry.accuracy)} \u00b1 ${percent(entry.standard_error)}`;
}

function rewardRows(rows, splits, named) {
  const found = rows.flatMap((one) =>
    splits
      .filter((split) => own(one.row.splits, split)?.rewards)
      .map((split) => [one, split, one.row.splits[split].rewards])
  );
  if (!found.length) return null;
  const names = [...new Set(found.flatMap(([, , rewards]) => Object.keys(rewards)))];
  return table(
    ["mean reward", ...names],
    found.map(([one, split, rewards]) => [
      `${named(one)}, ${split}`,
      ...names.map((n) => {
        const reward = own(rewards, n);
        return reward ? measured(reward.mean, reward.standard_error, false) : "\u2013";
      }),
    ])
  );
}

function partRows(rows, named) {
  const found = rows.flatMap((one) =>
    Object.entries(one.row.splits)
      .filter(([, entry]) => entry.parts)
      .map(([split, entry]) => [`${named(one)}, ${split}`, entry.parts])
  );
  if (!found.length) return null;
  const names = [...new Set(found.flatMap(([, parts]) => Object.keys(parts)))].sort();
  return table(
    ["right answers of parts, %", ...names],
    found.map(([name, parts]) => [
      name,
      ...names.map((n) => accuracy(own(parts, n))),
    ])
  );
}

/** Return the table of right against given answers, of one evaluation at a time. */
function answers() {
  const options = Object.entries(content.splits).flatMap(([split, { evaluations }]) =>
    evaluations.map((one, n) => [JSON.stringify([split, n]), `${evaluationName(one)}, ${split}`])
  );
  const known = options.filter(([key]) => {
    const [split, n] = JSON.parse(key);
    return content.splits[split].evaluations[n].answers.right.length;
  });
  if (!known.length) return null;
  const body = make("div");
  const draw = (key) => {
    const [split, n] = JSON.parse(key);
    body.replaceChildren(...confusion(content.splits[split].evaluations[n].answers));
  };
  const first = own(content.splits, content.examples.split)?.evaluations[content.examples.after];
  const start = first?.answers.right.length
    ? JSON.stringify([content.examples.split, content.examples.after])
    : known[0][0];
  draw(start);
  return make("div", make("h3", "Which answers are given for which"), make("div.choices", choice("evaluation", known, start, draw)), body);
}

function confusion({ right, given, counts, mistakes }) {
  const found = table(
    ["right \\ given", ...given],
    right.map((label, r) => {
      const most = Math.max(1, counts[r].reduce((a, b) => a + b));
      return [
        label,
        ...counts[r].map((count, c) => {
          const cell = make("span.count", count ? String(count) : "");
          cell.style.setProperty("--share", count / most);
          cell.classList.add(given[c] === label ? "agrees" : "differs");
          return cell;
        }),
      ];
    })
  );
  found.classList.add("confusion");
  const parts = [found, make("p.note", "Rows are right answers. The shade is the share of the row.")];
  if (mistakes.length) {
    parts.push(make("p", "Most frequent mistakes: ", mistakes.flatMap(([want, got, number], n) => [
      n ? ", " : "", make("b", got), " for ", make("b", want), ` (${number})`,
    ])));
  }
  return parts;
}

function evaluationName(one) {
  return content.runs.length > 1 ? `${content.runs[one.run].name}: ${one.row}` : one.row;
}
