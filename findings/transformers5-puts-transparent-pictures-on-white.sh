#!/usr/bin/env bash
# A transparent picture gives Qwen2-VL other patches under transformers 5 than under 4.
#
# Setup: a red picture whose pixels are all fully transparent, as PNG and WebP files can have them,
# and the image processor of Qwen2-VL with the same settings under both versions.
# Expected: the same patches. preprocessor_config.json says do_convert_rgb, and nothing of a
# background, and a model sees what it was trained on.
# Seen: transformers 4 drops the transparency, so the picture is red. transformers 5 lays it on
# white, so the picture is white. No warning tells it.
# Versions: transformers 4.57.1 and 5.23.0, pillow 12.0.0, numpy 2.3.4, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet pillow==12.0.0 numpy==2.3.4
for version in 4.57.1 5.23.0; do
  "$dir/venv/bin/pip" install --quiet --target "$dir/$version" transformers=="$version"
done

cat > "$dir/look.py" <<'EOF'
import numpy as np
from PIL import Image

try:
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module
    read = module.Qwen2VLImageProcessorPil
except ImportError:  # before transformers 5
    from transformers.models.qwen2_vl import image_processing_qwen2_vl as module
    read = module.Qwen2VLImageProcessor
picture = Image.new("RGBA", (56, 56), (255, 0, 0, 0))
settings = dict(do_convert_rgb=True, do_normalize=False, min_pixels=56**2, max_pixels=56**2)
patches = read(**settings)(images=[picture], return_tensors="np")["pixel_values"]
print((255 * patches.reshape(16, 3, -1).mean((0, 2))).round().astype(int).tolist())
EOF

seen=$(for version in 4.57.1 5.23.0; do
  PYTHONPATH="$dir/$version" "$dir/venv/bin/python" "$dir/look.py" 2> "$dir/log" \
    || { cat "$dir/log" >&2; exit 1; }
done)
stated="[255, 0, 0]
[255, 255, 255]"
echo "$seen"
[ "$seen" = "$stated" ] || { echo "CHANGED: stated was $stated"; exit 1; }
echo "as stated"
