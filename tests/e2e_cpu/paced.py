"""A rollout engine whose requests take times of their own, importable by Ray's workers."""

import asyncio
import hashlib
from types import SimpleNamespace

from openrlhf_mel.method.token_timeline import TokenTimeline

STEP_S = 0.004  # of a token
M = "point: 1+1=3\ncritique: it is 2\nheuristic: "


def drawn(kind, text, below):
    """A number that depends on the request alone."""
    return int.from_bytes(hashlib.sha256(f"{kind}\0{text}".encode()).digest()[:6], "big") % below


class Paced:
    """Generates a token every few milliseconds; how many, and what fails, is drawn from the request.

    Notes in `faults` whatever is generated while the weights change, and constructions during an evaluation.
    """

    def __init__(self):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained("data/toy/model")
        self.running = {"rollout": 0, "evaluation": 0, "M": 0, "replay": 0}
        self.changing, self.faults = False, []
        self.begin_counting()

    def begin_counting(self):
        self._timeline, self._aborted = TokenTimeline(), 0

    def timeline(self):
        return self._timeline

    async def get_num_unfinished_requests(self):
        return sum(self.running.values())

    async def until_idle(self):
        while sum(self.running.values()):
            await asyncio.sleep(STEP_S)
        return self._aborted

    async def weights(self, changing):
        """The policy is about to change them, or has."""
        self.changing = changing
        self._note(sum(self.running.values()), "weights")

    async def found(self):
        return self.faults

    def _note(self, wrong, what):
        if wrong:
            self.faults.append((what, dict(self.running)))

    async def _tokens(self, kind, count):
        generated, self.running[kind] = 0, self.running[kind] + 1
        try:
            while generated < count:
                await asyncio.sleep(STEP_S)
                generated += 1
                self._timeline.add(1)
                self._note(self.changing, kind)
                self._note(self.running["evaluation"] and self.running["M"] + self.running["replay"], "evaluation")
        except asyncio.CancelledError:
            self._aborted += generated
            await asyncio.sleep(STEP_S)
            raise
        finally:
            self.running[kind] -= 1

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        key = str(list(prompt_token_ids))
        text = M + "add " * (1 + drawn("M", key, 12))
        await self._tokens("M", len(text) // 4)
        if drawn("failure", key, 10) == 0:
            raise RuntimeError("the engine failed")
        reason = "abort" if drawn("abort", key, 10) == 0 else "stop"
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason=reason)])

    async def generate_responses(
        self, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples=1, images=None
    ):
        kind = "replay" if "point:" in prompt else "evaluation" if num_samples == 1 else "rollout"
        return list(
            await asyncio.gather(
                *(self._response(kind, i, prompt, label, hf_tokenizer) for i in range(num_samples)),
            )
        )

    async def _response(self, kind, i, prompt, label, tokenizer):
        key = f"{i}{prompt}"
        await self._tokens(kind, 1 + drawn(kind, key, 25))
        right = drawn("right", key, 2)
        text = f"\\boxed{{{label if right else 0}}}" + " 1" * drawn("length", key, 5)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = before + tokenizer(text, add_special_tokens=False)["input_ids"]
        return {
            "prompt": prompt, "label": label, "images": None, "mm_train_inputs": None, "observation_tokens": ids,
            "action_ranges": [(len(before), len(ids))], "rollout_log_probs": None, "truncated": False,
            "reward": float(right), "scores": float(right), "extra_logs": {},
        }  # fmt: skip
