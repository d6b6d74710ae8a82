"""TensorBoard: event files in `RUN/tensorboard`, written and read by TensorBoard's own package."""

import json
import pathlib
import time

from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rrft_jax.monitoring.trackers.rows import Group, Groups, Opening, Scalars, key, series_of

_FLUSH_SECONDS = 2


class Run:
    """A run in TensorBoard; each process of a resumed run writes another file."""

    def __init__(self, opening: Opening):
        folder = opening.folder / "tensorboard"
        self._newest = _newest(folder)
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_SECONDS)
        if not self._newest:
            config = json.dumps(opening.config, indent=2)
            self._write(0, text_pb("config/json", _verbatim(config)).value)

    def newest(self) -> dict[str, int]:
        return self._newest

    def scalars(self, row: Scalars) -> None:
        values = [
            Summary.Value(tag=key(row.series, name), simple_value=value)
            for name, value in row.values.items()
        ]
        self._write(row.step, values)

    def groups(self, row: Groups) -> None:
        values = []
        for number, group in enumerate(row.groups):
            values += text_pb(key(row.series, f"group_{number}"), _text(group)).value
            for place, file in enumerate(group.pictures):
                tag = key(row.series, f"group_{number}_picture_{place}")
                values.append(Summary.Value(tag=tag, image=_image(file)))
        self._write(row.step, values)

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, values: list) -> None:
        summary = Summary(value=values)
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _newest(folder: pathlib.Path) -> dict[str, int]:
    """Return the newest step of each series in the event files; a torn end is left out."""
    newest: dict[str, int] = {}
    for file in folder.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            for series in {series_of(value.tag) for value in event.summary.value}:
                newest[series] = max(event.step, newest.get(series, 0))
    return newest


def _text(group: Group) -> str:
    """Return a group as Markdown, in which no text of the data or the model is markup."""
    parts = [_verbatim(group.prompt), f"answer:\n\n{_verbatim(group.answer)}"]
    for completion in group.completions:
        numbers = {**completion.rewards, "advantage": completion.advantage}
        told = ", ".join(f"{n} {x:.3g}" for n, x in numbers.items() if x is not None)
        parts.append(f"---\n\n{_verbatim(told)}\n\n{_verbatim(completion.text)}")
    return "\n\n".join(parts)


def _verbatim(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])


def _image(file: pathlib.Path) -> Summary.Image:
    with Image.open(file) as picture:
        width, height = picture.size
    content = file.read_bytes()
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
