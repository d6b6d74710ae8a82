"""PEFT folders, in and out: what the library peft itself computes with them is the reference."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from rrft_jax.data.processor import Processor
from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, kinds
from rrft_jax.hf.pretrained import load_pretrained
from rrft_jax.models import adapter, table
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.settings import Config, LoRASettings, ModelSettings, SFTSettings
from rrft_jax.training import tuning
from rrft_jax.training.sft import AXES, SFT, SFTBatch

TOLERANCE = 1e-5  # activations are of order 1
FAMILIES = {"qwen2_vl": "small", "qwen2_5_vl": "windows", "qwen3_vl": "deep"}  # one checkpoint each
# Regular expressions for PEFT, which match the modules of both families.
DECODER = r"model\.language_model\..*_proj"
BOTH = rf"{DECODER}|model\.visual\..*(qkv|attn\.proj|fc1|fc2|_proj|mlp\.0|mlp\.2)"


class Base(NamedTuple):
    """A checkpoint, and a batch of prompts: without a picture, with one, with two."""

    folder: str
    model: VLM
    params: dict
    prompt: Any
    rows: list
    compute: Any  # params -> the logits of the first token after each prompt: [3,V]


@functools.cache
def make_base(folder: str) -> Base:
    model, params = load_pretrained(folder, jnp.float32)
    processor = Processor.from_pretrained(folder)
    random = np.random.default_rng(0)
    rows = []
    for sizes in ((), ((84, 56),), ((56, 140), (112, 84))):
        pictures = [
            Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
            for width, height in sizes
        ]
        content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": "How many?"}]
        rows.append(processor.encode([{"role": "user", "content": content}], pictures))
    prompt = processor.batch(rows)

    @jax.jit
    def compute(params):
        hidden, _ = model.prefill(params, prompt)
        return model.logits(params, hidden)

    return Base(folder, model, params, prompt, rows, compute)


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, checkpoint):
    return make_base(checkpoint(FAMILIES[request.param]))


@pytest.fixture(scope="module")
def small(checkpoint):
    return make_base(checkpoint("small"))


def load_torch(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def save_peft(base: Base, folder: pathlib.Path, **settings) -> peft.PeftModel:
    """A model with a random adapter, and the adapter's folder."""
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": BOTH} | settings
    model = peft.get_peft_model(load_torch(base.folder), peft.LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return model.eval()


def inputs_of(base: Base, completions=((), (), ())):
    """Each prompt, and maybe a completion behind it, as transformers wants it."""
    for row, completion in zip(base.rows, completions, strict=True):
        tokens = torch.tensor([[*row.tokens.tolist(), *map(int, completion)]])
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if len(row.patches):
            grids = [
                [1, *(row.patch_rows_cols[row.patch_image == i].max(axis=0) + 1).tolist()]
                for i in np.unique(row.patch_image)
            ]
            inputs["pixel_values"] = torch.tensor(row.patches)
            inputs["image_grid_thw"] = torch.tensor(grids)
            inputs["mm_token_type_ids"] = (tokens == base.model.config.image_token).int()
        yield inputs


def logits_of(model, base: Base) -> np.ndarray:
    """[3,V]: what torch predicts after each prompt."""
    with torch.no_grad():
        return np.stack([model(**inputs).logits[0, -1].numpy() for inputs in inputs_of(base)])


def our_logits(base: Base, folder) -> np.ndarray:
    """[3,V]: what our model predicts with the adapter in a folder, merged by NumPy."""
    lora, arrays = adapters.read(folder, base.model.config)
    flat = table.flatten(base.params)
    for path in lora.targets:
        kernel = np.asarray(flat[f"{path}/kernel"])
        flat[f"{path}/kernel"] = kernel + lora.scale * arrays[f"{path}/a"] @ arrays[f"{path}/b"]
    return base.compute(table.unflatten(flat))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("target_modules", [DECODER, BOTH], ids=["decoder", "both"])
def test_what_peft_saved_gives_the_logits_of_peft(base, tmp_path, target_modules):
    model = save_peft(base, tmp_path, target_modules=target_modules)
    expected = logits_of(model, base)
    close(our_logits(base, tmp_path), expected)
    with model.disable_adapter():  # the adapter matters
        assert np.abs(logits_of(model, base) - expected).max() > 1e-2


def test_unmerged_it_gives_the_same_logits(base, tmp_path):
    model = save_peft(base, tmp_path)
    lora, arrays = adapters.read(tmp_path, base.model.config)
    ours = dataclasses.replace(base.model, lora=lora)

    @jax.jit
    def compute(params):
        return ours.logits(params, ours.prefill(params, base.prompt)[0])

    found = compute({**base.params, "adapter": table.unflatten(arrays)})
    close(found, logits_of(model, base))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj", "qkv"], "layers_to_transform": [1]},
        {"target_modules": "all-linear", "exclude_modules": ["mlp.down_proj"]},
        {"use_rslora": True, "r": 3},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 6}},  # as all others
        {"init_lora_weights": "orthogonal"},
        {"fan_in_fan_out": True},  # PEFT itself switches it off, and warns
    ],
    ids=lambda settings: " ".join(settings),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_setting_that_is_supported_means_what_it_means_to_peft(small, tmp_path, settings):
    model = save_peft(small, tmp_path, **settings)
    close(our_logits(small, tmp_path), logits_of(model, small))


