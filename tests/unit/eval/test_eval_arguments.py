"""eval/arguments.py: the command line's defaults, ranges, and flags that do not go together."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import arguments, backends
from eval.messages import Sampling
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

NEEDED = ["--data-dir", "d", "--output-dir", "o"]
URL = "http://localhost:8000/v1"


def parsed(*flags: str, model: str | None = "m"):
    return arguments.parser().parse_args([*NEEDED, *(["--model", model] if model else []), *flags])


def test_defaults_are_the_papers():
    options = parsed()
    assert arguments.names(options.benchmarks) == ["aime24", "aime25", "amc23", "math500", "olympiadbench"]
    assert (options.n, options.samples, options.seed, options.backend, options.checkpoints) == (
        None,
        None,
        0,
        "vllm",
        "last",
    )
    assert arguments.sampling(options) == Sampling(temperature=0.6, top_p=1.0, max_tokens=4096)
    assert (options.metrics, options.limit, options.template, options.chat, options.paper) == (
        None,
        None,
        None,
        False,
        None,
    )
    arguments.check_backend(options)
    assert arguments.backend_options(options) == {}


def test_every_flag_reaches_its_place():
    options = parsed(
        "--benchmarks", "a", "--backend", "openai", "--base-url", URL, "--concurrency", "3", "--n", "4", "--metrics", "avg@4",
        "--temperature", "1", "--top-p", "0.9", "--max-tokens", "100", "--seed", "-5", "--template", "boxed", "--chat",
        "--limit", "2", "--train-report", "r.json", "--paper", "8B:mel",
    )  # fmt: skip
    arguments.check_backend(options)
    assert arguments.sampling(options) == Sampling(1.0, 0.9, 100)
    assert arguments.backend_options(options) == {"base_url": URL, "concurrency": 3}
    assert (options.n, options.metrics, options.seed, options.limit, options.chat) == (4, "avg@4", -5, 2, True)
    assert (options.template, str(options.train_report), options.paper) == ("boxed", "r.json", "8B:mel")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*NEEDED], "one of the arguments --model --run is required"),
        ([*NEEDED, "--model", "m", "--run", "r"], "not allowed with argument --model"),
        (["--model", "m", "--output-dir", "o"], "required: --data-dir"),
        (["--model", "m", "--data-dir", "d"], "required: --output-dir"),
        ([*NEEDED, "--model", "m", "--backend", "sglang"], "invalid choice: 'sglang'"),
        ([*NEEDED, "--model", "m", "--n", "eight"], "invalid int value: 'eight'"),
        ([*NEEDED, "--model", "m", "--bench", "a"], "unrecognized arguments: --bench"),
        ([*NEEDED, "--model", "m", "--dtype", "int8"], "invalid choice: 'int8'"),
        ([*NEEDED, "--model", "m", "--seed", "0", "--seeds", "1,2"], "--seeds: not allowed with argument --seed"),
        ([*NEEDED, "--model", "m", "--seeds", "1,2", "--seed", "0"], "--seed: not allowed with argument --seeds"),
    ],
)
def test_a_command_line_that_is_none_is_refused(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        arguments.parser().parse_args(flags)
    assert caught.value.code == 2 and message in capsys.readouterr().err


FLAGS = {
    "--base-url": (URL, ["openai"]),
    "--concurrency": ("2", ["openai"]),
    "--tensor-parallel": ("2", ["vllm"]),
    "--data-parallel": ("2", ["vllm"]),
    "--trust-remote-code": (None, ["vllm", "hf"]),
    "--dtype": ("float32", ["vllm", "hf"]),
    "--token-budget": ("2", ["hf"]),
}


@pytest.mark.parametrize("backend", backends.BACKENDS)
@pytest.mark.parametrize("flag", FLAGS)
def test_flags_of_other_backends_are_mistakes(backend, flag):
    value, takers = FLAGS[flag]
    server = ["--base-url", URL] if backend == "openai" else []
    options = parsed("--backend", backend, *server, flag, *([value] if value else []))
    name = flag.removeprefix("--").replace("-", "_")
    assert name in arguments.backend_options(options)
    if backend in takers:
        arguments.check_backend(options)
    else:
        expected = f"{flag}: is for --backend {' or '.join(takers)}, found --backend {backend}"
        with pytest.raises(UserError, match=re.escape(expected)):
            arguments.check_backend(options)


def test_what_a_backend_needs_must_be_there():
    with pytest.raises(UserError, match="--backend openai: needs --base-url"):
        arguments.check_backend(parsed("--backend", "openai"))
    with pytest.raises(UserError, match="--run: needs a backend that loads weights"):
        arguments.check_backend(parsed("--backend", "openai", "--base-url", URL, "--run", "r", model=None))
    for backend in ("vllm", "hf"):
        arguments.check_backend(parsed("--backend", backend, "--run", "r", "--checkpoints", "10,20", model=None))
    with pytest.raises(UserError, match="--checkpoints: needs --run"):
        arguments.check_backend(parsed("--checkpoints", "all"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--temperature", value) for value in ("0", "-1", "nan", "inf", "1e999")),
        *(("--top-p", value) for value in ("0", "-0.1", "1.01", "nan", "inf")),
        *((flag, value) for flag in ("--max-tokens", "--limit", "--concurrency") for value in ("0", "-1")),
        *((flag, "0") for flag in ("--tensor-parallel", "--data-parallel", "--token-budget")),
    ],
)
def test_a_number_out_of_its_range_is_named(flag, value):
    with pytest.raises(UserError, match=rf"^{flag} .*: expected (a number above 0|at least 1)"):
        arguments.sampling(parsed(f"{flag}={value}"))


@pytest.mark.parametrize(
    "flags", [["--temperature", "0.01"], ["--temperature", "2"], ["--top-p", "1"], ["--top-p", "0.001"],
              ["--max-tokens", "1"], ["--limit", "1"], ["--concurrency", "1"], ["--tensor-parallel", "1"]],
)  # fmt: skip
def test_the_ends_of_a_range_are_within_it(flags):
    arguments.sampling(parsed(*flags))


@given(st.floats(), st.floats(), st.integers())
def test_what_is_drawn_with_can_be_drawn_with(temperature, top_p, max_tokens):
    options = parsed(f"--temperature={temperature}", f"--top-p={top_p}", f"--max-tokens={max_tokens}")
    possible = 0 < temperature < math.inf and 0 < top_p <= 1 and max_tokens >= 1
    try:
        found = arguments.sampling(options)
    except UserError:
        assert not possible
    else:
        assert possible and found == Sampling(temperature, top_p, max_tokens)


def test_benchmarks_are_a_list_without_repeats():
    assert arguments.names(" b, a,,b ,c,") == ["b", "a", "c"]
    for text in ("", " , "):
        with pytest.raises(UserError, match="--benchmarks: found none"):
            arguments.names(text)


def test_help_names_what_may_be_chosen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no word is split
    with pytest.raises(SystemExit):
        arguments.parser().parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("olympiadbench", "gsm8k", "default", "boxed", "OPENAI_API_KEY", "maj@<n>", "vllm", "--train-report"):
        assert word in shown, word


def test_shorten_is_for_backends_that_have_the_tokenizer():
    for backend in ("vllm", "hf"):
        options = parsed("--backend", backend, "--shorten")
        arguments.check_backend(options)
        assert options.shorten and arguments.backend_options(options) == {}
    with pytest.raises(UserError, match="--shorten: is for --backend vllm or hf, found --backend openai"):
        arguments.check_backend(parsed("--backend", "openai", "--base-url", URL, "--shorten"))
