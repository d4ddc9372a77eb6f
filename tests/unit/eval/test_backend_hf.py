"""The transformers backend with the toy model: samples follow the model's distribution, whatever the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval import backends
from eval.backends import hf, model_folder
from eval.backends.hf import HFBackend
from eval.backends.sampling import SeededSampling
from eval.messages import BackendError, Request, Sampling
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import Templates

pytestmark = pytest.mark.timeout(120)

TOY = Path(__file__).parents[3] / "data" / "toy"
MODEL = TOY / "model"
SAMPLING = Sampling(temperature=1.8, top_p=1.0, max_tokens=40)  # hot, since the toy model's distribution is sharp


@pytest.fixture(scope="module")
def backend():
    model = backends.make("hf", model=str(MODEL), chat=False)
    yield model
    model.close()
    model.close()


@pytest.fixture(scope="module")
def plain():
    """The model and its tokenizer, used without the backend."""
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def requests(number: int, samples: int = 2, greedy: bool = False) -> list[Request]:
    rows = [json.loads(line) for line in (TOY / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    template = Templates.load(TOY / "templates")
    asked = []
    for i, row in enumerate(rows[:number]):
        prompt = template.question("Well. " * (i % 5) + row["input"])  # prompts of several lengths
        asked += [Request("toy", row["id"], s, greedy, 100 * i + s, prompt) for s in range(samples)]
    return asked


def by_request(responses):
    return {(r.request.question, r.request.sample, r.request.greedy): r for r in responses}


def test_greedy_is_what_transformers_generates(backend, plain):
    model, tokenizer = plain
    asked = requests(6, samples=1, greedy=True)
    responses = by_request(backend.generate(asked, SAMPLING))
    for request in asked:
        inputs = tokenizer(request.prompt, add_special_tokens=False, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
        response = responses[request.question, 0, True]
        assert response.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert response.prompt_tokens == inputs["input_ids"].shape[1]
        assert response.tokens == len(ids)
        assert response.finish_reason == ("stop" if ids[-1] == tokenizer.eos_token_id else "length")


@pytest.mark.parametrize("top_p", [pytest.param(1.0, marks=pytest.mark.slow), 0.9])
def test_a_sample_does_not_depend_on_its_batch(backend, top_p):
    sampling = Sampling(temperature=1.8, top_p=top_p, max_tokens=40)
    asked = requests(8) + requests(8, samples=1, greedy=True)
    together = by_request(backend.generate(asked, sampling))
    assert len(together) == len(asked)
    alone = by_request(r for request in asked for r in backend.generate([request], sampling))
    assert alone == together
    some = by_request(backend.generate(asked[::-3], sampling))
    assert some == {key: together[key] for key in some}
    assert len({r.text for r in together.values()}) > len(asked) // 2


def test_a_sample_depends_on_its_seed(backend):
    [request, *_] = requests(1)
    texts = {
        r.text
        for r in backend.generate([Request("toy", "q", i, False, i, request.prompt) for i in range(12)], SAMPLING)
    }
    assert len(texts) > 3


def test_generation_is_in_small_batches(monkeypatch, backend):
    asked = requests(10)
    whole = by_request(backend.generate(asked, SAMPLING))
    monkeypatch.setattr(backend, "_budget", 200)
    responses = backend.generate(asked, SAMPLING)
    first = next(responses)
    assert by_request([first, *responses]) == whole


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (3.0, 0.8)])
def test_what_is_drawn_follows_the_models_distribution(backend, plain, temperature, top_p):
    """Chi-square test of the first token of 2,000 samples against probabilities computed with numpy."""
    model, tokenizer = plain
    prompt = requests(1)[0].prompt
    with torch.no_grad():
        logits = (
            model(**tokenizer(prompt, add_special_tokens=False, return_tensors="pt")).logits[0, -1].double().numpy()
        )
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: np.searchsorted(np.cumsum(p[order]), top_p) + 1]
    p = np.where(np.isin(np.arange(len(p)), kept), p, 0)
    p /= p.sum()

    number = 2000
    asked = [Request("toy", "q", i, False, 7 * i + 1, prompt) for i in range(number)]
    loaded = backend._loaded or backend._load()
    ids = loaded.encoder.encode(asked[:1], 1)[0]
    counts = np.zeros(len(p))
    for start in range(0, number, 250):
        seeds = [request.seed for request in asked[start : start + 250]]
        sampling = Sampling(temperature, top_p, 1)
        inputs = torch.tensor([ids] * len(seeds))
        drawn = loaded._model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=1,
            logits_processor=[SeededSampling(seeds, sampling, torch.device("cpu"))],
        )
        np.add.at(counts, drawn[:, -1].numpy(), 1)
    assert counts[p == 0].sum() == 0
    often = p * number >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(p[often], p[~often].sum()) * number
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert len(observed) >= 3
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_noise_of_many_seeds_is_uniform_in_its_probabilities():
    """20,000 rows with a generator each, at the first and third step: consecutive seeds must not be correlated."""
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    rows = 20_000
    sampler = SeededSampling(range(rows), Sampling(1.0, 1.0, 1), torch.device("cpu"))
    logits = p.log().expand(rows, -1)
    drawn = [sampler(None, logits).argmax(-1).numpy() for _ in range(3)]
    for tokens in (drawn[0], drawn[2]):
        assert (
            stats.chisquare(
                np.bincount(tokens, minlength=6), p.double().numpy() / p.double().sum().item() * rows
            ).pvalue
            > 0.001
        )
    pairs = np.histogram2d(drawn[0], drawn[1], bins=(6, 6))[0]
    assert stats.chi2_contingency(pairs).pvalue > 0.001
    neighbours = np.histogram2d(drawn[0][:-1], drawn[0][1:], bins=(6, 6))[0]
    assert stats.chi2_contingency(neighbours).pvalue > 0.001


def test_masked_tokens_are_never_drawn():
    scores = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).expand(500, -1)
    sampler = SeededSampling(range(500), Sampling(0.5, 0.9, 1), torch.device("cpu"))
    result = sampler(None, scores)
    assert not result.isnan().any() and (result.argmax(-1) == 1).all()


def test_generation_config_changes_nothing_but_the_end(copy, backend):
    """Penalties, top_k and a length in the model's own settings are ignored."""
    path = copy / "generation_config.json"
    settings = json.loads(path.read_text()) | {
        "repetition_penalty": 5.0,
        "top_k": 1,
        "temperature": 0.1,
        "max_length": 30,
    }
    path.write_text(json.dumps(settings))
    asked = requests(4) + requests(4, samples=1, greedy=True)
    other = HFBackend(str(copy), chat=False)
    assert by_request(other.generate(asked, SAMPLING)) == by_request(backend.generate(asked, SAMPLING))