def random_adapter(base: Base, pattern: str, **fields) -> tuple[adapter.LoRA, dict]:
    config, random = base.model.config, np.random.default_rng(1)
    lora = adapter.LoRA(5, 1.4, adapter.targets(config, pattern))
    lora = dataclasses.replace(lora, **fields)
    shapes = table.flatten(adapter.shapes(config, lora))
    arrays = {
        path: random.normal(0, 0.1, shape).astype(np.float32) for path, shape in shapes.items()
    }
    return lora, arrays


@pytest.mark.parametrize("pattern", ["decoder", ".*"])
def test_peft_loads_what_we_wrote_and_gives_our_logits(base, tmp_path, pattern):
    lora, arrays = random_adapter(base, pattern)
    adapters.write(tmp_path, base.model.config, lora, arrays, base.folder)
    model = load_torch(base.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of missing and unexpected keys
        model = peft.PeftModel.from_pretrained(model, tmp_path)
    loaded, written = peft.get_peft_model_state_dict(model), load_file(tmp_path / adapters.WEIGHTS)
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], written[name]) for name in written)
    close(logits_of(model, base), our_logits(base, tmp_path))


@pytest.mark.parametrize("alpha", [16, 0.1, 5.7, 16 / math.sqrt(5) * 5])
def test_what_we_wrote_comes_back_equal(base, tmp_path, alpha):
    lora, arrays = random_adapter(base, ".*", scale=alpha / 5, dropout=0.05)
    adapters.write(tmp_path, base.model.config, lora, arrays, base.folder)
    again, found = adapters.read(tmp_path, base.model.config)
    assert dataclasses.replace(again, scale=lora.scale) == lora
    assert again.scale == pytest.approx(lora.scale, rel=1e-15)
    assert found.keys() == arrays.keys()
    for path in arrays:
        np.testing.assert_array_equal(found[path], arrays[path], err_msg=path)
    settings = json.loads((tmp_path / adapters.CONFIG).read_text())
    assert settings["base_model_name_or_path"] == base.folder
    if alpha == 16:
        assert type(settings["lora_alpha"]) is int and settings["lora_alpha"] == 16


def loss_of(model, base: Base, tokens: np.ndarray) -> torch.Tensor:
    """What SFT minimises: the mean over the tokens that follow each prompt."""
    total = 0
    for inputs, completion in zip(inputs_of(base, tokens), tokens, strict=True):
        log_probs = model(**inputs).logits[0, -len(completion) - 1 : -1].log_softmax(-1)
        total = total - log_probs.gather(-1, torch.tensor(completion)[:, None]).sum()
    return total / tokens.size


