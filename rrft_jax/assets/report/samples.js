// What two evaluations say to the same held-out samples, side by side.

function samplesSection() {
  const splits = Object.keys(content.splits);
  if (!splits.length) return null;
  const state = { split: content.examples.split ?? splits[0], outcome: "all" };
  const [choices, body] = [make("div.choices"), make("div")];
  const reset = () => {
    const number = content.splits[state.split].evaluations.length;
    [state.a, state.b] = [0, number - 1];
    const firsts = content.splits[state.split].evaluations.filter((one) => one.run === 0).length;
    if (firsts < number) state.a = firsts - 1; // the ends of two runs
  };
  const draw = () => {
    const { evaluations, samples, number } = content.splits[state.split];
    const names = evaluations.map((one, n) => [String(n), evaluationName(one)]);
    const set = (key) => (value) => {
      state[key] = key === "a" || key === "b" ? Number(value) : value;
      if (key === "split") reset();
      draw();
    };
    const [a, b] = [evaluations[state.a], evaluations[state.b]];
    const outcomes = OUTCOMES.map(([key, text, holds]) => {
      const count = a.worth.filter((_, n) => holds(a, b, n)).length;
      return [key, `${text(evaluationName(a), evaluationName(b))} (${count.toLocaleString("en")})`];
    });
    choices.replaceChildren(
      choice("split", splits.map((split) => [split, split]), state.split, set("split")),
      choice("left", names, String(state.a), set("a")),
      choice("right", names, String(state.b), set("b")),
      choice("samples", outcomes, state.outcome, set("outcome"))
    );
    const holds = OUTCOMES.find(([key]) => key === state.outcome)[2];
    const found = samples.map((_, n) => n).filter((n) => holds(a, b, n));
    const counted = `Counts are of all ${number.toLocaleString("en")} samples. `;
    const shown = `The page has the texts of ${samples.length}, and ${found.length} of them are such ones.`;
    body.replaceChildren(
      make("p.note", number > samples.length ? counted + shown : `${found.length} of ${number} samples`),
      list(found, (n) => sampleCard(samples[n], a === b ? [a] : [a, b], n), "No sample is such a one.")
    );
  };
  reset();
  draw();
  return make("section", make("h2", "Held-out samples"), choices, body);
}

const known = (evaluation, n) => evaluation.worth[n] !== null;
const truncated = (evaluation, n) => Boolean(evaluation.said[n]?.some((one) => one.truncated));
const OUTCOMES = [
  ["all", () => "all", () => true],
  ["wrong", (a, b) => `${b} is wrong`, (a, b, n) => known(b, n) && b.worth[n] < 1],
  ["only a", (a) => `only ${a} solves`, (a, b, n) => known(a, n) && known(b, n) && a.worth[n] > b.worth[n]],
  ["only b", (a, b) => `only ${b} solves`, (a, b, n) => known(a, n) && known(b, n) && a.worth[n] < b.worth[n]],
  ["neither", () => "neither solves", (a, b, n) => known(a, n) && known(b, n) && a.worth[n] < 1 && b.worth[n] < 1],
  ["cut", (a, b) => `${b} is cut off, of those shown`, (a, b, n) => truncated(b, n)],
];

function sampleCard(sample, evaluations, n) {
  const columns = evaluations.map((one) => {
    const passes = one.said[n] ?? [];
    return make(
      "div",
      make("h4", evaluationName(one), mark(passes[0] && passes)),
      passes.length ? passes.map((pass) => [said(pass.text), make("p.note", about(pass, passes.length))]) : make("p.note", "no text here")
    );
  });
  return make(
    "article.sample",
    make("div.asked", figures(sample.pictures), make("p.problem", sample.problem), make("p", "Right answer: ", make("b", sample.answer || "none is known")), make("p.note", sample.id)),
    make("div.answers", columns)
  );
}

/** Return what is known of a completion beside its text. */
function about(pass, passes) {
  const parts = [];
  if (passes > 1 && pass.score !== undefined) parts.push(`score ${pass.score.toFixed(2)}`);
  for (const [name, value] of Object.entries(pass.rewards ?? {})) parts.push(`${name} ${value.toFixed(2)}`);
  if (pass.truncated) parts.push("cut off at the limit of tokens");
  return parts.join(", ");
}
