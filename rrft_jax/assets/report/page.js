// The page: a head, a way to each section, and the sections that there is content for.

const SECTIONS = {
  start: ["Outcome", startSection],
  curves: ["Curves", curvesSection],
  results: ["Results", resultsSection],
  samples: ["Held-out samples", samplesSection],
  groups: ["Groups in training", groupsSection],
  skipped: ["Left out", skippedSection],
};

function head() {
  const several = content.runs.length > 1;
  const tasks = [...new Set(content.runs.map((run) => run.facts.task))];
  const title = make("h1", `${content.runs.map((run) => run.name).join(" and ")}: ${tasks.join(" and ")}`);
  const facts = content.runs.map((run) =>
    make(
      "p.facts",
      several ? make("b", run.name) : null,
      Object.entries(run.facts)
        .filter(([name]) => several || name !== "task")
        .map(([name, value]) => make("span.fact", make("span.note", name), ` ${value}`))
    )
  );
  return [title, ...facts];
}

const links = [];
for (const [id, [name, build]] of Object.entries(SECTIONS)) {
  const section = build();
  if (!section) continue;
  section.id = id;
  document.getElementById("main").append(section);
  const link = make("a", name);
  link.href = `#${id}`;
  links.push(link);
}
document.getElementById("header").append(...head(), make("nav", links));
