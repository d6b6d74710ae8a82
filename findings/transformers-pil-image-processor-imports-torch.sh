#!/usr/bin/env bash
# The image processor of transformers that works without torch imports torch wherever it is installed.
#
# Setup: transformers and torch in one environment, and an import of Qwen2VLImageProcessorPil, whose
# backend is PIL and NumPy. PreTrainedTokenizerFast is imported for comparison.
# Expected: neither imports torch, because neither can use it, and both work where it is missing.
# Seen: the tokenizer leaves torch alone. The image processor imports torch, its compiler's front
# end and its distributed tensors: over 2,000 modules, seconds of CPU time at the start of a process.
# Versions: transformers 5.23.0, torch 2.13.0, pillow 12.0.0, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet transformers==5.23.0 pillow==12.0.0 \
  torch==2.13.0 # on Linux its CPU build is enough, if pip is told where to find it

cat > "$dir/load.py" <<'EOF'
import sys

def tell(name):
    print(f"{name}: torch {'torch' in sys.modules}, over 2,000 modules {len(sys.modules) > 2000}")

from transformers import PreTrainedTokenizerFast
tell("tokenizer")
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
tell("image processor")
EOF

stated="tokenizer: torch False, over 2,000 modules False
image processor: torch True, over 2,000 modules True"
seen=$("$dir/venv/bin/python" "$dir/load.py" 2> "$dir/log") || { cat "$dir/log"; exit 1; }
echo "$seen"
[ "$seen" = "$stated" ] || { echo "CHANGED: stated was $stated"; exit 1; }
echo "as stated"
