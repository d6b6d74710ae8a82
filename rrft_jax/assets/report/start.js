// The first screen: what the run did, whether it worked, one curve and a few answers.

function startSection() {
  const run = content.runs[0];
  const section = make("section.start", verdict(run));
  const curve = firstCurve(run);
  section.append(make("div.columns", make("div", story(run), headline(run)), curve));
  const examples = firstExamples();
  if (examples) section.append(examples);
  return section;
}

/** Return the outcome in one sentence. */
function verdict(run) {
  const { split, values, gains } = run.headline;
  if (!values.length) return make("p.verdict", "Nothing has been evaluated yet.");
  const last = values[values.length - 1];
  const words = gains.map(({ from, to, gain, error }) => {
    const clear = Math.abs(gain) > 2 * error;
    const [kind, way] = !clear ? ["even", "no clear difference from"] : gain > 0 ? ["good", "better than"] : ["bad", "worse than"];
    const points = `${signed(100 * gain, 1)} \u00b1 ${percent(error)} points`;
    return [`After ${to}: `, make(`span.${kind}`, `${way} ${from}`), ` (${points}). `];
  });
  const now = measured(last.value, last.error, last.percent);
  return make("p.verdict", words, `Now ${now} ${last.percent ? "right" : "reward"} on `, make("code", split), ".");
}

function story(run) {
  const steps = run.stages.map((stage) => make("li", `${stage.does} `, make("span.note", stepsOf(stage))));
  if (!steps.length) return make("p", "The model was evaluated as it is, without training.");
  return make("div", make("p", "A vision-language model learns to think about a picture before it answers a question."), make("ol.story", steps));
}

function stepsOf({ done, steps }) {
  return done < steps ? `${done} of ${steps} steps so far.` : `${steps} steps.`;
}

/** Return the numbers of the split that decides, from stage to stage, and of the other splits. */
function headline(run) {
  const { split, values } = run.headline;
  const ends = values.filter((one) => !one.row.includes("@"));
  if (!ends.length) return null;
  const cards = ends.map((one) =>
    make(
      "div.card",
      make("div.card-name", one.name),
      make("div.card-value", one.percent ? `${percent(one.value)} %` : one.value.toFixed(3)),
      make("div.card-error", `\u00b1 ${one.percent ? percent(one.error) : one.error.toFixed(3)}`)
    )
  );
  const number = ends[ends.length - 1].samples.toLocaleString("en");
  return make(
    "div",
    make("div.cards", cards),
    make("p.note", ends[0].percent ? "Right answers" : "Mean reward", ` on ${number} held-out samples of `, make("code", split), ", \u00b1 standard error. ", ends.length > 1 ? "More than two of them are called a difference." : null),
    otherSplits(run, ends.map((one) => one.row))
  );
}

/** Return lines such as "ood: 2.4 -> 22.7 -> 42.4 %". */
function otherSplits(run, ends) {
  const rows = run.rows.filter((row) => ends.includes(row.row));
  const splits = [...new Set(rows.flatMap((row) => Object.keys(row.splits)))];
  const lines = splits
    .filter((split) => split !== run.headline.split)
    .map((split) => {
      const values = rows.map((row) => own(row.splits, split)?.accuracy).filter((value) => value !== undefined);
      return values.length ? make("span.fact", make("code", split), ` ${values.map(percent).join(" \u2192 ")} %`) : null;
    });
  return make("p.note.facts", lines);
}

/** Return the rewards of GRPO, or the loss of SFT, of the first run. */
function firstCurve(run) {
  const stage = run.curves.grpo ? "grpo" : run.curves.sft ? "sft" : null;
  if (!stage) return make("div");
  const curves = run.curves[stage];
  const names = stage === "grpo" ? rewardNames(curves) : ["loss"];
  const lines = names
    .filter((name) => own(curves, name))
    .map((name) => ({ name, x: curves.step, y: meanOfLast(curves[name], curves.step.length > 30 ? 10 : 1) }));
  const title =
    stage === "grpo" ? "What its own answers earn while it learns" : "Loss of the targets while it learns";
  return make("div.first-curve", make("h3", title), plot(`step of ${stage}`, lines, 250));
}

function rewardNames(curves) {
  const names = Object.keys(curves).filter((n) => n.startsWith("reward_") && `${n}_std` in curves);
  return names.length === 1 ? names : ["reward", ...names];
}

function firstExamples() {
  const { split, before, after, samples } = content.examples;
  if (!samples?.length) return null;
  const { evaluations, samples: known } = content.splits[split];
  const [first, last] = [evaluations[before], evaluations[after]];
  const cards = samples.map((n) => {
    const sample = known[n];
    const rows = first === last ? [last] : [first, last];
    return make(
      "article.example",
      make(
        "div.question",
        figures(sample.pictures),
        make("div", make("p.problem", sample.problem), make("p", "Right answer: ", make("b", sample.answer || "none is known")))
      ),
      rows.map((one) => [make("h4", one.row, mark(one.said[n])), said(one.said[n][0].text)])
    );
  });
  return make("div", make("h3", "Held-out questions, and what the model says"), make("div.examples", cards));
}

/** Return a mark that says whether completions are right. */
function mark(passes) {
  if (!passes || passes[0].score === undefined) return null;
  const mean = passes.reduce((sum, one) => sum + one.score, 0) / passes.length;
  const text = mean === 1 ? "right" : mean === 0 ? "wrong" : `score ${mean.toFixed(2)}`;
  return make(mean === 1 ? "span.mark.good" : "span.mark.bad", text);
}
