"""Folders read by whichever transformers stands first on the path; prints what came of it.

    python reading.py QUESTION.json FOLDER...

QUESTION.json has a chat, its picture's file, and a reply. For each folder a line of JSON is
printed: the ids of the chat (the picture's repeated) and of the reply, the log-probabilities of the
reply, and the greedy one.
"""

import json
import sys

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

NEW_TOKENS = 24
VISUAL = [  # what a random model might say, and ours never does
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
]


def image_processor():
    """The class that works without torchvision."""
    try:
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module

        return module.Qwen2VLImageProcessorPil
    except ImportError:  # before transformers 5
        from transformers.models.qwen2_vl import image_processing_qwen2_vl as module

        return module.Qwen2VLImageProcessor


def read(folder: str, chat: list, picture: str, reply: str) -> dict:
    """What the folder's files are read as."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, torch_dtype=torch.float32
    )
    pixels = image_processor().from_pretrained(folder)(
        images=[Image.open(picture)], return_tensors="pt"
    )
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    mark = "<|image_pad|>"
    text = text.replace(mark, mark * (int(pixels["image_grid_thw"].prod()) // 4))
    prompt = tokenizer(text)["input_ids"]
    reply_ids = tokenizer(reply)["input_ids"]

    def inputs(ids: list[int]) -> dict:
        tokens = torch.tensor([ids])
        given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **pixels}
        if int(transformers.__version__.split(".")[0]) >= 5:
            given["mm_token_type_ids"] = (tokens == model.config.image_token_id).int()
        return given

    with torch.no_grad():
        logits = model.eval()(**inputs(prompt + reply_ids)).logits[0, -len(reply_ids) - 1 : -1]
        greedy = model.generate(
            **inputs(prompt),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            suppress_tokens=tokenizer.convert_tokens_to_ids(VISUAL),
        )
    chosen = logits.log_softmax(-1).gather(-1, torch.tensor(reply_ids)[:, None])[:, 0]
    return {
        "version": transformers.__version__,
        "problems": {kind: list(names) for kind, names in loading.items() if names},
        "prompt": prompt,
        "reply": reply_ids,
        "log_probs": chosen.tolist(),
        "greedy": greedy[0, len(prompt) :].tolist(),
        "decoded": tokenizer.decode(reply_ids),
    }


if __name__ == "__main__":
    question = json.loads(open(sys.argv[1]).read())
    for path in sys.argv[2:]:
        print(json.dumps(read(path, **question)))
