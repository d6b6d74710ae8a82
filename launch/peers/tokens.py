"""The tokenizer of a checkpoint in the form that Tunix wants. It counts tokens."""

import work as works
from transformers import AutoTokenizer

NEVER = -1  # a token that no model draws


class Tokenizer:
    """A tokenizer whose texts never end, so that completions have one length."""

    def __init__(self, work: works.Work):
        """Read the tokenizer, and make the text of the prompt."""
        self.tokenizer = AutoTokenizer.from_pretrained(work.checkpoint)
        self.prompt = self.tokenizer.apply_chat_template(
            work.chat, tokenize=False, add_generation_prompt=True
        )
        self.encoded, self.decoded = [], []

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt."""
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        self.encoded.append(len(tokens))
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Return the text of a completion."""
        self.decoded.append(len(tokens))
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def bos_id(self) -> None:
        """Return that nothing stands before a prompt."""

    def eos_id(self) -> int:
        """Return the token that ends a completion."""
        return NEVER

    def pad_id(self) -> int:
        """Return the token that fills rows."""
        return NEVER

    def counts(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        counts = {
            "completions": len(self.decoded),
            "completion_tokens": sum(self.decoded),
            "prompt_tokens": max(self.encoded),
        }
        self.encoded, self.decoded = [], []
        return counts
