"""Every script and every configuration, without running a job."""

import inspect
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eval.backends.vllm import VLLMBackend
from openrlhf_mel.preflight import memory, shapes
from openrlhf_mel.settings.paradigms import PARADIGMS
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import resolve

REPO = Path(__file__).resolve().parents[2]
SLURM = REPO / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))
TRAINING = sorted((SLURM / "configs" / "train").glob("*.yaml"))
EVALUATIONS = sorted((SLURM / "configs" / "eval").glob("*.yaml"))
SHELL = [*SCRIPTS, *sorted(SLURM.glob("**/*.sh")), SLURM / "site.env.example"]
OURS = [
    path for path in SLURM.rglob("*") if path.is_file() and "logs" not in path.parts and "__pycache__" not in path.parts
]


def test_what_has_to_be_there():
    wanted = [
        "qwen3-4b",
        "qwen2.5-7b",
        "qwen3-8b",
        "qwen3-14b",
        "qwen2.5-32b",
        "eval",
        "prepare_data",
        "smoke",
        "first-hour",
    ]
    assert {path.stem for path in SCRIPTS} == set(wanted)
    assert {path.stem for path in TRAINING} == {"smoke", *(name for name in wanted if name.startswith("qwen"))}


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck(path, command):
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck (Debian: apt-get install shellcheck)")
    done = command("shellcheck", "-x", "--shell=bash", path.relative_to(REPO), limit=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_eight_nodes_of_eight_gpus_would_take_it(path, project):
    taken, words = would_take(project, script=path.stem)
    assert taken, words


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_it_would_take_the_evaluations(path, project):
    taken, words = would_take(project, *yaml.safe_load(path.read_text())["sbatch"].split(), script="eval")
    assert taken, words


def would_take(project, *flags, script="qwen3-8b"):
    """Return whether Slurm would accept a script with these sbatch flags, and its message."""
    found = subprocess.run(
        ["sbatch", "--test-only", *flags, f"slurm/{script}.sbatch"], cwd=project.folder,
        env=project.cluster.environment, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return found.returncode == 0 and "to start at" in found.stderr, found.stderr


def test_what_the_documentation_says_of_sbatchs_flags(project):
    """Slurm accepts the flags that the table of docs/slurm.md gives, and refuses those that they replace."""
    section = (REPO / "docs" / "slurm.md").read_text().split("## Other hardware")[1].split("\n## ")[0]
    cells = [line.split("|")[2:4] for line in section.splitlines() if line.startswith("| ")]
    given, refused = ([re.findall(r"`(--[^`]+)`", row[column]) for row in cells] for column in (0, 1))
    assert len(given[1:]) >= 6 and sum(map(len, refused)) >= 4
    for flags in given[1:]:  # the first of a cell; the others are the trainer's
        taken, words = would_take(project, *flags[0].split())
        assert taken, f"{flags[0]}: {words}"
    for flags in itertools.chain(*refused):
        assert not would_take(project, *flags.split())[0], flags


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_headers_and_configurations_agree(path):
    header = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", path.read_text(), re.MULTILINE))
    assert header["job-name"] == path.stem and header["output"].startswith("slurm/logs/%x-%")
    assert "#SBATCH --open-mode=append" in path.read_text()  # a restart must not wipe its log
    config = SLURM / "configs" / "train" / f"{path.stem}.yaml"
    if not path.stem.startswith("qwen"):
        return
    assert "#SBATCH --requeue" in path.read_text() and header["signal"].startswith("B:USR2@")
    actor = yaml.safe_load(config.read_text())["actor"]
    assert (int(header["nodes"]), int(header["gpus-per-node"])) == (actor["num_nodes"], actor["num_gpus_per_node"])
    assert f"train slurm/configs/train/{path.stem}.yaml" in path.read_text()


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_upstreams_correction_is_a_choice_of_every_preset(path, tmp_path):
    """The preset's comment, uncommented, resolves."""
    text = path.read_text()
    (tmp_path / "run.yaml").write_text(re.sub(r"^# (?=algo:|  advantage:)", "", text, flags=re.MULTILINE))
    chosen, plain = (resolve(str(p), [], device="cuda").upstream for p in (tmp_path / "run.yaml", path))
    name = "algo.advantage.is_correction"
    assert plain[f"{name}_level"] == "off" and "# algo: # departs from the paper" in text
    assert [chosen[f"{name}_{part}"] for part in ("level", "mode", "threshold")] == ["token", "clip", [0.0, 2.0]]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_smoke_job_asks_ray_for_what_its_nodes_have(monkeypatch, tmp_path, command, nodes, gpus, engine):
    """This holds without any setting, for each engine; with one slot too few, upstream would wait for ever."""
    (tmp_path / "slurm" / "lib").mkdir(parents=True)
    (tmp_path / "slurm" / "lib" / "job.sh").write_text('train() { env | grep ^MEL_CPU_SLOTS; printf "%s\\n" "$@"; }\n')
    monkeypatch.setenv("SLURM_NNODES", str(nodes))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", str(gpus))
    done = command("bash", SLURM / "smoke.sbatch", limit=20, cwd=tmp_path)
    config, *flags = done.stdout.split()
    values = resolve(str(REPO / config), flags, device="cuda" if gpus else "cpu").upstream
    asked = placement(values, engines_need_gpus=engine == "vllm")

    monkeypatch.setenv("MEL_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("MEL_RAY_HEAD", "127.0.0.1:1")
    from slurm.lib import ray_node

    monkeypatch.setattr(ray_node.this_node, "GPUS", gpus)
    monkeypatch.setattr(ray_node.this_node, "address", lambda: "127.0.0.1")
    (of_a_node,) = [f for f in ray_node.command("head", tmp_path) if f.startswith("--num-gpus=")]
    assert asked.total == nodes * int(of_a_node.partition("=")[2])
    assert values["actor.num_nodes"] == nodes and values["vllm.num_engines"] == asked.actors  # upstream requires this


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_training_configurations(path, capsys, monkeypatch):
    """Each passes the entry's dry run with upstream's parser; then a preset's header and values are checked."""
    from openrlhf_mel import train

    monkeypatch.chdir(REPO)
    assert train.main(["--config", str(path), "--dry-run"]) == 0, capsys.readouterr().err
    if path.stem == "smoke":
        return
    import json

    found = json.loads(capsys.readouterr().out)
    for word in ("Hardware", "Memory", "Lengths", "Hours", "pairs are expected to be too long"):
        assert word in path.read_text()
    assert found["mel.runtime"] == "cuda" and found["mel.enable"] and found["mel.algorithm"] == "grpo"
    assert found["rollout.batch_size"] == 128 and found["rollout.n_samples_per_prompt"] == 8
    assert found["train.batch_size"] == 1024 and found["actor.adam.lr"] == 1e-6  # one optimizer step per rollout
    instruction, question = 500, 1024
    longest = instruction + question + 2 * found["rollout.max_new_tokens"] + found["mel.max_new_tokens"]
    assert longest <= found["data.max_len"]
    gpus = found["actor.num_nodes"] * found["actor.num_gpus_per_node"]
    assert found["train.colocate_all"] and found["vllm.num_engines"] * found["vllm.tensor_parallel_size"] == gpus
    assert found["ckpt.save_steps"] > 0  # else no run could resume


def sequences(model, config):
    """Return how many sequences of maximum length an evaluation's engine holds at once on an 80 GB card."""
    chosen = yaml.safe_load(config.read_text())
    ranks, template, question = chosen.get("tensor_parallel", 1), 100, 1024
    shape = shapes.bundled()[model]
    assert shape.heads % ranks == 0 and int(re.search(r"--gpus-per-node=(\d+)", chosen["sbatch"])[1]) % ranks == 0
    share = inspect.signature(VLLMBackend).parameters["gpu_memory"].default
    tokens = {"policy_tokens": 1, "log_prob_tokens": 1, "nll_tokens": 1, "sequence": 1, "row": 1}
    plan = memory.MemoryPlan(
        shape, card=0.99 * 80 * memory.GIB, ranks=1, trained=0, engine_ranks=ranks, utilization=share, **tokens
    )
    return memory.kv_tokens(plan) / (template + question + chosen["max_tokens"])


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_what_is_trained_can_be_evaluated(path):
    """Its own evaluation's configuration leaves room for many sequences at once, any other for at least one."""
    if path.stem == "smoke":
        return
    model = yaml.safe_load(path.read_text())["actor"]["model_name_or_path"]
    own = SLURM / "configs" / "eval" / path.name
    assert sequences(model, own if own.exists() else own.with_name("paper.yaml")) > 16
    for config in EVALUATIONS:
        assert config.stem == "smoke" or sequences(model, config) > 1


@pytest.mark.parametrize("flags", PARADIGMS)
def test_the_paradigms_are_one_flag_away(flags, capsys, monkeypatch):
    from openrlhf_mel import train

    monkeypatch.chdir(REPO)
    config = str(SLURM / "configs" / "train" / "qwen3-8b.yaml")
    for enable in ("true", "false"):
        argv = ["--config", config, "--dry-run", "--mel.algorithm", flags, "--mel.enable", enable]
        assert train.main(argv) == 0, capsys.readouterr().err


def test_nothing_that_harms_a_neighbour_or_belongs_to_a_site():
    for path in OURS:
        text = path.read_text()
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        for word in (r"\bpkill\b", r"\bkillall\b", r"\bray stop\b", r"\bssh\b", r"\bset -x\b"):
            assert not re.search(word, code), f"{path}: {word}"
        for place in re.findall(r"(?<![\w.])/(?:home|work|root|data|mnt|gpfs|lustre|Users)/[\w./-]*", code):
            raise AssertionError(f"{path}: {place}")
        if path.suffix in (".sh", ".sbatch"):
            assert not re.search(r"(?:KEY|TOKEN)[=\"' ]*\$", code), f"{path}: a secret in a command"
            # The only one is in a loop with a deadline that checks whether Ray has ended.
            assert len(re.findall(r"\bsleep\b", code)) == (path.name == "ray.sh"), path


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_preflight_passes_for_the_hardware_of_the_header(path, command):
    header = (SLURM / f"{path.stem}.sbatch").read_text()
    allocation = []
    for flag in ("nodes", "gpus-per-node"):
        if found := re.search(rf"^#SBATCH --{flag}=(\d+)", header, re.MULTILINE):
            allocation += [f"--{flag}", found[1]]
    if len(allocation) < 4:  # the smoke job asks for no GPU
        allocation = []
    argv = [sys.executable, "-m", "openrlhf_mel.preflight", "--config", path, "--skip-files", *allocation]
    done = command(*argv, limit=30)
    assert done.returncode == 0 and "verdict: ok (0 errors" in done.stdout, done.stderr