def test_cut_at_the_length(backend):
    asked = requests(3)
    for response in backend.generate(asked, Sampling(0.6, 1.0, 3)):
        assert (response.finish_reason, response.tokens) == ("length", 3)


def test_chat_uses_the_template(plain):
    _, tokenizer = plain
    model = HFBackend(str(MODEL), chat=True)
    ids = model._load().encoder.encode([Request("toy", "q", 0, True, 0, "Compute 1+1.")], 10)
    assert tokenizer.decode(ids[0]) == "<|user|>Compute 1+1.<|assistant|>"


def test_no_chat_template(copy):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        next(HFBackend(str(copy), chat=True).generate(requests(1), SAMPLING))


def test_too_long_names_the_question(backend):
    asked = [*requests(2), Request("toy", "the-long-one", 0, True, 0, "word " * 300)]
    with pytest.raises(
        UserError,
        match=r"--max-tokens 4000: the model's context holds 4096 tokens, and the longest prompt .question the-long-one of toy.",
    ) as error:
        next(backend.generate(asked, Sampling(0.6, 1.0, 4000)))
    room = int(str(error.value).split("pass --max-tokens ")[1].split()[0])
    assert room == 4096 - int(str(error.value).split(" has ")[1].split(";")[0])
    with pytest.raises(UserError, match="leave the question out"):
        next(backend.generate([Request("toy", "q", 0, True, 0, "word " * 5000)], SAMPLING))
    with pytest.raises(UserError, match="no tokens"):
        next(backend.generate([Request("toy", "q", 0, True, 0, "")], SAMPLING))


