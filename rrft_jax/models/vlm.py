"""The model as pure functions of (params, inputs): encode_images, prefill, decode, score.

The prompt is computed once per group of completions. `prefill` and `decode` serve sampling, and
`score` serves everything else. Supervised fine-tuning is `score` with one completion per prompt.
The reference model is `score` with other parameters.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from rrft_jax.models import adapter, decoder, leaves, table, vision
from rrft_jax.models.adapter import LoRA
from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import Kernels, KeyValues, choose
from rrft_jax.models.attention.decoding import Slots
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.decoder import DecodeStep, Placeholders, Step, text_angles
from rrft_jax.models.layers import broadcast, widened
from rrft_jax.models.prompt import Prompt, turned
from rrft_jax.parallel import sharding
from rrft_jax.parallel.sharding import constrain

LayerCaches = tuple[KeyValues, ...]  # one for each layer, in order


@flax.struct.dataclass
class PromptCache:
    """The prompts of the sequences that are being sampled.

    Attributes:
      kv: keys [B,K,C,P] and values [B,K,P,C] of each layer.
      mask: [B,P] bool, False on padding.
      slots: the slots of the sequences; None if every prompt has R/B sequences, in order.
    """

    kv: LayerCaches
    mask: Array
    slots: Slots | None = None


@dataclasses.dataclass(frozen=True)
class VLM:
    """The model without its weights; hashable, so that it can be a static argument.

    Attributes:
      config: the sizes and parts of the model.
      dtype: the dtype of the activations; parameters are cast at their use.
      param_dtype: the dtype that parameters are stored in. Training sees bfloat16 parameters
        widened to float32, so that their gradients are float32. The layers' matrices are then cast
        before the loop over layers, where this copies nothing. No result depends on this field.
      attention: the library that computes attention (`models/attention`); "auto" chooses by the
        devices.
      remat: the rematerialisation policy of both towers' layers (`models/remat.py`).
      logit_chunk: the greatest number of tokens of each completion whose logits are in memory at a
        time.
      lora: the form of the adapter that `params` may have (`models/adapter.py`); None if it has
        none.
      mesh: the mesh that activations are laid out on; None on one device.
      source: the folder that the model was loaded from; an export copies its tokenizer files. The
        comparison of two models ignores it, so that copies of a folder share compiled programs.
    """

    config: VLMConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention: str = "auto"
    remat: str = "none"
    logit_chunk: int = 128
    lora: LoRA | None = None
    mesh: jax.sharding.Mesh | None = None
    source: str | None = dataclasses.field(default=None, compare=False)

    def _vision(self, stored: bool = False) -> vision.VisionTower:
        how = (self.dtype, self.remat, self.kernels, stored)
        return vision.VisionTower(self.config.vision, *how)

    def _language(self, stored: bool = False) -> decoder.Decoder:
        how = (self.dtype, self.remat, self.kernels, stored)
        return decoder.Decoder(self.config.text, *how)

    @property
    def kernels(self) -> Kernels:
        """The form of attention to run.

        Raises:
          UserError: `attention` can't run here.
        """
        return choose(self.attention, self.mesh, self.dtype)

    def init(self, key: Array) -> dict:
        """Return random float32 parameters, a plain dict with the layers of each tower stacked."""
        c = self.config
        vision_key, language_key = jax.random.split(key)
        merge = c.vision.merge_size**2
        patches = jnp.zeros((1, merge, c.vision.patch_values))
        rows_cols, segments = jnp.zeros((1, merge, 2), int), jnp.zeros((1, merge), int)
        tokens, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
        angles = text_angles(c.text, jnp.zeros((3, 1, 1), int))

        def run(language: decoder.Decoder):
            x = language.embed_tokens(tokens)
            x, *_ = language(x, None, Step(prompt_mask=mask, prompt_angles=angles))
            return language.logits(x)

        return {
            "vision": self._vision().init(vision_key, patches, rows_cols, segments)["params"],
            "language": self._language().init(language_key, method=run)["params"],
        }

    def encode_images(self, params: dict, prompt: Prompt) -> Float[Array, "B N D"]:
        """Return the visual tokens of each prompt's pictures, in order."""
        return self.encode_features(params, prompt)[0]

    def encode_features(
        self, params: dict, prompt: Prompt
    ) -> tuple[Float[Array, "B N D"], Float[Array, "n B N D"] | None]:
        """Return `encode_images`, and the features that layers add to visual tokens, if any."""
        weights = self._cast(params["vision"], "blocks", "deepstack")
        visual, deepstack = self._vision(leaves.any_stored(weights["blocks"])).apply(
            {"params": weights, **self._adapter(params, "vision")},
            prompt.patches,
            prompt.patch_rows_cols,
            prompt.patch_image,
        )
        if deepstack is not None:
            deepstack = constrain(deepstack, ".BND", self.mesh)
        return constrain(visual, "BND", self.mesh), deepstack

    def prefill(self, params: dict, prompt: Prompt) -> tuple[Float[Array, "B D"], LayerCaches]:
        """Run the prompts through the decoder.

        Returns:
          (hidden state of the last token, which predicts the first completion token; keys
          [B,K,C,P] and values [B,K,P,C] of each layer).
        """
        x, step = self._prompt_stream(params, prompt)
        x, _, prompt_kv = self._decoder(params, x, None, step)
        if self.kernels.tokens_first:  # decoding reads any order, if it is that of the mask
            prompt_kv = jax.tree.map(lambda kv: turned(kv, -prompt.padding, 2), prompt_kv)
        keys = constrain(jnp.einsum("lbpkc->lbkcp", prompt_kv.keys), "LBKCP", self.mesh)
        values = constrain(jnp.einsum("lbpkc->lbkpc", prompt_kv.values), "LBKPC", self.mesh)
        return self._last(x, step), tuple(map(KeyValues, keys, values))

    def decoding_weights(self, params: dict) -> dict:
        """Return the decoder's weights in the form that `decode` and `logits` read.

        The layers are a list. All weights are cast to `dtype` and gathered over `fsdp` (but not
        over `tensor`), so that no decoding step has to do it. Outside `jax.jit` each layer is a
        program of its own: besides parameters and result, at most one layer is in memory.
        """
        ends = dict(params["language"])
        layers = ends.pop("layers")
        own = params.get("adapter", {}).get("language", {}).get("layers", {})
        layers = [decoding_layer(self, layers, own, i) for i in range(self.config.text.depth)]
        return {"language": {**decoding_ends(self, ends), "layers": layers}}

    def empty_cache(self, sequences: int, length: int) -> LayerCaches:
        """Return room for the keys and values of `length` tokens of each sequence."""
        c = self.config.text

        def zeros(*sizes):
            x = jnp.zeros((sequences, c.kv_heads, *sizes), self.dtype)
            return constrain(x, "RK..", self.mesh)

        return tuple(
            KeyValues(zeros(c.head_size, length), zeros(length, c.head_size))
            for _ in range(c.depth)
        )

    def decode(
        self,
        weights: dict,
        tokens: Int[Array, " R"],
        time: Int[Array, ""] | int,
        next_position: Int[Array, " R"],
        prompts: PromptCache,
        cache: LayerCaches,
        begun: Int[Array, " R"] | None = None,
    ) -> tuple[Float[Array, "R D"], LayerCaches]:
        """Run one token of each sequence through the decoder.

        Sequences that begin at different times share one clock: all of them write into the same
        place of their caches. Then a cache is a ring, where time t has the place t modulo T.

        Args:
          weights: the result of `decoding_weights`.
          tokens: the tokens of this time.
          time: the time; without `begun` it is the index of the tokens in their completions.
          next_position: the position that each sequence would have at time 0.
          prompts: the sequences' prompts.
          cache: keys [R,K,C,T] and values [R,K,T,C] of each layer, with the times before this one.
          begun: the time of each sequence's first token, less than T before this one; None if it is
            0 for all of them.

        Returns:
          (hidden state, which predicts the token at `time + 1`; the cache with this token).
        """
        length = cache[0].length
        slot, seen = time, jnp.arange(length) <= time
        if begun is not None:
            slot, age = time % length, (time - jnp.arange(length)) % length
            seen = age <= (time - begun)[:, None]
        positions = jnp.broadcast_to(next_position + time, (3, len(tokens)))
        angles = text_angles(self.config.text, positions)
        step = DecodeStep(slot, seen, angles, prompts.mask, prompts.slots)
        layer = decoder.DecoderLayer(self.config.text, self.dtype)
        x, extended = self._embed(weights, tokens), []
        for own_weights, prompt, own in zip(weights["language"]["layers"], prompts.kv, cache):
            x, own = layer.apply({"params": own_weights}, x, step, prompt, own, method="decode")
            extended.append(own)
        return x, tuple(extended)

    def logits(self, params: dict, hidden: Float[Array, "*N D"]) -> Float32[Array, "*N V"]:
        """Return the logits of hidden states."""
        variables = {"params": params["language"]}
        return self._language().apply(variables, hidden, method="logits")

    def score(
        self, params: dict, prompt: Prompt, completions: Int[Array, "B G T"]
    ) -> Float32[Array, "B G T"]:
        """Return the log-probabilities of the tokens of G completions per prompt, at temperature 1.

        The gradient equals that of scoring every (prompt, completion) pair by itself. Padding at
        the end of a completion is scored too. It changes no other result, so mask its scores.
        """
        return self.score_with_entropy(params, prompt, completions)[0]

    def score_with_entropy(
        self, params: dict, prompt: Prompt, completions: Int[Array, "B G T"]
    ) -> tuple[Float32[Array, "B G T"], Float32[Array, "B G T"]]:
        """Return `score`, and the entropy of the model's distribution at each token."""
        hidden = self._predicting_hidden(params, prompt, completions)
        return self._token_statistics(params, hidden, completions)

    def _predicting_hidden(
        self, params: dict, prompt: Prompt, completions: Int[Array, "B G T"]
    ) -> Float[Array, "B G T D"]:
        """Return the hidden state that predicts each completion token."""
        batch, group, length = completions.shape
        x, step = self._prompt_stream(params, prompt)
        steps = prompt.next_position[:, None, None] + jnp.arange(length)  # [B,1,T]
        step = step.replace(
            group_angles=text_angles(self.config.text, jnp.broadcast_to(steps, (3, *steps.shape)))
        )
        completion_x = self._embed(params, completions)
        x, completion_x, _ = self._decoder(params, x, completion_x, step)
        first = broadcast(self._last(x, step)[:, None, None], (batch, group, 1, x.shape[-1]))
        return jnp.concatenate([first, completion_x[:, :, :-1]], axis=2)

    def _token_statistics(
        self, params: dict, hidden: Float[Array, "B G T D"], tokens: Int[Array, "B G T"]
    ) -> tuple[Float32[Array, "B G T"], Float32[Array, "B G T"]]:
        """Return log-probability and entropy per token, with the logits of one chunk in memory.

        The backward pass computes a chunk's logits again.
        """
        batch, group, length, width = hidden.shape
        chunks = -(-length // self.logit_chunk)
        chunk = -(-length // chunks)  # as equal as can be, so that little is padding
        pad = chunks * chunk - length

        def split(x):  # [B,G,T,...] -> [chunks,B,G,chunk,...]
            x = jnp.pad(x, [(0, 0), (0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 3))
            return jnp.moveaxis(x.reshape(batch, group, chunks, chunk, *x.shape[3:]), 2, 0)

        params, rows, vocabulary = self._sharded_head(params)

        def statistics(hidden, tokens):
            hidden = constrain(hidden, f"{rows}GT.", self.mesh)
            logits = constrain(self.logits(params, hidden), f"{rows}GT{vocabulary}", self.mesh)
            normaliser = jax.nn.logsumexp(logits, axis=-1)
            # A sum instead of a gather, because its gradient is no scatter, and V may be split. A
            # product, because JAX would keep the zeros of a choice, as large as the logits.
            chosen = tokens[..., None] == jnp.arange(logits.shape[-1])
            taken = jnp.sum(chosen * logits, axis=-1)
            expected = jnp.sum(jnp.exp(logits - normaliser[..., None]) * logits, axis=-1)
            return taken - normaliser, normaliser - expected

        if chunks == 1:
            return statistics(hidden, tokens)
        statistics = jax.checkpoint(statistics)
        _, results = jax.lax.scan(
            lambda _, x: (None, statistics(*x)), None, (split(hidden), split(tokens))
        )
        return tuple(
            jnp.moveaxis(r, 0, 2).reshape(batch, group, chunks * chunk)[..., :length]
            for r in results
        )

    def _sharded_head(self, params: dict) -> tuple[dict, str, str]:
        """Return the parameters with the head widened and split over `fsdp` too.

        A chunk's hidden states then move to the shards of the head, which are larger, and no device
        ever holds the whole head or its gradient.

        Returns:
          (params, logical axis of the logits' first axis, logical axis of their vocabulary).
        """
        config, mesh, language = self.config.text, self.mesh, params["language"]
        module, name, axes = (
            ("embed", "embedding", "v.") if config.tied else ("head", "kernel", ".v")
        )
        head, scale = language[module][name], widened(language["norm"]["scale"])
        if "adapter" not in params:  # otherwise the head is frozen
            # Before the loop over chunks, because gradients add up there in their inputs' dtype.
            head = widened(head)
        rows, vocabulary = "B", "V"
        if mesh and sharding.num_shards(mesh, "v", config.vocab_size) >= mesh.shape["fsdp"]:
            head, rows, vocabulary = constrain(head, axes, mesh), "b", "v"
            # JAX confuses the gradients of a loop's constants if only some of them are unchanged
            # parameters, and gradients are added up in place (`training/state.py`).
            scale = constrain(scale, ".", mesh)
        used = {module: {name: head}, "norm": {"scale": scale}}
        return {"language": {**language, **used}}, rows, vocabulary

    def _prompt_stream(self, params: dict, prompt: Prompt) -> tuple[Float[Array, "B P D"], Step]:
        """Return embedded prompt tokens, with visual tokens in the place of their placeholders."""
        if self.kernels.tokens_first:
            prompt = prompt.tokens_first()
        x = self._embed(params, prompt.tokens)
        placeholders = deepstack = None
        if prompt.patches.shape[1]:
            visual, deepstack = self.encode_features(params, prompt)
            is_image = prompt.tokens == self.config.image_token
            index = jnp.clip(jnp.cumsum(is_image, axis=1) - 1, 0, visual.shape[1] - 1)
            placeholders = Placeholders(is_image, index)
            x = placeholders.taken(visual, x)
        step = Step(
            prompt_mask=prompt.mask,
            prompt_angles=text_angles(self.config.text, prompt.positions),
            deepstack=deepstack,
            placeholders=placeholders,
        )
        return constrain(x, "BPD", self.mesh), step

    def _last(self, x: Float[Array, "B P D"], step: Step) -> Float[Array, "B D"]:
        """Return the hidden state of each prompt's last token."""
        if not self.kernels.tokens_first:
            return x[:, -1]
        mask = step.prompt_mask
        last = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
        return jnp.sum(jnp.where(last[..., None], x, 0), axis=1)  # its gradient is no scatter

    def _embed(self, params: dict, tokens: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        variables = {"params": params["language"]}
        x = self._language().apply(variables, tokens, method="embed_tokens")
        if x.ndim > 2:  # moves only the cast rows that are read, not the table
            x = constrain(x, {3: "bPD", 4: "bGTD"}[x.ndim], self.mesh)
        return constrain(x, {2: "RD", 3: "BPD", 4: "BGTD"}[x.ndim], self.mesh)

    def _decoder(self, params: dict, *inputs):
        weights = self._cast(params["language"], "layers")
        language = self._language(leaves.any_stored(weights["layers"]))
        return language.apply({"params": weights, **self._adapter(params, "language")}, *inputs)

    def _adapter(self, params: dict, tower: str) -> dict:
        """Return a tower's collection "adapter", its factors scaled; {} if the tower has none."""
        own = params.get("adapter", {}).get(tower)
        return {"adapter": adapter.scaled(own, self.lora.scale)} if own else {}

    def _cast(self, weights: dict, *stacks: str) -> dict:
        """Return a tower's weights; cast its layers if that copies nothing (`param_dtype`)."""
        if jnp.dtype(self.param_dtype) != jnp.dtype(self.dtype):
            return weights
        layers = {name: weights[name] for name in stacks if name in weights}
        return {**weights, **leaves.cast(layers, self.dtype)}


@functools.partial(jax.jit, static_argnames="model")
def decoding_ends(model: VLM, ends: dict) -> dict:
    """Return the weights of `VLM.decoding_weights` that belong to no layer."""
    axes = table.parameter_axes(model.config)["language"]
    return {name: _gathered(model, weights, axes[name]) for name, weights in ends.items()}


@functools.partial(jax.jit, static_argnames="model")
def decoding_layer(model: VLM, layers: dict, adapters: dict, index: Array) -> dict:
    """Return one layer of `VLM.decoding_weights` from the stacked layers and their adapters."""
    axes = table.parameter_axes(model.config)["language"]["layers"]
    one, own = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), (layers, adapters)
    )
    one = adapter.merge({**one, "adapter": own}, model.lora.scale if own else 1.0)
    return _gathered(model, one, jax.tree.map(lambda own: own.removeprefix("L"), axes))


def _gathered(model: VLM, weights: dict, axes: dict) -> dict:
    return jax.tree.map(
        lambda x, own: constrain(x.astype(model.dtype), own.replace("D", "."), model.mesh),
        weights,
        axes,
    )
