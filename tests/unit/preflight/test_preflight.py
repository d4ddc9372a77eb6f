"""The command: its report, what changes a verdict, and its low cost."""

import json
import os
import shutil
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preflight_runs import APART, BASE, NODE, REPO, STATIC

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import hub, sizes, workload
from openrlhf_mel.preflight.shapes import bundled
from openrlhf_mel.run import checkpoint
from openrlhf_mel.settings.resolve import resolve


def test_a_sound_configuration_passes_without_a_word(run):
    code, report = run()
    assert code == 0 and report["errors"] == report["warnings"] == []


def test_memory_is_told_with_what_to_change(run):
    _, report = run(*STATIC, "--ds.zero_stage", 1, "--ds.enable_sleep", "false", "--vllm.enable_sleep", "false")
    (message,) = report["errors"]
    assert "the card has 79.2; what to change, the cheapest first" in message
    assert message.index("--vllm.enable_sleep") < message.index("--ds.enable_sleep")
    # with the advised change the same configuration fits
    code, after = run(*STATIC, "--ds.zero_stage", 1)
    assert code == 0, after["errors"]


def test_another_card_changes_the_verdict(run):
    flags = ["--vllm.gpu_memory_utilization", "0.8", "--ds.zero_stage", "2"]
    assert run(*flags)[0] == 2
    code, report = run(*flags, "--gpu", "h200")
    assert code == 0 and report["card"]["sold_gib"] == 141
    assert run(*flags, "--gpu-memory-gb", "141")[0] == 0
    fast, slow = (run("--gpu", name)[1]["step"]["total_seconds"] for name in ("h200", "h20"))
    assert slow > fast


def test_a_reference_model_has_gpus_of_its_own_or_shares(run):
    code, report = run(*APART, "--actor.num_gpus_per_node", 4, "--vllm.num_engines", 4, "--algo.kl.init_coef", 0.01)
    (said,) = report["errors"]
    assert "expected 16: 4 for the policy, 4 for engines, 8 for the reference model" in said
    assert "--train.colocate_actor_ref" in said
    assert [(g["role"], g["count"]) for g in report["gpus"]] == [("policy", 4), ("engine", 4), ("reference", 8)]
    code, shared = run("--algo.kl.init_coef", 0.01)
    assert code == 0 and {"other models"} <= set(shared["gpus"][0]["moments"]["rollout"])
    assert shared["gpus"][0]["peak_gib"] > run()[1]["gpus"][0]["peak_gib"]


def test_warnings_do_not_refuse(run):
    code, report = run("--ckpt.save_steps", -1, "--eval.steps", 5, "--data.max_len", 5200)
    assert code == 0
    said = "\n".join(report["warnings"])
    assert "--ckpt.save_steps: not set" in said and "--eval.steps 5: nothing to evaluate" in said
    assert "of the pairs are too long (estimate); raise it" in said


def test_idle_gpus_are_a_warning_with_the_change(run):
    code, report = run("--nodes", 2, "--gpus-per-node", 8, node=False)
    assert code == 0
    (said,) = report["warnings"]
    assert (
        "of which 8 stay idle" in said
        and "--actor.num_nodes 2 --actor.num_gpus_per_node 8 --vllm.num_engines 16" in said
    )


def test_numbers_in_the_report_add_up(run):
    _, report = run()
    (gpu,) = report["gpus"]
    assert gpu["count"] == 8 and gpu["peak_gib"] == max(sum(m.values()) for m in gpu["moments"].values())
    assert report["model"]["parameters"] == bundled()["Qwen/Qwen3-8B-Base"].parameters
    step = report["step"]
    assert step["total_seconds"] == pytest.approx(sum(step["seconds"].values()))
    assert {"mfu", "mixed_share", "questions"} <= set(report["assumptions"])
    assert report["lengths"]["pairs_too_long_share"] == pytest.approx(0, abs=1e-6)


def test_means_can_be_given(run):
    short, long = (run("--mean-response-tokens", n)[1] for n in (500, 3000))
    assert short["step"]["tokens"]["rollout"] < long["step"]["tokens"]["rollout"]
    assert short["lengths"]["truncated_share"] < long["lengths"]["truncated_share"]
    assert run("--mean-question-tokens", 300)[1]["lengths"]["mean_question"] == 300


def test_the_cpu_runtime_is_not_measured_against_a_card(run):
    text = (REPO / "data" / "toy" / "mel.yaml").read_text()
    _, report = run("--mel.runtime", "cpu", text=text, node=False)
    assert report["runtime"] == "cpu" and report["gpus"] == [] and report["errors"] == []


