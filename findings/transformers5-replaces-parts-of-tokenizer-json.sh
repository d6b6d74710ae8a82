#!/usr/bin/env bash
# transformers 5 replaces parts of tokenizer.json for a Qwen2 tokenizer.
#
# Setup: a folder with tokenizer_config.json (tokenizer_class), config.json (model_type) and
# tokenizer.json: a BPE model with three tokens, no merges, ignore_merges=true and the
# pre-tokenizer WhitespaceSplit.
# Expected: AutoTokenizer uses tokenizer.json as it stands, so "ab ab" gives [2, 2]. 4.57.6 does.
# Seen in 5.23.0: if tokenizer_class is Qwen2Tokenizer, or model_type is qwen2, "ab ab" gives
# [0, 1, 0, 1]. The loaded tokenizer has another pre-tokenizer, and ignore_merges is false.
# There is no warning. With PreTrainedTokenizerFast and qwen2_vl the file is used as it stands.
# Versions: transformers 5.23.0 with tokenizers 0.23.3, transformers 4.57.6 with tokenizers 0.22.2,
# Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/model"
echo '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
  "decoder": null, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [],
  "ignore_merges": true}}' \
  > "$dir/model/tokenizer.json"
echo 'import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
state = json.loads(tokenizer.backend_tokenizer.to_str())
print(tokenizer("ab ab").input_ids, state["pre_tokenizer"]["type"], state["model"]["ignore_merges"])
' > "$dir/load.py"

check() { # Compare the loaded tokenizer with the statement: check VENV CLASS MODEL_TYPE STATED
  echo "{\"tokenizer_class\": \"$2\"}" > "$dir/model/tokenizer_config.json"
  echo "{\"model_type\": \"$3\"}" > "$dir/model/config.json"
  seen=$("$dir/$1/bin/python" "$dir/load.py" "$dir/model")
  echo "$1, $2, $3: $seen"
  [ "$seen" = "$4" ] || { echo "CHANGED: stated was $4"; exit 1; }
}

python3 -m venv "$dir/v4"
"$dir/v4/bin/pip" install --quiet transformers==4.57.6 tokenizers==0.22.2
python3 -m venv "$dir/v5"
"$dir/v5/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
check v4 Qwen2Tokenizer qwen2_vl "[2, 2] WhitespaceSplit True"
check v5 Qwen2Tokenizer qwen2_vl "[0, 1, 0, 1] Sequence False"
check v5 PreTrainedTokenizerFast qwen2 "[0, 1, 0, 1] Sequence False"
check v5 PreTrainedTokenizerFast qwen2_vl "[2, 2] WhitespaceSplit True"
echo "as stated"
