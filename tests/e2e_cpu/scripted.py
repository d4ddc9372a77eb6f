"""A scripted rollout engine, importable by Ray's workers."""

import asyncio
import re
import time
from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

from openrlhf_mel.method.token_timeline import TokenTimeline

M = "## 1. Failure path\nhere\n## 2. Success factors\nwhy\n## 3. Reflection\nI\n## 4. Heuristics\nif x then y"


class Characters:
    """A tokenizer with one token per character."""

    all_special_tokens = ()

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


def returned(prompt, label, i):
    """Return the prompt and the label of a response; an agent may change them."""
    if "[plain]" in prompt:
        return prompt, f"{label}{' ' * i}"
    return (f"{prompt}{i}", label) if "[changed]" in prompt else (prompt, label)


class Counted:
    """Notes in `states` when one was pickled or read in this process."""

    states: ClassVar[list[str]] = []

    def __init__(self, name):
        self.name = name

    def __getstate__(self):
        self.states.append("pickled")
        return self.__dict__

    def __setstate__(self, state):
        self.states.append("read")
        self.__dict__.update(state)


class Scripted:
    """Answers half of a rollout right, writes M, replays right; records requests and times of answers.

    "slow until 3" in a question: its rollout ends after three replays of others (or a timeout). "[changed]": each
    response returns with its own prompt. "[plain]": its label returns as plain text, each in its own form.
    "[long M]", "[long replay]": they are generated for ever, a token every 10 ms, until they are aborted; the second time,
    they end at once.
    """

    def __init__(self):
        self.events, self.log_probs = [], []  # log_probs: the requested `logprobs` of each rollout and replay
        self.labels = []  # the label of each rollout and replay
        self.running = self.tokens = self.aborted = 0
        self.tries = Counter()

    def replays(self):
        return sum(kind == "replay" for _, kind, _ in self.events)

    async def get_num_unfinished_requests(self):
        return self.running

    async def until_idle(self):
        while self.running:
            await asyncio.sleep(0.01)
        self.events.append((time.monotonic(), "idle", ""))
        return self.aborted

    async def begin_counting(self):
        self.aborted = 0

    async def timeline(self):
        return TokenTimeline()

    async def endless(self, kind, prompt):
        self.tries[kind, prompt] += 1
        made, self.running = 0, self.running + 1
        try:
            while self.tries[kind, prompt] < 2:
                await asyncio.sleep(0.01)
                made += 1
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # an engine aborts in its next step
            self.aborted += made
            self.events.append((time.monotonic(), "aborted", kind))
            raise
        finally:
            self.running -= 1

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        prompt = "".join(map(chr, prompt_token_ids))
        if "[long M]" in prompt:
            await self.endless("analysis", prompt)
        self.events.append((time.monotonic(), "analysis", prompt))
        reason = next((r for r in ("length", "abort", "error", "repetition") if f"[{r}]" in prompt), "stop")
        one = SimpleNamespace(token_ids=[ord(c) for c in M], finish_reason=reason)
        return SimpleNamespace(outputs=[one])

    async def generate_responses(
        self, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples=1, images=None
    ):
        replay = "<experience>" in prompt
        self.log_probs.append(("replay" if replay else "rollout", sampling_params.logprobs))
        self.labels.append(("replay" if replay else "rollout", label))
        if (slow := re.search(r"slow until (\d+)", prompt)) and not replay:
            deadline = time.monotonic() + 60
            while self.replays() < int(slow[1]) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        if replay and "[long replay]" in prompt:
            await self.endless("replay", prompt)
        made = []
        for i in range(num_samples):
            right = replay or (i % 2 == 0 and "easy" not in prompt) or ("hard" not in prompt and "easy" in prompt)
            text = f"\\boxed{{{label if right else 0}}}"
            ids = [ord(c) for c in prompt + text]
            own_prompt, own_label = returned(prompt, label, i)
            made.append(
                {
                    "prompt": own_prompt, "label": own_label, "images": None, "mm_train_inputs": None,
                    "observation_tokens": ids, "action_ranges": [(len(prompt), len(ids))],
                    "rollout_log_probs": None, "truncated": False, "reward": float(right), "scores": float(right),
                    "extra_logs": {},
                }
            )  # fmt: skip
        self.events.append((time.monotonic(), "replay" if replay else "rollout", prompt))
        return made

    async def wake_up(self, tags=None):
        self.events.append((time.monotonic(), "wake", str(tags)))

    async def sleep(self, level=1):
        self.events.append((time.monotonic(), "sleep", ""))

    async def asked_log_probs(self):
        asked, self.log_probs = self.log_probs, []
        return asked

    async def seen_labels(self):
        labels, self.labels = self.labels, []
        return labels

    async def given(self, value, number):
        return value.name, number, id(value), list(Counted.states)

    async def seen(self):
        events, self.events = self.events, []
        return events
