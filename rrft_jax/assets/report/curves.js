// Curves of all metrics, of all runs, over steps or minutes.

const FIRST = ["accuracy", "reward", "completion_length", "flat_groups", "kl", "entropy", "loss"];

function curvesSection() {
  const stages = [...new Set(content.runs.flatMap((run) => Object.keys(run.curves)))];
  if (!stages.length) return null;
  const state = {
    stage: stages.includes("grpo") ? "grpo" : stages[stages.length - 1],
    axis: "step",
    window: 1,
    chosen: null,
  };
  const body = make("div");
  const draw = () => {
    dropPlots(body);
    body.replaceChildren(...curves(state, draw));
  };
  const choices = make(
    "div.choices",
    choice("stage", stages.map((stage) => [stage, stage]), state.stage, (stage) => {
      state.stage = stage;
      state.chosen = null;
      draw();
    }),
    choice("axis", [["step", "steps"], ["minutes", "minutes of steps"]], state.axis, (axis) => {
      state.axis = axis;
      draw();
    }),
    choice("values", [["1", "of each step"], ["10", "mean of the last 10"]], "1", (window) => {
      state.window = Number(window);
      draw();
    })
  );
  draw();
  return make("section", make("h2", "Curves"), choices, body);
}

/** Return the check boxes of a stage's metrics, and a plot of each chosen one. */
function curves(state, draw) {
  const runs = content.runs.filter((run) => run.curves[state.stage]);
  const edge = / (low|high)$/;
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves[state.stage])))].filter(
    (name) => !["step", "minutes"].includes(name) && !edge.test(name)
  );
  names.sort((a, b) => rank(a) - rank(b));
  state.chosen ??= new Set(names.filter((name) => rank(name) < FIRST.length));
  const ticks = names.map((name) =>
    tick(name, state.chosen.has(name), (on) => {
      if (on) state.chosen.add(name);
      else state.chosen.delete(name);
      draw();
    })
  );
  const grid = names
    .filter((name) => state.chosen.has(name))
    .map((name) => {
      const lines = runs
        .filter((run) => own(run.curves[state.stage], name))
        .map((run) => {
          const stage = run.curves[state.stage];
          const line = { name: run.name, x: stage[state.axis], y: meanOfLast(stage[name], state.window) };
          if (own(stage, `${name} low`)) [line.low, line.high] = [stage[`${name} low`], stage[`${name} high`]];
          return line;
        });
      return make("figure", make("figcaption", name), plot(state.axis, lines));
    });
  return [make("details.metrics", make("summary", "metrics"), make("div.ticks", ticks)), make("div.grid", grid)];
}

/** Return a metric's place: the most telling ones come first, and are shown at once. */
function rank(name) {
  if (/^reward_/.test(name)) return /_std$|_failures$/.test(name) ? FIRST.length : FIRST.indexOf("reward");
  const place = FIRST.indexOf(name.split(",")[0]);
  return place < 0 ? FIRST.length : place;
}

/** Return the mean of each value and the ones before it, `size` in all. */
function meanOfLast(values, size) {
  if (size === 1) return values;
  return values.map((_, n) => {
    const last = values.slice(Math.max(0, n + 1 - size), n + 1).filter((value) => value !== null);
    return last.length ? last.reduce((a, b) => a + b) / last.length : null;
  });
}
