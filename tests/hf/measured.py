"""Writes a checkpoint of 1.1 GB, loads and saves it, and says what that took: for tests.

python -m tests.hf.measured FOLDER DEVICES [PORT NUMBER INDEX]
"""

import hashlib
import json
import math
import pathlib
import sys

import jax
import numpy as np

from rrft_jax.hf import load_pretrained, pretrained, save_pretrained
from rrft_jax.models import table
from rrft_jax.parallel import distributed
from rrft_jax.parallel.mesh import make_mesh

# A stack of its MLPs is larger than what is stacked on the host, and than any tensor.
CONFIG = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": True,
    "hidden_size": 1024,
    "num_hidden_layers": 19,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 8192,
    "vocab_size": 16_384,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 1024},
}
LARGEST = 2 * 16_384 * 1024  # bytes of the embedding


def write(folder: pathlib.Path) -> None:
    """In three files and bfloat16, of random bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    config, _ = pretrained.read_config(folder)
    tensors = [
        (table.export_name(name, config), table.hf_shape(entry, config))
        for entry in table.entries(config)
        for name in table.names(entry, config)
    ]
    numbers = np.random.default_rng(0).integers(2**16, size=2**23 + 1, dtype=np.uint16)
    noise = (numbers & 0xBFFF).tobytes()  # no NaN, of which devices keep no more than that it's one
    weight_map = {}
    for i in range(3):
        file, header, end = f"model-{i + 1:05}-of-00003.safetensors", {}, 0
        for name, shape in tensors[i::3]:
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with open(folder / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for place in range(0, end, len(noise)):
                out.write(noise[: end - place])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def digests(folder: pathlib.Path) -> dict[str, str]:
    """A short text for the bytes of each tensor."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as data:
            header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
            start = data.tell()
            for name, field in header.items():
                if name != "__metadata__":
                    begin, end = field["data_offsets"]
                    data.seek(start + begin)
                    found[name] = hashlib.blake2b(data.read(end - begin)).hexdigest()
    return found


def status(file: str, field: str) -> int:
    """A number that the kernel keeps on this process."""
    lines = pathlib.Path("/proc/self", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak() -> int:
    """The most bytes that the process had in memory at one time."""
    return 1024 * status("status", "VmHWM:")


def main(folder: pathlib.Path, devices: int, port: int = 0, number: int = 1, index: int = 0):
    jax.config.update("jax_num_cpu_devices", devices)
    if number > 1:
        distributed.initialize(f"127.0.0.1:{port}", number, index)
    mesh = make_mesh(fsdp=2, tensor=len(jax.devices()) // 2)
    distributed.gather(None)
    base, read = peak(), status("io", "rchar:")
    model, params = load_pretrained(folder, mesh=mesh)
    found = {"read": status("io", "rchar:") - read, "loading": peak() - base}
    leaves = jax.tree.leaves(params)
    found["held"] = sum(s.data.nbytes for x in leaves for s in x.addressable_shards)
    found["all"] = sum(x.nbytes for x in leaves)
    save_pretrained(folder.with_name("saved"), model, params)
    found["saving"] = peak() - base
    distributed.gather(None)
    print(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
