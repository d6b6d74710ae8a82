"""The table of a run's results."""

from rrft_jax.evaluation.tables import results_table


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
