"""Every script and every configuration, without running a job."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
SLURM = REPO / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))
TRAINING = sorted((SLURM / "configs" / "train").glob("*.yaml"))
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
    found = subprocess.run(
        ["sbatch", "--test-only", f"slurm/{path.name}"], cwd=project.folder, env=project.cluster.environment,
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert found.returncode == 0 and "to start at" in found.stderr, found.stderr


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
def test_training_configurations(path, capsys, monkeypatch):
    """The entry's dry run, which uses upstream's own parser; then what a preset has to say and to be."""
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
    assert found["train.batch_size"] == 1024 and found["actor.adam.lr"] == 1e-6  # one optimizer step a rollout
    instruction, question = 500, 1024
    longest = instruction + question + 2 * found["rollout.max_new_tokens"] + found["mel.max_new_tokens"]
    assert longest <= found["data.max_len"]
    gpus = found["actor.num_nodes"] * found["actor.num_gpus_per_node"]
    assert found["train.colocate_all"] and found["vllm.num_engines"] * found["vllm.tensor_parallel_size"] == gpus
    assert found["ckpt.save_steps"] > 0  # without which nothing could be taken up


@pytest.mark.parametrize("flags", ["rft", "reinforce++", "reinforce++-baseline", "grpo"])
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
            # One, in a loop with a deadline that looks whether Ray has ended.
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
