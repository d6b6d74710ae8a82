"""The loader is measured on files, on a parquet file of the same pictures, and on a data set."""

import json

from rrft_jax.bench.data import bench_data


def test_files_and_parquet_are_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = bench_data(2, 1)
    for size in ("480x320", "800x600"):
        names = ("samples_per_second", "parquet_samples_per_second", "parquet_to_files")
        assert all(result[size][name] > 0 for name in names)


def test_a_data_set_is_measured(tmp_path):
    rows = [{"question": "How many?", "answer": str(n)} for n in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    result = bench_data(18, 1, str(tmp_path / "rows.json"))
    assert result["samples"] == 18 and result["memory_mib"] > 10
