"""Templates and folders like those of Qwen3-VL: no system turn of their own, and Thinking ones."""

import json
import pathlib
import shutil

from rrft_jax.assets import TINY

FIRST = 539  # id behind the packaged vocabulary

# Pictures stand in turns of users alone. Tools would get a system turn; nothing here gives any.
INSTRUCT = """\
{%- macro said(turn) -%}
{%- if turn.content is string -%}{{ turn.content }}{%- else -%}{%- for part in turn.content -%}
{%- if (part.type == 'image' or 'image_url' in part) and turn.role == 'user' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- if tools -%}
{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}
{%- endif -%}
{%- for turn in messages -%}
{{ '<|im_start|>' + turn.role + '\\n' + said(turn) + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
THINKING = INSTRUCT.replace("assistant\\n", "assistant\\n<think>\\n")


def add_tokens(folder: pathlib.Path, flags: dict[str, bool]) -> None:
    """Adds tokens to a copy of the packaged tokenizer: text -> whether it is flagged as special."""
    written = json.loads((TINY / "tokenizer.json").read_text())
    example = written["added_tokens"][0]
    written["added_tokens"] += [
        {**example, "id": FIRST + i, "content": token, "special": special}
        for i, (token, special) in enumerate(flags.items())
    ]
    (folder / "tokenizer.json").write_text(json.dumps(written))


def make(folder: pathlib.Path, template: str = THINKING, special: bool | None = False) -> str:
    """Copies the packaged model under another template.

    Its tokenizer has the tags of a thought as one token each, as Qwen3's, unless `special` is None.
    """
    shutil.copytree(TINY, folder)
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    for name, content in (("tokenizer_config", settings), ("chat_template", {})):
        written = json.dumps(content | {"chat_template": template})
        (folder / f"{name}.json").write_text(written)
    if special is not None:
        add_tokens(folder, {"<think>": special, "</think>": special})
    return str(folder)