def test_a_sound_local_run_passes(run, world):
    folder, text = world
    code, report = run(text=text, skip=False)
    assert code == 0 and report["errors"] == []
    assert report["rows"] == 16 and report["lengths"]["exact"] and report["step"]["steps"] == 2
    assert report["disk"]["needed_gb"] < 1 and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("question", "refused"),
    [
        ('[{"role": "user", "content": "1 + 1?"}]', False), ("[{'role': 'user', 'content': '1 + 1?'}]", False),
        ("[1] + [1]?", False), ("[{'role': 'user', 'content': '1 + ", True), ("array([{'role': 'user'}])", True),
    ],
)  # fmt: skip
def test_questions_stored_as_conversations(run, world, question, refused):
    folder, text = world
    with open(folder / "train.jsonl", "a") as file:
        file.write(json.dumps({"input": question, "label": "2"}) + "\n")
    code, report = run(text=text, skip=False, node=False)
    assert (code == 2) == refused
    if refused:
        assert "train.jsonl: row 17 has" in report["errors"][0] and "expected a question" in report["errors"][0]


def test_byte_order_marks_of_a_users_files(run, world):
    """Covers the configuration, the questions and the templates; the training is the same as without."""
    folder, text = world
    _, usual = run(text=text, skip=False)
    shutil.copytree(REPO / "data/toy/templates", folder / "templates")
    for path in (folder / "train.jsonl", *(folder / "templates").iterdir()):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    code, report = run("--mel.template_dir", folder / "templates", text="\ufeff" + text, skip=False)
    assert code == 0 and (report["rows"], report["lengths"]) == (16, usual["lengths"])
    rows = "input,label\n" + "".join(f"{n} + 1?,{n + 1}\n" for n in range(16))
    (folder / "train.csv").write_text(rows, encoding="utf-8-sig")
    code, report = run("--data.prompt_dataset", folder / "train.csv", text=text, skip=False)
    assert code == 0 and report["rows"] == 16


def test_a_last_rollout_that_does_not_divide_is_told(run, world):
    folder, text = world
    with open(folder / "train.jsonl", "a") as file:
        file.write('{"input": "1 + 5?", "label": "6"}\n')
    code, report = run(text=text, skip=False)
    said = (
        "the last rollout of an episode has 1 of 17 questions, of which 1 do not divide over 4 ranks and are left out"
    )
    assert code == 0 and any(said in w and "--data.max_samples 16 saves" in w for w in report["warnings"])


def test_disk_that_is_too_small(run, world, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    _, report = run(text=world[1], skip=False)
    # 642,432 parameters, ZeRO-2: 14 bytes each are 9.0 MB; 3 + 1 checkpoints and a model of 1.3 MB
    assert report["disk"]["needed_gb"] == pytest.approx((4 * 14 + 2) * 642_432 / 1e9)
    assert (
        len(report["errors"]) == 1
        and "--ckpt.path" in report["errors"][0]
        and "are free, expected" in report["errors"][0]
    )


def test_a_resume_needs_room_for_what_is_not_there_yet(run, world, monkeypatch):
    """A run that has filled half of the disk can be resubmitted as long as the next save fits."""
    size = 14 * 642_432
    made = SimpleNamespace(size=size)
    monkeypatch.setattr(checkpoint, "find", lambda folder: [made] * 5 if folder.name == "_actor" else [])
    _, report = run(text=world[1], skip=False)
    assert report["disk"]["needed_gb"] == pytest.approx((4 * 14 + 2) * 642_432 / 1e9)  # without a resume
    for there, rest in ((2, 2), (3, 1), (5, 1)):
        monkeypatch.setattr(checkpoint, "find", lambda folder, there=there: [made] * there)
        _, report = run("--ckpt.load_enable", text=world[1], skip=False)
        assert report["disk"]["needed_gb"] == pytest.approx((rest * size + 2 * 642_432) / 1e9)


def test_a_resume_goes_on_with_what_its_run_began_with(run, world):
    flags = ["--algo.advantage.lambd", "0.9", "--ckpt.load_enable"]
    fault = "--algo.advantage.lambd 0.9: --mel.algorithm grpo ignores it"
    code, report = run(*flags, text=world[1], skip=False)
    assert code == 2 and f"{fault}; leave it out" in report["errors"]
    folder = world[0] / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"config": {"algo.advantage.lambd": 0.9}}))
    _, report = run(*flags, f"--mel.run_dir={folder}", text=world[1], skip=False)
    assert f"{fault}; the run began with it, and goes on with it" in report["warnings"]
    assert not any("lambd" in line for line in report["errors"])


