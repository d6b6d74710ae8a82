"""Weights & Biases: a run whose local files lie in `RUN/wandb`, online or offline.

The tool's own environment variables choose the mode and the place: WANDB_MODE, WANDB_PROJECT,
WANDB_ENTITY, WANDB_API_KEY.
"""

import json
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

from rrft_jax.errors import UserError
from rrft_jax.monitoring.progress import say
from rrft_jax.monitoring.trackers.rows import Groups, Opening, Scalars, key, series_of

PROJECT = "rrft_jax"
_STEP = "step"  # the value of each row that is its step in its series
_FLUSH_SECONDS = 1.0  # the process of W&B may be killed with the run
_TIMEOUT_SECONDS = 30.0  # W&B itself would wait longer
_HEADER, _BLOCK, _RECORD = 7, 32_768, struct.Struct("<IHB")  # of a file *.wandb, a LevelDB log
_FULL, _FIRST, _LAST = 1, 2, 4  # kinds of a LevelDB record


class Run:
    """A run in W&B. A row has a step of its series; W&B's own step counts the rows."""

    def __init__(self, opening: Opening):
        # Tables wait there until they are sent.
        os.environ.setdefault("WANDB_DATA_DIR", str(opening.folder.resolve() / "wandb"))
        settings = wandb.Settings(
            console="off",  # the run's own lines stay as they are
            silent=True,
            init_timeout=_TIMEOUT_SECONDS,
            finish_timeout=_TIMEOUT_SECONDS,
            x_transaction_log_flush_interval=_FLUSH_SECONDS,
        )
        online = wandb.setup().settings.mode == "online"
        if online and not wandb.login(prompt=False):  # `init` would ask on the terminal, and wait
            raise UserError("no login; run `wandb login`, or set WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", opening.name),
            id=opening.id,
            resume="allow",
            dir=opening.folder,
            config=dict(opening.config),
            settings=settings,
        )
        self._newest, self._row = self._kept(opening)
        self._defined: set[str] = set()  # names whose step W&B knows
        local = pathlib.Path(self._run.dir).parent
        say(f"wandb: {f'offline; wandb sync {local}' if self._run.offline else self._run.url}")

    def newest(self) -> dict[str, int]:
        return self._newest

    def scalars(self, row: Scalars) -> None:
        self._log(row.series, row.step, row.values)

    def groups(self, row: Groups) -> None:
        names = list(dict.fromkeys(n for g in row.groups for c in g.completions for n in c.rewards))
        most = max(len(group.pictures) for group in row.groups)
        pictures = [f"picture {number}" for number in range(1, most + 1)]
        columns = ["prompt", "answer", *pictures, "completion", *names, "advantage"]
        table = wandb.Table(columns=columns)
        for group in row.groups:
            images = [wandb.Image(str(file)) for file in group.pictures]
            images += [None] * (most - len(images))
            for own in group.completions:
                rewards = [own.rewards.get(name) for name in names]
                table.add_data(
                    group.prompt, group.answer, *images, own.text, *rewards, own.advantage
                )
        files = [(file, group.prompt) for group in row.groups for file in group.pictures]
        images = [wandb.Image(str(file), caption=prompt) for file, prompt in files]
        self._log(row.series, row.step, {"table": table} | ({"pictures": images} if images else {}))

    def close(self) -> None:
        self._run.finish()

    def _log(self, series: str, step: int, values: dict[str, Any]) -> None:
        of_series = key(series, _STEP)
        row = {key(series, name): value for name, value in values.items()}
        for name in row.keys() - self._defined:
            self._run.define_metric(name, step_metric=of_series)
        self._defined |= row.keys()
        self._run.log({**row, of_series: step}, step=self._row)
        self._row += 1

    def _kept(self, opening: Opening) -> tuple[dict[str, int], int]:
        """Return the newest step of each series that W&B has, and the number of its rows.

        Online, the server says how many rows it has, and the local files say which ones these are.
        """
        rows = self._run.step
        newest = {}
        for file in opening.folder.glob(f"wandb/*run-*-{opening.id}/run-{opening.id}.wandb"):
            for number, values in history(file):
                if self._run.offline:
                    rows = max(rows, number + 1)
                elif number >= rows:
                    continue
                for name, step in values.items():
                    series = series_of(name)
                    if name == key(series, _STEP):
                        newest[series] = max(step, newest.get(series, 0))
        return newest, rows


def history(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, values) of each row in a local file of W&B."""
    for content in _records(file.read_bytes()):
        row = Record.FromString(content).history
        if row.item:
            values = {"/".join(item.nested_key) or item.key: item.value_json for item in row.item}
            yield row.step.num, {name: json.loads(value) for name, value in values.items()}


def _records(log: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log up to its torn end."""
    place, parts = _HEADER, []
    while place + _RECORD.size <= len(log):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD.size:
            place += left
            continue
        _, size, kind = _RECORD.unpack_from(log, place)
        place += _RECORD.size
        content = log[place : place + size]
        if len(content) < size or not kind:
            return
        place += size
        parts = [content] if kind in (_FULL, _FIRST) else [*parts, content]
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