def test_nothing_asked_loads_nothing():
    model = HFBackend(str(MODEL), chat=False)
    assert list(model.generate([], SAMPLING)) == []
    assert model._loaded is None


def test_identity_follows_contents_not_places(copy, backend):
    here = backend.identity()
    assert (
        here["dtype"] == "float32" and here["device"] == "cpu" and here["versions"].keys() == {"torch", "transformers"}
    )
    assert json.loads(json.dumps(here)) == here
    assert HFBackend(str(copy), chat=False).identity() == here
    (copy / "README.md").write_text("about it")
    assert HFBackend(str(copy), chat=False).identity() == here

    def changed(**options):
        other = HFBackend(str(copy), **({"chat": False} | options)).identity()
        return {key for key in here if other[key] != here[key]}

    assert changed(chat=True, dtype="bfloat16") == {"chat", "dtype"}
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert changed() == {"tokenizer_sha256"}
    (copy / "generation_config.json").write_text("{}")
    assert changed() == {"tokenizer_sha256", "config_sha256"}
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].view(-1)[-1] += 0.5
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert changed() == {"tokenizer_sha256", "config_sha256", "weights_sha256"}


def test_bad_models(copy, tmp_path):
    for name in (tmp_path / "absent", "./absent", "a/b/c"):
        with pytest.raises(UserError, match=r"--model .*no such folder"):
            HFBackend(str(name), chat=False)
    with pytest.raises(UserError, match=r"no config\.json"):
        HFBackend(str(tmp_path), chat=False)
    with pytest.raises(UserError, match="--dtype int3"):
        HFBackend(str(copy), chat=False, dtype="int3")
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(BackendError, match="cannot be loaded"):
        next(HFBackend(str(copy), chat=False).generate(requests(1), SAMPLING))
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        HFBackend(str(copy), chat=False)
    (copy / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: found list"):
        HFBackend(str(copy), chat=False)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        HFBackend(str(copy), chat=False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(copy, name):
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(UserError, match=r"auto_map.*--trust-remote-code"):
        HFBackend(str(copy), chat=False)
    HFBackend(str(copy), chat=False, trust_remote_code=True)


def test_a_full_gpu_is_said(monkeypatch, backend):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(hf._Loaded, "draw", full)
    with pytest.raises(BackendError, match="smaller --token-budget"):
        next(backend.generate(requests(1), SAMPLING))


@given(st.lists(st.integers(1, 3000), max_size=600), st.integers(1, 4000), st.integers(1, 200_000))
def test_batches(lengths, max_tokens, budget):
    batches = list(hf._batches(lengths, max_tokens, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + max_tokens) <= budget
        assert 1 <= len(batch) <= 256
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 10}, 10),
        ({"text_config": {"max_position_embeddings": 20}}, 20),
        ({}, None),
        ({"max_position_embeddings": 100, "rope_scaling": YARN}, 400),
        ({"max_position_embeddings": 500, "rope_parameters": YARN}, 500),
    ],
)
def test_context(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_folder.context_of(tmp_path) == expected


@pytest.fixture
def hub(monkeypatch, tmp_path, copy):
    """Simulate a hub with one model; return the list of requested file patterns."""
    asked, local = [], tmp_path / "downloaded"
    local.mkdir()

    def download(name, allow_patterns):
        if name != "maker/toy":
            raise OSError("404: no such repository\nmore")
        asked.append(allow_patterns)
        for pattern in allow_patterns:
            for path in copy.glob(pattern):
                shutil.copy(path, local)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_a_model_of_the_hub(hub, backend):
    model = HFBackend("maker/toy", chat=False)
    assert model.identity() == backend.identity()
    assert hub[1:] == [["*.safetensors"]]
    with pytest.raises(UserError, match=r"--model maker/absent: cannot be read from the hub \(OSError: 404"):
        HFBackend("maker/absent", chat=False)


def test_code_is_refused_before_weights_are_downloaded(hub, copy):
    (copy / "config.json").write_text(json.dumps({"auto_map": {}}))
    with pytest.raises(UserError, match="auto_map"):
        HFBackend("maker/toy", chat=False)
    assert len(hub) == 1 and "*.safetensors" not in hub[0]
