"""The processor of a checkpoint for torch programs, for still pictures alone.

transformers' own one also has a part for videos, which needs a torchvision that fits torch's build.
"""

from transformers import AutoTokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class PictureProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its part for videos."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the parts."""
        return ["image_processor", "tokenizer"]


def load(checkpoint: str) -> PictureProcessor:
    """Return the processor of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    return PictureProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)
