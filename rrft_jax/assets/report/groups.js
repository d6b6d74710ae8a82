// The groups that GRPO sampled: completions of one prompt, with rewards and advantages.

function groupsSection() {
  const runs = content.runs.map((run, n) => [String(n), run.name]).filter(([n]) => content.runs[n].groups.groups.length);
  if (!runs.length) return null;
  const state = { run: runs[0][0], filter: "all", step: "all", colour: "none" };
  const [choices, body] = [make("div.choices"), make("div")];
  const draw = () => {
    const kept = content.runs[state.run].groups;
    const steps = [...new Set(kept.groups.map((group) => group.step))];
    if (state.step !== "all" && !steps.includes(Number(state.step))) state.step = "all";
    const set = (key) => (value) => {
      state[key] = value;
      draw();
    };
    const at = kept.groups.filter((group) => state.step === "all" || group.step === Number(state.step));
    const filters = FILTERS.map(([key, text, holds]) => [key, `${text} (${at.filter(holds).length})`]);
    choices.replaceChildren(
      runs.length > 1 ? choice("run", runs, state.run, set("run")) : "",
      choice("step", [["all", "all"], ...steps.map((step) => [String(step), String(step)])], state.step, set("step")),
      choice("groups", filters, state.filter, set("filter")),
      choice("colour of tokens", COLOURINGS.map(([key, text]) => [key, text]), state.colour, set("colour"))
    );
    const holds = FILTERS.find(([key]) => key === state.filter)[2];
    const parts = [];
    if (kept.shown < kept.steps) {
      parts.push(make("p.note", `The page has ${kept.shown} of the ${kept.steps} steps that were kept.`));
    }
    const colouring = COLOURINGS.find(([key]) => key === state.colour);
    if (colouring[3]) parts.push(make("p.note", colouring[3]));
    body.replaceChildren(...parts, list(at.filter(holds), (group) => groupCard(group, colouring), "No group is such a one.", 8));
  };
  draw();
  return make(
    "section",
    make("h2", "Groups in training"),
    make("p.note", "A group is several answers to one prompt. An answer's advantage is its reward compared with those of its group. A flat group, whose rewards are all equal, teaches nothing."),
    choices,
    body
  );
}

/** Return the names of the rewards that say whether an answer is right. */
const judging = (group) => Object.keys(group.said[0].rewards).filter((name) => name.includes("accuracy"));
const isRight = (group, one) => judging(group).some((name) => own(one.rewards, name) === 1);
const FILTERS = [
  ["all", "all", () => true],
  ["flat", "flat", (group) => group.flat],
  ["signal", "not flat", (group) => !group.flat],
  ["wrong", "no right answer", (group) => judging(group).length > 0 && !group.said.some((one) => isRight(group, one))],
  ["cut", "some cut off", (group) => group.said.some((one) => !one.finished)],
];

// [key, text, completion -> a number between -1 and 1 for each piece, explanation]
const COLOURINGS = [
  ["none", "none", null, ""],
  [
    "surprise",
    "log-probability",
    (one) => one.rollout_log_probs?.map((value) => Math.min(1, -value / 3)),
    "The stronger its colour, the less likely a token was when it was drawn; strongest below a probability of 5 %. Hover to see numbers.",
  ],
  [
    "ratio",
    "ratio to the reference",
    (one) => one.reference_log_probs?.map((value, n) => Math.max(-1, Math.min(1, one.rollout_log_probs[n] - value))),
    "Log-probability when it was drawn, less that under the reference: one colour for tokens that became likelier, one for those that became less likely. Hover to see numbers.",
  ],
];

function groupCard(group, colouring) {
  const names = [...new Set(group.said.flatMap((one) => Object.keys(one.rewards)))];
  const rows = group.said.map((one) => [
    coloured(one, colouring[2]),
    one.advantage === null || one.advantage === undefined ? "\u2013" : tinted(one.advantage),
    ...names.map((name) => (own(one.rewards, name) === undefined ? "\u2013" : short(one.rewards[name]))),
  ]);
  return make(
    "article.group",
    make(
      "div.asked",
      make("p.note", `step ${group.step}, ${group.id}`, group.flat ? make("span.mark.even", "flat") : null),
      figures(group.pictures),
      make("p.problem", group.problem),
      make("p", "Right answer: ", make("b", group.answer || "none is known"))
    ),
    table(["answer", "advantage", ...names], rows)
  );
}

function tinted(advantage) {
  return make(advantage > 0 ? "span.good" : advantage < 0 ? "span.bad" : "span", signed(advantage, 2));
}

/** Return a completion, its tokens coloured if it has what that takes. */
function coloured(one, heats) {
  const cutOff = one.finished ? null : make("p.note", "cut off at the limit of tokens");
  const values = heats && one.pieces && heats(one);
  if (!values) {
    const missing = heats ? make("p.note", "its tokens were not kept") : null;
    return make("div", said(one.text), missing, cutOff);
  }
  const box = make("div.said");
  let held = 0; // of tokens that share a character with the next one
  one.pieces.forEach((piece, n) => {
    held = Math.abs(values[n]) > Math.abs(held) ? values[n] : held;
    if (!piece) return;
    const token = make(held < 0 ? "span.token.less" : "span.token", String(piece));
    token.style.setProperty("--heat", Math.abs(held).toFixed(2));
    token.title = tokenNumbers(one, n);
    box.append(token);
    held = 0;
  });
  return make("div", box, cutOff);
}

function tokenNumbers(one, n) {
  const parts = [];
  if (one.rollout_log_probs) parts.push(`log-probability ${one.rollout_log_probs[n].toFixed(3)}`);
  if (one.reference_log_probs) parts.push(`under the reference ${one.reference_log_probs[n].toFixed(3)}`);
  return parts.join(", ");
}
