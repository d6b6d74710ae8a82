"""Folders at a URL: read in ranges from a server, as from a disk; what goes wrong is one line."""

import functools
import http.server
import pathlib
import re
import shutil
import threading

import jax
import numpy as np
import pytest

from rrft_jax import workdir
from rrft_jax.data import Processor
from rrft_jax.errors import UserError
from rrft_jax.hf import kinds, load_pretrained, save_pretrained, storage
from rrft_jax.hf.weights import file_sizes


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and ranges of them; notes (name, bytes sent) of each."""

    sent: list[tuple[str, int]] = []

    def do_GET(self):
        file = pathlib.Path(self.translate_path(self.path))
        if not file.is_file():
            return self.send_error(404)
        data, asked = file.read_bytes(), re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        if not part:
            return self.send_error(416)
        self.send_response(206 if asked else 200)
        if asked:
            last = int(asked[1]) + len(part) - 1
            self.send_header("Content-Range", f"bytes {asked[1]}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        # Before the bytes: the client may read them and ask for `sent` before this thread goes on.
        self.sent.append((file.name, len(part)))
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(tmp_path):
    """`serve(folder)`: the URL of a copy, and the copy."""
    handler = functools.partial(Ranges, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(folder):
        copy = pathlib.Path(
            shutil.copytree(folder, tmp_path / "served" / pathlib.Path(folder).name)
        )
        Ranges.sent.clear()
        return f"http://127.0.0.1:{server.server_port}/served/{copy.name}", copy

    yield start
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("preset", ["small", "wide"])
def test_a_folder_at_a_url_is_the_one_on_the_disk(checkpoint, serve, tmp_path, monkeypatch, preset):
    monkeypatch.setattr(storage, "_RANGE", 10_000)
    url, copy = serve(checkpoint(preset))
    model, params = load_pretrained(url)
    sizes = {file.name: file.stat().st_size for file in copy.glob("*.safetensors")}
    ranges = [(name, size) for name, size in Ranges.sent if name in sizes]
    assert max(size for _, size in ranges) <= 10_000
    # A file's last byte comes twice.
    assert sum(size for _, size in ranges) == sum(sizes.values()) + len(sizes)

    _, expected = load_pretrained(copy)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert file_sizes(url) == sizes
    assert workdir.fingerprint(url, sizes) == workdir.fingerprint(copy, sizes)
    ours, theirs = Processor.from_pretrained(url), Processor.from_pretrained(copy)
    assert ours.stop_tokens == theirs.stop_tokens
    save_pretrained(tmp_path / "out", model, params)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        copy / "tokenizer.json"
    ).read_bytes()


def test_a_run_at_a_url_means_its_export(checkpoint, serve):
    url, copy = serve(checkpoint("small"))
    assert kinds.checkpoint(url) == url
    (copy / "export").mkdir()
    (copy / "config.json").rename(copy / "export" / "config.json")
    (copy / "config.json").write_text('{"stages": []}')
    assert kinds.checkpoint(url) == f"{url}/export"


def _torn(folder):
    file = sorted(folder.glob("model-*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "served/.*/config.json: no such file"),
        (_torn, "safetensors: incomplete or no safetensors file"),
        (lambda folder: next(folder.glob("model-00002-*")).unlink(), "model-00002.*: no such file"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "neither model.safe"),
    ],
)
def test_what_is_wrong_at_a_url_is_one_line(checkpoint, serve, damage, message):
    url, copy = serve(checkpoint("odd"))
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(url)
    assert "\n" not in str(error.value) and url in str(error.value)


def test_what_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr(storage, "_RETRIES", {"max_retries": 0})
    with pytest.raises(UserError, match="127.0.0.1:9/m/config.json: can't be read"):
        load_pretrained("http://127.0.0.1:9/m")
    with pytest.raises(UserError, match="ftp:// is not read; expected gs://, s3://"):
        load_pretrained("ftp://host/m")
    for url in ("gs://bucket/m", "s3://bucket/m", "https://host/m"):  # each has its driver
        assert storage._store(url).url == f"{url}/"
