#!/usr/bin/env bash
# peft loads nothing of an adapter that was saved with an older transformers, and warns only.
#
# Setup: a tiny random Qwen2-VL, and a random adapter of its q_proj, saved by peft. The weights are
# renamed to what peft wrote under transformers below 4.52: `base_model.model.model.layers.0...`
# instead of `base_model.model.model.language_model.layers.0...`.
# Expected: PeftModel.from_pretrained loads these, as from_pretrained loads the old names of the
# base itself; or it raises an error, because no weight of the adapter is found.
# Seen: it returns a model without an error. Every b is 0, so the model computes what its base
# computes. A warning of missing keys is the only sign. The adapter as it was saved loads.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet peft==0.21.2 accelerate==1.15.0 transformers==5.23.0 \
  torch==2.13.0 # on Linux its CPU build is enough, if pip is told where to find it

cat > "$dir/load.py" <<'EOF'
import pathlib, sys, warnings
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

def base():
    torch.manual_seed(0)
    text = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                intermediate_size=32, vocab_size=64,
                rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]})
    vision = dict(depth=1, embed_dim=32, num_heads=2, hidden_size=32)
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))

adapter = get_peft_model(base(), LoraConfig(target_modules=["q_proj"]))
for name, weight in adapter.named_parameters():
    if "lora_" in name:
        torch.nn.init.ones_(weight)
folder = pathlib.Path(sys.argv[1])
adapter.save_pretrained(folder)

def load(case):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base(), folder)
    largest = max(x.abs().max().item() for name, x in model.named_parameters() if "lora_B" in name)
    missing = any("missing adapter keys" in str(warning.message) for warning in caught)
    print(f"{case}: largest b {largest:.0f}, warning {missing}")

load("new")
file = folder / "adapter_model.safetensors"
save_file({k.replace(".language_model.", "."): x for k, x in load_file(file).items()}, file)
load("old")
EOF

stated="new: largest b 1, warning False
old: largest b 0, warning True"
seen=$("$dir/venv/bin/python" "$dir/load.py" "$dir/adapter" 2> "$dir/log") || { cat "$dir/log"; exit 1; }
echo "$seen"
[ "$seen" = "$stated" ] || { echo "CHANGED: stated was $stated"; exit 1; }
echo "as stated"