def test_an_adapter_that_peft_trained_is_trained_further_and_goes_back(small, tmp_path):
    modules = {"target_modules": ["q_proj", "down_proj", "qkv"], "layers_to_transform": [1]}
    theirs = save_peft(small, tmp_path / "theirs", **modules)
    tokens = np.random.default_rng(2).integers(0, 400, (3, 5))
    trained = [weight for weight in theirs.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(theirs, small, tokens).backward()
        optimizer.step()
    theirs.save_pretrained(tmp_path / "theirs")

    config = Config(
        model=ModelSettings(path=small.folder, adapter=str(tmp_path / "theirs")),
        lora=LoRASettings(rank=4, alpha=6.0, targets=".*/(q|down|qkv)"),
        sft=SFTSettings(learning_rate=1e-2, warmup_steps=0, weight_decay=0.1),
    )
    assert "training goes on in it" in tuning.check(config, small.model.config)
    mesh = make_mesh(data=1)
    model, params = load_pretrained(small.folder, jnp.float32, mesh=mesh)
    model, params = tuning.begin(config, model, params)
    sft = SFT(config, model, params, 2)
    batch = SFTBatch(small.prompt, tokens[:, None], np.ones((3, 1, 5), bool))
    state, metrics = sft.update(sft.state, sharding.shard(mesh, batch, AXES), sft.base)
    expected = loss_of(theirs, small, tokens).item()
    assert float(metrics["loss"]) == pytest.approx(expected, abs=TOLERANCE)

    arrays = jax.device_get(table.flatten(state.params["adapter"]))
    adapters.write(tmp_path / "ours", model.config, model.lora, arrays, small.folder)
    back = peft.PeftModel.from_pretrained(load_torch(small.folder), tmp_path / "ours")
    assert loss_of(back, small, tokens).item() < expected
    close(our_logits(small, tmp_path / "ours"), logits_of(back, small))
    _, again = adapters.read(tmp_path / "ours", model.config)
    for path in arrays:  # layer 0 has no adapter, and training gives it none
        np.testing.assert_array_equal(again[path], arrays[path], err_msg=path)
        assert not arrays[path][0].any() and arrays[path][1].any()


@pytest.mark.parametrize("mesh", [None, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_loaded_with_its_base_it_is_merged(small, tmp_path, mesh):
    lora, arrays = random_adapter(small, ".*")
    adapters.write(tmp_path, small.model.config, lora, arrays, small.folder)
    _, params = load_pretrained(
        small.folder, jnp.float32, mesh=mesh and make_mesh(**mesh), adapter=tmp_path
    )
    found, base = table.flatten(params), table.flatten(small.params)
    assert found.keys() == base.keys()
    for path, kernel in base.items():
        expected = np.asarray(kernel, np.float64)
        if (target := path.removesuffix("/kernel")) in lora.targets:
            a, b = (arrays[f"{target}/{part}"].astype(np.float64) for part in "ab")
            expected = expected + lora.scale * a @ b
        np.testing.assert_allclose(found[path], expected, rtol=0, atol=1e-6, err_msg=path)


def test_a_run_stands_for_the_adapter_beside_its_export(small, saved, tmp_path):
    (tmp_path / "config.json").write_text('{"stages": ["sft"], "lora": {"rank": 4}}')
    with pytest.raises(UserError, match="a run without export-adapter/.*rrft_jax.export"):
        kinds.adapter(tmp_path)
    shutil.copytree(saved, tmp_path / kinds.EXPORT_ADAPTER)
    assert kinds.adapter(tmp_path) == str(tmp_path / kinds.EXPORT_ADAPTER)
    assert kinds.adapter(saved) == saved


@pytest.mark.parametrize("settings", [{"stages": ["sft"]}, {"stages": [], "lora": {"rank": 0}}])
def test_a_run_of_all_weights_is_no_adapter(tmp_path, settings):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="without an adapter.*; set model.path to it"):
        kinds.adapter(tmp_path)


def test_a_model_is_no_adapter(small):
    with pytest.raises(UserError, match="a model, not an adapter .*; set model.path to it"):
        adapters.read(small.folder, small.model.config)


def with_names(folder: pathlib.Path, *pairs: tuple[str, str]) -> None:
    """Rename the weights in a folder."""
    found = load_file(folder / adapters.WEIGHTS)
    renamed = {}
    for name, weight in found.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name] = weight
    save_file(renamed, folder / adapters.WEIGHTS)


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """The folder of an adapter of both towers of `small`."""
    folder = tmp_path_factory.mktemp("saved")
    save_peft(small, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of `saved` that a test may change."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "adapter"))


def test_the_names_of_older_transformers_mean_the_same_weights(small, saved, folder):
    """transformers below 4.52 had the decoder as `model` and the tower as `visual`."""
    with_names(
        folder, ("model.language_model.", "model."), ("model.model.visual.", "model.visual.")
    )
    names = load_file(folder / adapters.WEIGHTS)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.visual.blocks.0.attn.qkv.lora_B.weight" in names
    lora, found = adapters.read(folder, small.model.config)
    expected, arrays = adapters.read(saved, small.model.config)
    assert lora == expected and found.keys() == arrays.keys()
    assert all(np.array_equal(found[path], arrays[path]) for path in arrays)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_of_numbers_are_read(small, saved, folder, dtype):
    found = load_file(folder / adapters.WEIGHTS)
    save_file({k: x.to(dtype) for k, x in found.items()}, folder / adapters.WEIGHTS)
    _, arrays = adapters.read(folder, small.model.config)
    _, expected = adapters.read(saved, small.model.config)
    for path in arrays:
        assert arrays[path].dtype == np.float32
        np.testing.assert_allclose(arrays[path], expected[path], rtol=2**-8, atol=1e-4)


def test_layers_without_an_adapter_stay_without_one(small, tmp_path):
    settings = {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}
    save_peft(small, tmp_path / "a", **settings)
    lora, arrays = adapters.read(tmp_path / "a", small.model.config)
    assert lora.targets == ("language/layers/q", "language/layers/down")
    assert not arrays["language/layers/q/a"][0].any() and arrays["language/layers/q/a"][1].any()
    adapters.write(tmp_path / "b", small.model.config, lora, arrays, small.folder)
    theirs, ours = (load_file(tmp_path / name / adapters.WEIGHTS) for name in "ab")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


# Every setting that changes what an adapter computes, with a value that does.
REFUSED = {
    "alora_invocation_tokens": [1, 2],
    "alpha_pattern": {"q_proj": 32},
    "arrow_config": {"top_k": 2},
    "bias": "lora_only",
    "init_lora_weights": "pissa_niter_4",
    "kasa_config": {"beta": 1},
    "layer_replication": [[0, 2], [1, 2]],
    "lora_bias": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "modules_to_save": ["lm_head"],
    "monteclora_config": {"num_samples": 2},
    "peft_type": "ADALORA",
    "rank_pattern": {"q_proj": 2},
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "trainable_token_indices": [3],
    "use_bdlora": {"nblocks": 2},
    "use_dora": True,
    "use_qalora": True,
    "velora_config": {"num_groups": 2},
    "a_setting_of_a_later_release": 1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_computes_something_else_is_refused_by_name(small, folder, name):
    change(folder, **{name: REFUSED[name]})
    refused(small, folder, f"{adapters.CONFIG}: {name}=", "is not supported; merge the adapter")


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("value", [[4], {"q_proj": [4]}, 4, "q_proj"], ids=repr)
def test_a_pattern_that_is_none_is_refused_by_name(small, folder, name, value):
    change(folder, **{name: value})
    refused(small, folder, f"{adapters.CONFIG}: {name}=", "is not supported")


def test_every_setting_of_peft_is_known_here():
    """A new one fails this test. Until then it is refused, unless it is off."""
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert known == (adapters.SUPPORTED | adapters.IDLE | REFUSED.keys()) & known
    assert not adapters.SUPPORTED & adapters.IDLE and not adapters.IDLE & REFUSED.keys()
    assert adapters.SUPPORTED | adapters.IDLE <= known
    assert REFUSED.keys() - known == {"a_setting_of_a_later_release"}


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"])
def test_an_adapter_that_changed_its_base_is_refused(small, folder, start):
    change(folder, init_lora_weights=start)
    refused(small, folder, f'init_lora_weights="{start}" is not supported')


def change(folder: pathlib.Path, **settings) -> None:
    file = folder / adapters.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def refused(base: Base, folder, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        adapters.read(folder, base.model.config)
    assert "\n" not in str(error.value)
    for part in (str(folder), *parts):
        assert part in str(error.value)


Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
PATCHES = "base_model.model.model.visual.patch_embed.proj"
EMBEDDING = "base_model.model.model.language_model.embed_tokens"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (f"{EMBEDDING}.lora_embedding_A", ["no adapter of this module or of this kind", "merge"]),
        (f"{PATCHES}.lora_A.weight", ["no adapter of this module", "merge"]),
        ("base_model.model.lm_head.lora_A.weight", ["no adapter of this module", "merge"]),
        (f"{Q}.lora_magnitude_vector", ["no adapter of this module or of this kind", "merge"]),
        # peft saves these whole beside their adapters.
        (f"{EMBEDDING}.base_layer.weight", ["no adapter of this module", "merge"]),
        ("base_model.model.lm_head.base_layer.weight", ["no adapter of this module", "merge"]),
        (f"{EMBEDDING}.weight", ["a whole weight of the base", "merge"]),
        (f"{Q}.lora_A.default.weight", ["no adapter of this module or of this kind"]),
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", ["fits no module"]),
        (
            "base_model.model.model.vision_tower.fc.lora_A.weight",
            ["set model.path to the adapter's"],
        ),
        (f"{Q.removeprefix('base_model.model.')}.lora_A.weight", ["let peft save"]),
    ],
)
def test_a_weight_that_has_no_place_is_named(small, folder, name, parts):
    file = folder / adapters.WEIGHTS
    save_file(load_file(file) | {name: torch.zeros(4, 64)}, file)
    refused(small, folder, f"weight {name}", *parts)


def edit(change) -> Any:
    def edited(folder: pathlib.Path) -> None:
        found = load_file(folder / adapters.WEIGHTS)
        change(found)
        save_file(found, folder / adapters.WEIGHTS)

    return edited


def old_and_new(found: dict) -> None:
    found[f"{Q}.lora_A.weight".replace("language_model.", "")] = found[f"{Q}.lora_A.weight"].clone()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (edit(lambda found: found.pop(f"{Q}.lora_B.weight")), [f"weight {Q}.lora_B", "missing"]),
        (edit(old_and_new), ["by its old name too"]),
        (edit(lambda found: found.clear()), ["it is empty"]),
        (edit(lambda found: found[f"{Q}.lora_A.weight"][1, 2].fill_(math.nan)), ["NaN"]),
        (
            edit(lambda found: found.update({f"{Q}.lora_A.weight": torch.zeros(4, 63)})),
            ["shape (4, 63)", "need (4, 64)", "the adapter's base, "],
        ),
        (
            edit(lambda found: found.update({f"{Q}.lora_A.weight": torch.zeros(4, 64).int()})),
            ["stored as I32", "save it as F32"],
        ),
        (lambda folder: change(folder, r=8), ["shape (4, ", "r=8", "need (8, "]),
        (lambda folder: change(folder, r=None), ["r is None"]),
        (lambda folder: change(folder, lora_alpha="16"), ["lora_alpha is '16'"]),
        (lambda folder: change(folder, lora_dropout=1), ["lora_dropout is 1"]),
        (lambda folder: (folder / adapters.CONFIG).write_text("{"), ["not JSON"]),
        (lambda folder: (folder / adapters.CONFIG).unlink(), ["give the folder of a PEFT adapter"]),
        (lambda folder: (folder / adapters.WEIGHTS).unlink(), ["no such file"]),
        (
            lambda folder: (folder / adapters.WEIGHTS).write_bytes(b""),
            ["incomplete or no safetens"],
        ),
        (lambda folder: (folder / adapters.WEIGHTS).write_bytes(b"PK" * 99), ["incomplete"]),
        (
            lambda folder: (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin"),
            ["adapter_model.bin: only safetensors are read"],
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(small, folder, damage, parts):
    damage(folder)
    refused(small, folder, *parts)


def test_a_name_on_the_hub_is_no_folder(small):
    refused(small, "someone/counting-lora", "hf download someone/counting-lora")
