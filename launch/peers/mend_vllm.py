"""Make vLLM's environment work where pip found no CPU builds of the packages beside torch.

pip's usual builds of torchvision, torchaudio and torchcodec are for GPUs, and do not load beside
torch for CPUs. vLLM works without the last two. torchvision only misses the names of operators that
nobody calls here.
"""

import importlib
import pathlib
import subprocess
import sys
import sysconfig

OPERATORS = """\
import torch

for name in ("nms", "qnms"):
    form = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
    torch.library.define(f"torchvision::{name}", form)
"""


def main() -> None:
    """Remove what can't be loaded, and name torchvision's operators at each start of Python."""
    broken = [name for name in ("torchaudio", "torchcodec") if not loads(name)]
    if broken:
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", *broken], check=True)
    if not loads("torchvision"):
        folder = pathlib.Path(sysconfig.get_path("purelib"))
        (folder / "sitecustomize.py").write_text(OPERATORS)


def loads(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


if __name__ == "__main__":
    main()
