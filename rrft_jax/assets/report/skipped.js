// The samples that were left out, and why.

function skippedSection() {
  const several = content.runs.length > 1;
  const counts = content.runs.flatMap((run) =>
    run.skipped.counts.map((one) => [several ? `${run.name}: ${one.where}` : one.where, one.cause, one.number.toLocaleString("en"), one.seen.toLocaleString("en")])
  );
  const reasons = content.runs.flatMap((run) => run.skipped.reasons);
  const number = content.runs.reduce((sum, run) => sum + run.skipped.number, 0);
  const section = make("section", make("h2", "Samples left out"));
  if (!counts.length && !reasons.length) {
    section.append(make("p", "None."));
    return section;
  }
  if (counts.length) section.append(table(["stage or split", "cause", "left out", "of samples seen"], counts, 2));
  if (reasons.length) {
    const which = number > reasons.length ? `the first ${reasons.length} of ${number.toLocaleString("en")}` : `all ${number}`;
    section.append(make("details", make("summary", `reasons: ${which}`), table(["stage or split", "cause", "reason"], reasons, 3)));
  }
  return section;
}
