"""The command: its reports add up, its verdicts follow, its complaints are of one line."""

import dataclasses
import json
import math
from collections import Counter

import jax
import pytest

from configs import grpo as grpo_config
from rrft_jax import settings
from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError
from rrft_jax.fields import replaced
from rrft_jax.models.families import RELEASED
from rrft_jax.models.table import parameter_shapes
from rrft_jax.parallel import devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import __main__ as command
from rrft_jax.plan import hlo, measure, programs, report, search
from tests import tiny

QUICK = [
    "--config=configs/grpo.py",
    "--config.grpo.batch_size=8",
    "--config.grpo.num_generations=4",
    "--config.sft.batch_size=4",
    "--config.sampling.max_new_tokens=16",
    "--config.sampling.cache_chunk=8",
    "--prompt-tokens=36",
    "--patches=16",
    "--target-tokens=16",
]


@pytest.fixture(scope="module", autouse=True)
def tiny_model():
    """One whose programs compile in seconds takes the place of the packaged one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASED, "tiny", tiny.CONFIG)
        yield


def _config(arg=""):
    return settings.make(grpo_config.get_config(arg).to_dict())


@pytest.fixture(scope="module")
def plan():
    """Of GRPO on a slice, its weights split in two."""
    args = ["--topology=v5e:2x2", "--config.stages=grpo", "--config.grpo.micro_batches=2"]
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
    config, args = command.read([*QUICK, *args, *mesh])
    [(_, plan)] = command.run(config, args)
    return plan


def test_a_report_adds_up(plan):
    result = report.as_dict(plan)
    parts = result["programs"]
    assert list(parts) == ["prefill", "layer", "ends", "grow", "decode", "reference", "update"]
    shapes = jax.tree.leaves(parameter_shapes(tiny.CONFIG), is_leaf=lambda x: isinstance(x, tuple))
    size = 4 * sum(map(math.prod, shapes))
    for name, part in parts.items():
        memory, new = part["memory"], part["memory"]["outputs"] + part["memory"]["temporaries"]
        assert not part["estimated"]
        assert part["needed"] == sum(part["held"].values()) + memory["arguments"] + new
        assert memory["temporaries"] > 0 or name in ("layer", "ends", "grow", "decode")
        assert part["bytes"] > 0 and (part["flops"] > 0 or name in ("layer", "ends", "grow"))
    update, decode = parts["update"], parts["decode"]
    # Norms and biases aren't split; all else is, over the two devices.
    assert size / 2 < update["arguments"]["parameters"] < 0.6 * size
    assert update["held"]["reference"] == update["arguments"]["parameters"]
    # The update writes over the state that it consumes, the loop over its cache.
    state = update["arguments"]["parameters"] + update["arguments"]["optimizer"]
    assert state <= update["memory"]["aliased"] < update["memory"]["arguments"]
    rows = decode["arguments"]["caches"] - parts["grow"]["held"]["prompts' cache"]
    assert rows <= decode["memory"]["aliased"] < decode["memory"]["arguments"]
    # While it samples, everything that trains lies there too.
    for name in ("parameters", "optimizer", "reference"):
        assert decode["held"][name] == {**update["arguments"], **update["held"]}[name]
    assert result["fits"] and result["spare"] == result["capacity"] - max(
        part["needed"] for part in parts.values()
    )


@pytest.mark.parametrize(
    "changes, old, updates",
    [
        ({}, False, 1),
        ({"num_iterations": 2, "mini_batches": 4, "beta": 0.0}, True, 8),
        ({"kl_in": "reward"}, True, 1),
        ({"kl_in": "reward", "beta": 0.0}, False, 1),
    ],
)
def test_every_score_and_every_update_of_a_batch_counts(changes, old, updates):
    """What a run does follows from the same fields: see `GRPO.score` and `GRPO.step`."""
    fields = {f"grpo.{name}": value for name, value in changes.items()}
    config = replaced(_config(), {"stages": ("grpo",), "grpo.batch_size": 8, **fields})
    found = programs.programs(config, tiny.CONFIG, make_mesh(), Shape(16, 36, 16))
    times = {program.name: program.times for program in found}
    assert times["update"] == updates
    assert ("old" in times) == old and ("reference" in times) == bool(config.grpo.beta)
    parts = [measure.Part(name, None, {}, {}, 0.0, hlo.Cost(flops=n)) for name, n in times.items()]
    limits = devices.Limits(1.0, 1.0, 1.0)
    plan = measure.Plan(config, tiny.CONFIG, make_mesh(), Shape(16, 36, 16), limits, parts)
    assert sum(plan.seconds("grpo").values()) == sum(times.values())


def known(plan, memory):
    """The same on a device with this much memory."""
    limits = devices.Limits(flops=1e12, bandwidth=1e11, network=1e10, memory=memory)
    return dataclasses.replace(plan, limits=limits)


def test_the_verdict_is_about_the_program_that_needs_most(plan):
    most = max(part.needed for part in plan.parts)
    assert known(plan, most).fits and known(plan, most).spare == 0
    short = known(plan, most - 1)
    assert short.fits is False and "doesn't fit" in report.verdict(short)
    unknown = dataclasses.replace(plan, limits=None)
    assert unknown.fits is None and "isn't known" in report.as_text(unknown)
    seconds = known(plan, most).seconds("grpo")
    assert list(seconds) == ["sample", "reference", "update"] and min(seconds.values()) > 0
    assert "| update  " in report.as_text(known(plan, most))


def on_a_gpu(plan, memory, whole, estimated=()):
    """The same on GPUs of which JAX takes this much memory."""
    limits = devices.Limits(1e12, 1e11, 1e10, memory=memory, between=1e9, whole=whole)
    extra = sum(dict(estimated).values())
    parts = [
        dataclasses.replace(part, estimated=dict(estimated), needed=part.needed + extra)
        for part in plan.parts
    ]
    return dataclasses.replace(plan, limits=limits, parts=parts)


def test_of_a_gpu_the_memory_that_jax_takes_counts_and_the_rest_is_for_libraries(plan):
    most, gib = max(part.needed for part in plan.parts), devices.GIB
    usual = on_a_gpu(plan, most, most / 0.75)
    assert usual.starved  # a quarter of so small a card is less than CUDA takes
    usual = on_a_gpu(plan, 60 * gib, 80 * gib)
    assert usual.fits and usual.spare == 60 * gib - most
    lines = report.verdict(usual).splitlines()
    assert lines[0].endswith("GiB to spare on each, of 60.00")
    assert lines[1].startswith("JAX takes 75% of 80.00 GiB (XLA_CLIENT_MEM_FRACTION); beside it ")
    assert "NCCL's buffers 1.0 (estimates)" in lines[1]
    assert report.advice(usual) == "XLA_CLIENT_MEM_FRACTION=0.9 in the environment"
    greedy = on_a_gpu(plan, 79 * gib, 80 * gib)
    assert greedy.fits is False and report.advice(greedy) == report.advice(known(plan, most))
    assert "JAX leaves 1.00 GiB to CUDA's libraries, which need about 2.00" in report.verdict(
        greedy
    )
    short = on_a_gpu(plan, most - 1, most + 3 * gib)
    assert short.fits is False and "are missing on each" in report.verdict(short)
    assert "estimated" not in report.memory_columns(usual)


def test_an_estimate_counts_and_is_called_one(plan):
    size = devices.GIB
    most = max(part.needed for part in plan.parts)
    guessed = on_a_gpu(plan, most + size - 1, 2**40, {"cuDNN's work space": size})
    assert guessed.spare == -1 and guessed.fits is False
    assert "cuDNN's work space 1.0" in report.verdict(guessed)
    text, result = report.as_text(guessed), report.as_dict(guessed)
    [head] = [line for line in text.splitlines() if line.startswith("| GiB a device")]
    cells = [cell.strip() for cell in head.strip("|").split("|")]
    assert cells[4:7] == ["held", "estimated", "sum"]
    assert "estimated  " in text and result["columns"]["estimated"].startswith("cuDNN's")
    assert result["programs"]["update"]["estimated"] == {"cuDNN's work space": size}
    assert result["beside"]["left"] == guessed.left


def test_the_report_begins_with_the_verdict_and_explains_its_columns(plan):
    most = max(part.needed for part in plan.parts)
    for spare in (2**30, -(2**30)):
        lines = report.as_text(known(plan, most + spare)).splitlines()
        fit = ("fits", "to spare") if spare > 0 else ("doesn't fit", "are missing")
        assert lines[0].startswith(f"verdict: {fit[0]} 4 x TPU v5 lite")
        assert "1.00 GiB " + fit[1] in lines[0]
        for table, columns in (("GiB a", report.MEMORY), ("a device", report.COST | report.TIME)):
            [head] = [line for line in lines if line.startswith(f"| {table}")]
            assert [cell.strip() for cell in head.strip("|").split("|")][1:] == list(columns)
            for name, meaning in columns.items():
                assert any(x.split("  ")[1:2] == [name] and meaning in x for x in lines)
    assert report.as_dict(plan)["verdict"] == report.verdict(plan).splitlines()


def test_the_report_names_what_it_does_not_count(plan):
    assert "costs more than this" not in report.as_text(plan)
    parts = list(plan.parts)
    parts[0] = dataclasses.replace(parts[0], cost=hlo.Cost(unknown=Counter(f=2)))
    found = dataclasses.replace(plan, parts=parts)
    assert report.as_dict(found)["programs"][parts[0].name]["uncounted"] == {"f": 2}
    [line] = [x for x in report.as_text(found).splitlines() if "costs more than this" in x]
    assert line.startswith(parts[0].name) and line.endswith("(2 x f)")


def test_the_hours_of_an_epoch_follow_from_its_steps(plan):
    config = replaced(plan.config, {"grpo.steps": 0})
    slow = dataclasses.replace(known(plan, 1e12), samples={"grpo": 20}, config=config)
    step = sum(slow.seconds("grpo").values())
    found = report.as_dict(slow)["epochs"]["grpo"]
    assert (found["samples"], found["steps"], found["run_steps"]) == (20, 3, 3)
    assert found["hours_at_least"] == pytest.approx(3 * step / 3600)
    assert "an epoch of grpo, 20 samples in 3 steps, takes at least" in report.verdict(slow)
    twice = dataclasses.replace(slow, config=replaced(config, {"grpo.epochs": 2}))
    assert "; the run's 5 steps, " in report.verdict(twice)
    unknown = dataclasses.replace(slow, limits=None)
    assert "takes a time that isn't known" in report.verdict(unknown)
    assert "hours_at_least" not in report.as_dict(unknown)["epochs"]["grpo"]
    compiled = sum(part.compile_seconds for part in plan.parts)
    assert compiled > 0 and f"compiling took {compiled:.0f} s here" in report.verdict(plan)


@pytest.mark.parametrize(
    "arguments, samples",
    [
        (["--samples=7"], {"sft": 7, "grpo": 7}),
        ([], {"sft": 1600, "grpo": 100_000}),
        (["--config.data.path=/not/here"], {}),
        (["--config.data.path={}"], {"sft": 2, "grpo": 2}),
    ],
)
def test_the_samples_are_those_of_the_data_if_it_is_here(arguments, samples, tmp_path, capsys):
    rows = [{"image": "a.png", "problem": "How many?", "answer": "1", "cot": "One."}] * 2
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    file = tmp_path / "rows.json"
    config, args = command.read([*QUICK, *(argument.format(file) for argument in arguments)])
    assert command.num_samples(config, args.samples) == samples
    assert ("--samples=N tells" in capsys.readouterr().err) == (not samples)


@pytest.mark.parametrize(
    "arguments, held, changes, first",
    [
        ({"temporaries": 9}, {}, {}, "grpo.micro_batches=0"),
        ({"temporaries": 9}, {}, {"grpo.micro_batches": 0}, "model.remat=full"),
        ({"optimizer": 9}, {}, {}, "mesh.data=1, mesh.fsdp=4"),
        ({"optimizer": 9}, {}, {"mesh": {"fsdp": 4}}, "grpo.moment_dtype=bfloat16"),
        ({}, {"sampler's weights": 9}, {"mesh": {"fsdp": 4}}, "mesh.tensor=2"),
    ],
)
def test_what_takes_most_is_changed_first(arguments, held, changes, first):
    micro_batches = changes.get("grpo.micro_batches", 1)
    fields = {"stages": ("grpo",), "grpo.batch_size": 16, "grpo.micro_batches": micro_batches}
    config = replaced(_config(), fields)
    mesh = make_mesh(**changes.get("mesh", {"data": 2, "fsdp": 2}))
    memory = {"arguments": 0, "outputs": 0, "aliased": 0, "temporaries": 0}
    memory["temporaries"] = arguments.pop("temporaries", 0) if "temporaries" in arguments else 0
    part = measure.Part("update", memory, dict(arguments), held, 9, hlo.Cost())
    plan = measure.Plan(config, tiny.CONFIG, mesh, Shape(16, 36, 16), None, [part])
    assert report.advice(plan) == first


def test_the_search_finds_what_fits():
    argv = [*QUICK, "--topology=v5e:2x2", "--search", "--tries=1", "--config.stages=sft"]
    config, args = command.read(argv)
    [(changes, plan)] = command.run(config, args)
    assert changes == {
        "mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 1,
        "sft.micro_batches": 0, "sft.moment_dtype": "float32", "model.dtype": "float32",
    }  # fmt: skip
    assert not search.as_text([(changes, plan)]).startswith("nothing")
    assert plan.fits and plan.spare < 15.75 * devices.GIB
    assert "--config.mesh.fsdp=4" in search.as_text([(changes, plan)])


def test_the_search_compiles_nothing_that_cannot_fit():
    config, args = command.read(
        ["--config=configs/grpo.py:model=7b", "--topology=v5e:2x2", "--search"]
    )
    least = r"alone are \d+\.\d at least, with .*model.dtype=bfloat16.*reference_dtype=int8"
    with pytest.raises(UserError, match=f"nothing fits 4 devices of 15.8 GiB.*{least}"):
        command.run(config, args)


def test_where_nothing_fits_the_search_says_what_misses_least(plan):
    most = max(part.needed for part in plan.parts)
    short, shorter = known(plan, most - 2**30), known(plan, most - 2**31)
    found = sorted([({"seed": 1}, shorter), ({"seed": 0}, short)], key=search._rank)
    text = search.as_text(found)
    assert text.startswith("nothing that was tried fits; the nearest misses 1.00 GiB:")
    assert text.index("--config.seed=0") < text.index("--config.seed=1")
    assert text.count("doesn't fit ") == 3  # of each, and of the report


def test_the_search_changes_least_first():
    config = _config("model=7b")
    kinds = ("model.dtype", "sft.moment_dtype", "grpo.moment_dtype", "grpo.reference_dtype")
    tried = [tuple(x[k] for k in kinds) for x in search.candidates(config, RELEASED["7b"], 8)]
    assert list(dict.fromkeys(tried)) == [
        (weights, moments, moments, reference)
        for weights in ("float32", "bfloat16")
        for moments in ("float32", "bfloat16")
        for reference in ("", "int8")
    ]
    config = replaced(config, {"grpo.beta": 0.0})
    assert not any(
        "reference" in k for x in search.candidates(config, RELEASED["7b"], 8) for k in x
    )


def test_of_an_adapter_the_search_changes_the_frozen_weights_alone():
    config = _config("model=7b,tuning=lora")
    tried = list(search.candidates(config, RELEASED["7b"], 8))
    assert dict.fromkeys(x["lora.base_dtype"] for x in tried) == {"": None, "int8": None}
    assert not any("model.dtype" in x or "grpo.reference_dtype" in x for x in tried)
    assert all(replaced(config, changes).lora.rank == 64 for changes in tried)


def test_an_adapter_of_7b_needs_a_fraction_and_no_copy_of_the_weights():
    mesh, shape = make_mesh(fsdp=8), Shape(2448, 1024, 512)

    def least(arg):
        config = _config(arg)
        model = programs.make_model(config, RELEASED["7b"], mesh)
        return programs.least_bytes(config, model, "grpo", shape)["update"]

    full, lora = least("model=7b"), least("model=7b,tuning=lora")
    assert sum(lora.values()) < 0.35 * sum(full.values())
    whole = 2 * sum(map(math.prod, _shapes("7b"))) / 8  # bytes of the weights in bfloat16
    assert whole < lora["parameters"] < 1.25 * whole  # a few sizes do not divide
    adapted = 28 * 64 * (4 * 3584 + 3584 + 512 + 512 + 3584 + 3 * (3584 + 18_944))
    assert lora["reference"] == 4 * adapted / 8  # the adapter that SFT has trained
    assert lora["optimizer"] < 2.01 * lora["reference"] == 2.01 * lora["gradients"]
    config = replaced(_config("model=7b,tuning=lora"), {"stages": ("grpo",)})
    model = programs.make_model(config, RELEASED["7b"], mesh)
    assert not programs.least_bytes(config, model, "grpo", shape)["update"]["reference"]


def _shapes(name: str) -> list[tuple[int, ...]]:
    return jax.tree.leaves(parameter_shapes(RELEASED[name]), is_leaf=lambda x: type(x) is tuple)


def test_the_search_leaves_out_what_would_need_as_much_more(monkeypatch):
    """Of eight whose weights and caches fit, it compiles one for each dtype of the weights, then
    what is smaller by as much as that one missed."""
    sizes, made = RELEASED["7b"], []
    config, args = command.read(["--config=configs/grpo.py:model=7b", "--topology=v5e:2x4"])
    config = replaced(config, {"stages": ("grpo",)})

    def make_plan(config, sizes, mesh, shape, limits, say):
        part = measure.Part("update", None, {}, {}, 0.0)
        part.needed = search.lower_bound(config, sizes, mesh, shape) + more[config.model.dtype]
        made.append((config.model.dtype, config.grpo.moment_dtype, config.mesh.tensor))
        part.memory = {} if part.needed <= limits.memory else None
        return measure.Plan(config, sizes, mesh, shape, limits, [part])

    monkeypatch.setattr(measure, "make_plan", make_plan)
    monkeypatch.setattr(report, "verdict", lambda plan: "verdict")
    more = {"float32": 4.4 * devices.GIB, "bfloat16": 2.5 * devices.GIB}
    found = command.find_devices("v5e:2x4")
    shape, limits = Shape(2448, 1024, 512), devices.limits(found[0])
    best = search.search(config, sizes, found, shape, limits, 4, lambda text: None)[0]
    assert best[1].fits and best[0]["model.dtype"] == "bfloat16"
    assert made == [
        ("float32", "bfloat16", 4),
        ("bfloat16", "float32", 4),
        ("bfloat16", "bfloat16", 4),
        ("bfloat16", "bfloat16", 4),  # the reference in eight bits
    ]


def test_neither_the_search_nor_the_advice_splits_heads_between_nodes(gpu_plugin, monkeypatch):
    config = replaced(_config("model=7b"), {"stages": ("grpo",)})
    nodes, tried = devices.absent_devices("h200:2x1"), []

    def make_plan(config, sizes, mesh, shape, limits, say):
        tried.append(config.mesh.tensor)
        part = measure.Part("update", {}, {}, {}, 0.0)
        return measure.Plan(config, sizes, mesh, shape, limits, [part])

    monkeypatch.setattr(measure, "make_plan", make_plan)
    monkeypatch.setattr(report, "verdict", lambda plan: "verdict")
    sizes, shape, limits = RELEASED["7b"], Shape(2448, 1024, 512), devices.limits(nodes[0])
    found = search.search(config, sizes, nodes, shape, limits, 99, lambda text: None)
    assert found and set(tried) == {1}
    part = measure.Part("update", None, {}, {"sampler's weights": 9}, 9, hlo.Cost())
    plan = measure.Plan(config, sizes, make_mesh(fsdp=2, devices=nodes), shape, None, [part])
    assert "tensor" not in report.advice(plan)


def test_the_search_says_where_no_mesh_divides():
    config, args = command.read([*QUICK, "--topology=v5e:2x2", "--search"])
    config = replaced(config, {"grpo.batch_size": 7})
    with pytest.raises(UserError, match="no mesh of 4 devices: expected batch_size"):
        command.run(config, args)


def test_a_head_is_never_split_and_every_batch_divides():
    config = _config("model=2b")
    meshes = [
        (changes["mesh.fsdp"], changes["mesh.tensor"])
        for changes in search.candidates(config, RELEASED["2b"], 16)
    ]
    assert meshes == 8 * [(16, 1), (8, 2)]  # with either dtype of weights, moments, reference
    assert not list(search.candidates(config, RELEASED["2b"], 64))


def test_a_lower_bound_is_one(plan):
    bound = search.lower_bound(plan.config, plan.sizes, plan.mesh, plan.shape)
    update = next(part for part in plan.parts if part.name == "update")
    held = sum(update.held.values()) - update.held["next batch"]
    state = update.arguments["parameters"] + update.arguments["optimizer"]
    assert state + held + update.arguments["parameters"] <= bound < update.needed
    decode = next(part for part in plan.parts if part.name == "decode")
    model = programs.make_model(plan.config, plan.sizes, plan.mesh)
    sampler = programs.sampler_bytes(plan.config, model, plan.shape)
    assert 0.9 * sum(decode.arguments.values()) < sampler <= sum(decode.arguments.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology=v5e:9x9"], "--topology=v5e:9x9: expected a slice such as v5e:2x4"),
        (["--topology=h100"], "expected CARD:GPUS or CARD:NODESxGPUS"),
        (["--topology=mi300:8"], "expected a TPU slice such as v5e:2x4, or GPUs such as"),
        (["--config.stages="], "expected a stage of training"),
        (["--prompt-tokens=3"], "--prompt-tokens=3: expected"),
        (["--prompt-tokens=-3"], "--prompt-tokens=-3: expected 1 or more"),
        (["--patches=18"], "--patches=18: expected a multiple of 4"),
        (
            ["--topology=v5e:4x4", "--config.mesh.data=16"],
            "sft.batch_size=4: expected a multiple of",
        ),
        (["--config.mesh.tensor=8"], "--config.mesh.tensor=8: "),
        (["--samples=0"], "--samples=0: expected 1 or more"),
        (["--search", "--tries=0"], "--tries=0: expected 1 or more"),
        (["--search"], "--search: the memory of a cpu isn't known"),
        (["--config.grpo.kl=k9"], "--config.grpo.kl=k9: expected one of k1, k2, k3"),
        (["--oops"], "--oops"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert command.main([*QUICK, *arguments]) == 1
    out, err = capsys.readouterr()
    assert not out and message in err and len(err.splitlines()) == 1