def test_copies_are_never_rotated(run, world):
    _, report = run("--ckpt.save_hf", "--train.num_episodes", 50, text=world[1], skip=False)
    assert report["disk"]["copies"] == 100
    assert any("--ckpt.save_hf: upstream never removes these copies; 100" in w for w in report["warnings"])


def test_a_hub_that_is_out_of_reach_costs_seconds(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    hub.stay_offline_where_it_is_out_of_reach()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and time.monotonic() - started < 5


def test_schedulers_are_those_that_upstreams_call_can_build():
    import torch
    from transformers import get_scheduler
    from transformers.trainer_utils import SchedulerType

    def builds(name: str) -> bool:
        least = {"min_lr_rate": 0.1} if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr") else {}
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-6)
        try:
            scheduler = get_scheduler(name, optimizer, 3, 100, scheduler_specific_kwargs=least)
            optimizer.step()
            scheduler.step()
        except (TypeError, ValueError):
            return False
        return True

    assert {s.value for s in SchedulerType if builds(s.value)} == set(sizes.SCHEDULERS)


def test_a_preset_for_gpus_resolves_on_a_laptop(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    assert resolve(str(path), [], device="cpu").mel.runtime == "cuda"
    assert resolve(str(path), ["--mel.runtime=auto"], device="cuda").mel.runtime == "cuda"
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        resolve(str(path), [])


def test_dry_run_prints_a_gpu_preset_anywhere(tmp_path, command):
    (tmp_path / "base.yaml").write_text(BASE)
    done = command(
        sys.executable, "-m", "openrlhf_mel.train", "--config", tmp_path / "base.yaml", "--dry-run", limit=60
    )
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout)
    assert resolved["mel.runtime"] == "cuda" and resolved["vllm.sync_backend"] == "nccl"


def test_quick_and_light(world, command):
    """A separate process takes less than 10 s and imports neither torch nor Ray nor upstream's command line."""
    folder, text = world
    (folder / "run.yaml").write_text(text)
    heavy = "('torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'openrlhf', 'openrlhf.cli', 'flash_attn')"
    code = (
        "import sys; from openrlhf_mel.preflight.command import main; code = main(sys.argv[1:]);"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = command(sys.executable, "-c", code, "--config", folder / "run.yaml", *NODE, limit=10)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr
    assert "verdict: ok" in done.stdout and "8 x policy" not in done.stdout


def test_as_a_module_with_help_and_text(tmp_path, command):
    (tmp_path / "base.yaml").write_text(BASE)
    argv = [sys.executable, "-m", "openrlhf_mel.preflight"]
    done = command(*argv, "--help", limit=10)
    assert done.returncode == 0 and "--skip-files" in done.stdout and "h100" in done.stdout
    done = command(*argv, "--config", tmp_path / "base.yaml", *NODE, "--skip-files", limit=10)
    assert done.returncode == 0 and done.stderr == ""
    for part in ("8 x policy and engine", "vLLM KV cache", "KV cache of an engine", "steps an hour", "verdict: ok"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 200


NUMBERS = (
    "rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size", "rollout.max_new_tokens",
    "train.batch_size", "train.micro_batch_size", "train.max_tokens_per_gpu", "data.max_len", "data.max_samples",
    "vllm.num_engines", "vllm.tensor_parallel_size", "actor.num_gpus_per_node", "ds.zero_stage", "ds.zpg", "ckpt.max_num",
    "ckpt.save_steps", "ds.ring_attn_size", "ds.lora.rank", "ref.num_nodes", "mel.max_new_tokens", "mel.pairs_per_question",
    "mel.replay_max_new_tokens", "train.max_epochs",
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from([-7, 0, 1, 2, 3, 5, 8, 100, 4096, 10**6])),
    st.dictionaries(
        st.sampled_from(
            ["train.colocate_all", "train.dynamic_batch_enable", "mel.enable", "ckpt.save_hf", "ds.adam_offload"]
        ),
        st.booleans(),
    ),
)
def test_whatever_is_asked_the_answer_is_a_report(run, numbers, switches):
    flags = [f"--{name}={str(value).lower()}" for name, value in (numbers | switches).items()]
    run(*flags)


def test_shipped_cards_are_known():
    assert {"h100", "h200", "h20", "a100"} <= set(workload.cards())
