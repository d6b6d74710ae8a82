"""The workloads that the measurements share: shapes, a model, and random prompts."""

import dataclasses

import jax
import numpy as np

from rrft_jax.hf import load_pretrained
from rrft_jax.models import VLM
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import qwen2_vl
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Workload:
    """The shapes of a step.

    Attributes:
      prompts: the number of prompts, B.
      prompt_tokens: the tokens of a prompt, P.
      rows: the rows of patches of a prompt's picture.
      cols: the columns of patches of a prompt's picture.
      samples: the completions per prompt, G.
      new_tokens: the tokens of a completion, T.
      model: the sizes of the model.
    """

    prompts: int
    prompt_tokens: int
    rows: int
    cols: int
    samples: int
    new_tokens: int
    model: VLMConfig

    @property
    def visual_tokens(self) -> int:
        """The visual tokens of a prompt's picture."""
        return self.rows * self.cols // self.model.vision.merge_size**2


REMAT = "dots"  # the fastest here, as in the `tiny` config
ROWS = 2  # prompts of a micro-batch: the fastest on two cores, whose caches are small
SMALL = qwen2_vl.make_config(  # 4.8 M parameters
    vision=dict(depth=4, width=128, heads=4, mlp_width=512, out_width=256),
    text=dict(
        vocab_size=2048,
        width=256,
        depth=4,
        heads=4,
        kv_heads=2,
        mlp_width=688,
        rope_theta=1e6,
        mrope_sections=(8, 12, 12),
        norm_eps=1e-5,
        tied=True,
    ),
    tokens=dict(
        image_token=6,
        video_token=7,
        vision_start_token=3,
        vision_end_token=4,
    ),
)
PRESETS = {  # prompts with a 480 x 320 picture, times 8 samples, float32
    "hf_baseline": Workload(4, 293, 22, 34, 8, 64, SMALL),
    "long_tail": Workload(14, 293, 22, 34, 8, 128, SMALL),
}


def micro_batches(prompts: int) -> int:
    """Return the number of micro-batches of so many prompts: of `ROWS` each, or of one each."""
    return prompts if prompts % ROWS else prompts // ROWS


def start(
    workload: Workload, checkpoint: str | None, mesh: jax.sharding.Mesh
) -> tuple[VLM, dict, Prompt]:
    """Return the model, its float32 parameters (random, or a folder's), and prompts."""
    if checkpoint:
        model, params = load_pretrained(checkpoint, np.float32, mesh=mesh)
        workload = dataclasses.replace(workload, model=model.config)
        model = dataclasses.replace(model, remat=REMAT)
    else:
        model = VLM(workload.model, remat=REMAT)
        params = jax.device_put(model.init(jax.random.key(0)), sharding.replicated(mesh))
    return model, params, jax.device_put(random_prompt(workload), sharding.replicated(mesh))


def random_prompt(workload: Workload) -> Prompt:
    """Return prompts of random text around a random picture, without padding."""
    rng, config = np.random.default_rng(0), workload.model
    batch, length = workload.prompts, workload.prompt_tokens
    patches = workload.rows * workload.cols
    tokens = rng.integers(10, min(600, config.text.vocab_size), (batch, length))
    tokens[:, 4 : 4 + workload.visual_tokens] = config.image_token
    rows_cols = np.stack(np.meshgrid(range(workload.rows), range(workload.cols), indexing="ij"), -1)
    return Prompt(
        tokens=tokens.astype(np.int32),
        mask=np.ones((batch, length), bool),
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), (3, batch, length)),
        next_position=np.full(batch, length, np.int32),
        patches=rng.normal(size=(batch, patches, config.vision.patch_values)).astype(np.float32),
        patch_rows_cols=np.broadcast_to(rows_cols.reshape(-1, 2), (batch, patches, 2)),
        patch_image=np.zeros((batch, patches), np.int32),
    )
