"""The tables of a run's results."""

from rrft_jax.evaluation.tables import parts_table, results_table


def test_results_table():
    def entry(accuracy, decoding="greedy"):
        return {
            "accuracy": accuracy,
            "samples": 1000,
            "standard_error": 0.0123,
            "decoding": decoding,
        }

    table = results_table(
        {
            "start": {"id": entry(0.5)},
            "grpo": {"id": entry(1.0), "ood": entry(0.756, "temperature 1")},
            "skipped": {"grpo": {"seen": 10, "causes": {"picture": 1}}},
        }
    )
    assert table == (
        "| accuracy, % |          id |        ood |\n"
        "| ----------- | ----------: | ---------: |\n"
        "| start       |  50.0 ± 1.2 |          – |\n"
        "| grpo        | 100.0 ± 1.2 | 75.6 ± 1.2 |\n"
        "\n"
        "± standard error. id: 1,000 samples, greedy; ood: 1,000 samples, temperature 1."
    )


def test_rows_with_other_samples_say_so():
    rows = {"start": {"id": _entry(0.5)}, "sft": {"id": _entry(0.75, samples=8)}}
    table = results_table(rows)
    assert "50.0 ± 10.0 of 4 |" in table and "75.0 ± 10.0 of 8 |" in table
    assert " of " not in results_table({"start": rows["start"], "sft": rows["start"]})


def _entry(accuracy, **fields):
    return {"accuracy": accuracy, "samples": 4, "standard_error": 0.1, **fields}


def test_beside_the_paper_stand_the_same_completions_scored_as_the_paper_did():
    entry = _entry(0.5, accuracy_reference=0.25, standard_error_reference=0.2, passes=2)
    reported = {"paper: Reason-RFT": {"ood": "52.10 (60.00 / 28.40)"}}
    table = results_table({"start": {"id": entry, "ood": entry}}, reported).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:5]] == [
        "start", "start, reference scoring", "paper: Reason-RFT"
    ]  # fmt: skip
    assert [line.split("|")[3].strip() for line in table[2:5]] == [
        "50.0 ± 10.0", "25.0 ± 20.0", "52.10 (60.00 / 28.40)"
    ]  # fmt: skip
    assert table[4].split("|")[2].strip() == "–"
    assert "id, ood: 4 samples, 2 passes." in table[6] and "DS-D and DS-M" in table[7]


def test_parts_have_a_table_of_their_own():
    parts = {"choice": _entry(0.5), "non_choice": _entry(0.25)}
    results = {
        "start": {"id": _entry(0.4, parts=parts), "ood": _entry(0.4)},
        "grpo": {"id": _entry(0.4, parts={"choice": _entry(1.0)})},
        "skipped": {"grpo": {"seen": 1, "causes": {}}},
    }
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in parts_table(results).splitlines()
    ]
    assert rows[0] == ["accuracy of parts, %", "choice", "non_choice"]
    assert rows[2:] == [
        ["start, id", "50.0 ± 10.0", "25.0 ± 10.0"],
        ["grpo, id", "100.0 ± 10.0", "–"],
    ]
    assert parts_table({"start": {"id": _entry(0.4)}}) == ""


def test_rewards_have_a_table_of_their_own():
    def rewards(**means):
        own = {name: {"mean": mean, "standard_error": 0.01} for name, mean in means.items()}
        return {"samples": 4, "rewards": own}

    one, two = rewards(iou=0.5, reward=0.5), rewards(iou=0.25, format=1.0, reward=1.25)
    table = results_table({"start": {"val": one}}).splitlines()
    assert table[0].split() == "| mean reward | iou |".split()  # the sum is the same number
    assert table[2].split() == "| start, val | 0.500 ± 0.010 |".split()
    both = results_table({"start": {"val": two | _entry(0.5)}}).splitlines()
    assert both[0].startswith("| accuracy, % |") and both[3] == ""
    assert both[4].split() == "| mean reward | iou | format | reward |".split()
