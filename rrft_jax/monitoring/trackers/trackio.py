"""trackio: a local database, in `RUN/trackio` unless TRACKIO_DIR names another folder."""

import os
from typing import Any

from rrft_jax.monitoring.progress import say
from rrft_jax.monitoring.trackers.rows import Groups, Opening, Scalars, key, series_of

PROJECT = "rrft_jax"
_STEP = "step"  # the value of each row that is its step in its series


class Run:
    """A run in trackio. Its name ends in the run's id, because several runs may share a folder."""

    def __init__(self, opening: Opening):
        os.environ.setdefault("TRACKIO_DIR", str(opening.folder.resolve() / "trackio"))
        import trackio  # it reads the environment when it is imported
        from trackio.sqlite_storage import SQLiteStorage

        self._trackio = trackio
        self._run = trackio.init(
            project=PROJECT,
            name=f"{opening.name}-{opening.id}",
            resume="allow",
            config=dict(opening.config),
            embed=False,
        )
        say(f"trackio: TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {PROJECT}")
        self._newest: dict[str, int] = {}
        for row in SQLiteStorage.get_logs(PROJECT, self._run.name):
            for name, step in row.items():
                series = series_of(name)
                if series and name == key(series, _STEP):
                    self._newest[series] = max(step, self._newest.get(series, 0))

    def newest(self) -> dict[str, int]:
        return self._newest

    def scalars(self, row: Scalars) -> None:
        self._log(row.series, row.step, row.values)

    def groups(self, row: Groups) -> None:
        columns = ["prompt", "answer", "pictures", "completion", "rewards", "advantage"]
        rows = []
        for group in row.groups:
            pictures = [self._trackio.Image(str(file)) for file in group.pictures]
            for own in group.completions:
                rewards = ", ".join(f"{name} {value:g}" for name, value in own.rewards.items())
                rows.append(
                    [group.prompt, group.answer, pictures, own.text, rewards, own.advantage]
                )
        self._log(row.series, row.step, {"table": self._trackio.Table(columns, rows)})

    def close(self) -> None:
        self._run.finish()

    def _log(self, series: str, step: int, values: dict[str, Any]) -> None:
        row = {key(series, name): value for name, value in values.items()}
        self._run.log({**row, key(series, _STEP): step}, step=step)
