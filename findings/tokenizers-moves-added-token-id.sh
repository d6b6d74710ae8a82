#!/usr/bin/env bash
# The id of an added token changes at load when it leaves a gap after the vocabulary.
#
# Setup: a tokenizer.json with three words (ids 0 to 2) and one added token "<x>" with id 9.
# Expected: token_to_id("<x>") is 9, the id in the file, or loading fails.
# Seen: token_to_id("<x>") is 3, the first free id. No error or warning is given.
# Effect: a model that keeps the embedding of "<x>" in row 9 reads row 3 instead.
# Versions: tokenizers 0.23.3, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet tokenizers==0.23.3

"$dir/venv/bin/python" - "$dir/tokenizer.json" <<'PY'
import json
import sys

from tokenizers import Tokenizer

token = dict(id=9, content="<x>", special=True, single_word=False, lstrip=False, rstrip=False,
             normalized=False)
words = dict(type="WordLevel", vocab={"a": 0, "b": 1, "c": 2}, unk_token="a")
with open(sys.argv[1], "w") as f:
    json.dump(dict(version="1.0", truncation=None, padding=None, added_tokens=[token],
                   normalizer=None, pre_tokenizer=dict(type="WhitespaceSplit"),
                   post_processor=None, decoder=None, model=words), f)
tokenizer = Tokenizer.from_file(sys.argv[1])
seen = tokenizer.token_to_id("<x>"), tokenizer.encode("a <x> c").ids
print("id in the file: 9; id after loading and ids of 'a <x> c':", *seen)
if seen != (3, [0, 3, 2]):
    sys.exit("CHANGED: the added token is no longer moved to id 3")
print("as stated: the added token has moved from id 9 to id 3")
PY
