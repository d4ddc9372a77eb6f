import json

import pytest

from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import folder, records
from openrlhf_mel.settings import flags
from openrlhf_mel.settings.resolve import resolve
from openrlhf_mel.upstream import AGENT_EXECUTOR

MINIMAL = """
actor: {model_name_or_path: some/model}
data: {prompt_dataset: questions.jsonl, input_key: input, label_key: label, max_len: 1024}
rollout: {batch_size: 8, n_samples_per_prompt: 4, max_new_tokens: 256}
train: {batch_size: 32}
"""


@pytest.fixture
def yaml(tmp_path):
    def write(text=MINIMAL):
        path = tmp_path / "name.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_minimal_configuration_gets_the_methods_defaults(yaml):
    settings = resolve(yaml(), [], agent_executor=AGENT_EXECUTOR)
    values = settings.upstream
    assert values["algo.advantage.estimator"] == "group_norm"
    assert values["actor.loss_agg_mode"] == "seq-mean-token-mean"
    assert values["algo.kl.init_coef"] == 0
    assert values["actor.eps_clip"] == 0.2
    assert values["ckpt.best_metric_key"] == "none"
    assert values["train.agent_func_path"].endswith("upstream/agent_executor.py")
    assert settings.run_dir.is_absolute() and settings.run_dir.parts[-2:] == ("runs", "name")
    assert values["ckpt.path"] == f"{settings.run_dir}/checkpoints"
    assert settings.mel.max_new_tokens == 256
    json.dumps(settings.as_dict())


@pytest.mark.parametrize(
    ("algorithm", "estimator", "aggregation"),
    [
        ("grpo", "group_norm", "seq-mean-token-mean"),
        ("reinforce++", "reinforce", "token-mean"),
        ("reinforce++-baseline", "reinforce_baseline", "token-mean"),
    ],
)
def test_algorithm_sets_estimator_and_aggregation(yaml, algorithm, estimator, aggregation):
    values = resolve(yaml(), ["--mel.algorithm", algorithm]).upstream
    assert (values["algo.advantage.estimator"], values["actor.loss_agg_mode"]) == (estimator, aggregation)


def test_command_line_wins_over_the_yaml(yaml):
    text = MINIMAL + "mel: {nll_coef: 0.5, enable: true}\nds: {packing_samples: true}\n"
    settings = resolve(yaml(text), ["--mel.nll_coef=2", "--ds.packing_samples", "false", "--data.max_len", "2048"])
    assert settings.mel.nll_coef == 2
    assert settings.upstream["ds.packing_samples"] is False
    assert settings.upstream["data.max_len"] == 2048


def test_numbers_that_yaml_reads_as_text(yaml):
    text = MINIMAL.replace("{model_name_or_path: some/model}", "{model_name_or_path: m, adam: {lr: 1e-6}}")
    settings = resolve(yaml(text + "mel: {nll_coef: 1e-1}\n"), [])
    assert settings.upstream["actor.adam.lr"] == 1e-6
    assert settings.mel.nll_coef == 0.1


def test_values_with_a_leading_minus_and_lists(yaml):
    flags_ = ["--reward.stop_properly_penalty_coef", "-0.5", "--actor.eps_clip_low_high", "0.2", "0.28"]
    values = resolve(yaml(), flags_).upstream
    assert values["reward.stop_properly_penalty_coef"] == -0.5
    assert values["actor.eps_clip_low_high"] == [0.2, 0.28]


def test_own_reward_function_takes_the_place_of_the_verifier(yaml):
    values = resolve(yaml(), ["--reward.remote_url", "mine.py"], agent_executor=AGENT_EXECUTOR).upstream
    assert values["train.agent_func_path"] is None


@pytest.mark.parametrize(
    ("extra", "arguments", "message"),
    [
        ("dta: {max_len: 3}\n", [], "unknown key 'dta.max_len'; did you mean data.max_len"),
        ("max_len: 3\n", [], "unknown key 'max_len'; did you mean data.max_len"),
        ("mel: {nll_koef: 1}\n", [], "unknown key 'mel.nll_koef'; did you mean mel.nll_coef"),
        ("mel: {algorithm: ppo}\n", [], "--mel.algorithm: found 'ppo', expected one of grpo"),
        ("", ["--mel.nll_koef", "1"], "unknown flag --mel.nll_koef; did you mean mel.nll_coef"),
        ("", ["--data.max_len", "long"], "--data.max_len"),
        ("", ["data.max_len"], "found 'data.max_len', expected a flag"),
        ("", ["--data.max_len"], "--data.max_len: found no value"),
        ("", ["--data.max_len", "3", "4"], "--data.max_len: found '3 4', expected one value"),
        ("", ["--train.colocate_all", "perhaps"], "--train.colocate_all: found 'perhaps', expected true or false"),
        ("train: {colocate_all: 3}\n", [], "--train.colocate_all: found 3, expected true or false"),
        ("data: {max_len: true}\n", [], "--data.max_len: found True"),
        ("", ["--algo.advantage.estimator", "rloo"], "contradicts --mel.algorithm grpo"),
        ("", ["--logger.wandb.key", "secret"], "--logger.wandb.key: a key on the command line"),
        ("", ["--train.batch_size", "64"], "--train.batch_size 64: expected at most"),
        ("", ["--rollout.n_samples_per_prompt", "1", "--train.batch_size", "8"], "grpo compares a group"),
        ("", ["--rollout.max_new_tokens", "1024"], "--rollout.max_new_tokens 1024: expected less than"),
        ("", ["--data.prompt_dataset", "load.py"], "a Python script would be run"),
        ("", ["--ds.zero_stage", "0"], "--ds.zero_stage 0: expected 1, 2 or 3"),
        ("", ["--vllm.enable_sleep", "--train.async_enable"], "--vllm.enable_sleep: not possible with --train.async"),
        ("", ["--vllm.enable_sleep"], "--vllm.enable_sleep: only for --train.colocate_all"),
        ("", ["--train.partial_rollout_enable"], "--train.partial_rollout_enable: only for --train.async_enable"),
        ("", ["--mel.construction=later"], "--mel.construction: found 'later', expected one of streaming, deferred"),
        ("", ["--mel.max_carries=0"], "--mel.max_carries: found 0, expected at least 1"),
        (
            "",
            ["--mel.construction=deferred", "--train.async_enable"],
            "--mel.construction deferred: not with --train.async_enable, whose rollouts overlap the training already; use",
        ),
        (
            "",
            ["--mel.construction=deferred", "--algo.dynamic_filtering_enable"],
            "--mel.construction deferred: not with --algo.dynamic_filtering_enable: the run's last questions may all be",
        ),
        ("", ["--rollout.vllm_generate_batch_size=9"], "--rollout.vllm_generate_batch_size 9: more than"),
        (
            "",
            ["--rollout.vllm_generate_batch_size=7", "--train.async_enable"],
            "--rollout.vllm_generate_batch_size 7: expected at least --rollout.batch_size (8)",
        ),
        ("", ["--train.colocate_all", "--vllm.num_engines=2"], "--train.colocate_all: policy and engines share every"),
        ("", ["--actor.num_gpus_per_node=8", "--rollout.micro_batch_size=8"], "8 x 4 = 32, expected a multiple of 64"),
        (
            "",
            ["--train.dynamic_batch_enable", "--train.batch_size=24"],
            "= 32, expected a multiple of 24 (--train.batch_size: with --train.dynamic_batch_enable",
        ),
        (
            "",
            ["--rollout.vllm_generate_batch_size=16", "--train.async_enable", "--ckpt.save_steps=5"],
            "--rollout.vllm_generate_batch_size 16: more than --rollout.batch_size (8) does not go with checkpoints",
        ),
        (
            "",
            ["--ckpt.disable_ds", "--ckpt.load_enable"],
            "--ckpt.load_enable: --ckpt.disable_ds saves no checkpoint that can be resumed",
        ),
        ("", ["--actor.optim=muon", "--ds.zero_stage=3"], "--actor.optim muon: DeepSpeed refuses it"),
        ("", ["--ds.lora.rank=4", "--train.enable_ema"], "--train.enable_ema: not supported with --ds.lora.rank"),
        (
            "",
            ["--ds.zero_stage=1", "--ds.grad_accum_dtype=fp32"],
            "--ds.grad_accum_dtype fp32: not with --ds.zero_stage 1",
        ),
        ("", ["--ds.ring_attn_size", "2"], "--ds.ring_attn_size 2: not supported with meta-experiences or rft: a"),
        ("", ["--ds.tensor_parallel_size", "2"], "--ds.tensor_parallel_size 2: not supported with meta-experiences"),
        ("", ["--reward.model_name_or_path", "rm"], "--reward.model_name_or_path: not supported"),
        ("", ["--ds.load_in_4bit"], "--ds.load_in_4bit: needs a GPU"),
        ("", ["--algo.kl.init_coef", "0.1"], "--algo.kl.init_coef: needs a GPU"),
        ("", ["--mel.algorithm=rft", "--actor.entropy_coef=0.1"], "--mel.algorithm rft: not supported with"),
        (
            "",
            ["--algo.advantage.is_correction_level=token", "--rollout.top_p=0.9"],
            "--algo.advantage.is_correction_level token: biased with --rollout.top_p 0.9",
        ),
        (
            "",
            ["--algo.advantage.is_correction_level=seq", "--mel.algorithm=rft"],
            "--algo.advantage.is_correction_level seq: --mel.algorithm rft ignores it",
        ),
        (
            "",
            ["--algo.advantage.is_correction_level=seq", "--algo.advantage.is_correction_mode=clip"],
            "--algo.advantage.is_correction_mode clip: found --algo.advantage.is_correction_level seq and",
        ),
        (
            "",
            ["--algo.advantage.is_correction_level=seq", "--algo.advantage.is_correction_gating=tv"],
            "--algo.advantage.is_correction_threshold 0.5 5: a divergence",
        ),
        ("", ["--rollout.max_new_tokens", "0"], "--rollout.max_new_tokens: found 0, expected at least 1"),
        ("", ["--train.micro_batch_size", "3"], "--train.batch_size 32: expected a multiple of"),
        ("", ["--ckpt.save_steps", "0"], "--ckpt.save_steps: found 0, expected at least 1, or -1"),
        ("", ["--vllm.num_engines", "0"], "--vllm.num_engines: found 0"),
        ("", ["--mel.nll_coef", "inf"], "--mel.nll_coef: found inf, expected a finite number"),
        ("", ["--eval.dataset", "a.jsonl,b.py"], "--eval.dataset b.py: a Python script would be run"),
        ("train: {batch_size: 8}\n", [], "the key 'train' stands twice"),
        ("ckpt: {save_steps: [1, 2]}\n", [], "--ckpt.save_steps: found [1, 2], expected one value"),
        ("", ["--ds.adam_offload"], "--ds.adam_offload: needs a GPU"),
        ("", ["--mel.runtime", "cuda"], "--mel.runtime cuda: torch sees no CUDA device"),
    ],
)
def test_bad_input_is_named(yaml, extra, arguments, message):
    path = yaml(extra if extra.startswith("data:") else MINIMAL + extra)
    if extra.startswith("data:"):
        arguments = ["--actor.model_name_or_path=m", "--data.prompt_dataset=d", "--data.label_key=l",
                     "--rollout.batch_size=8", "--rollout.n_samples_per_prompt=4", "--train.batch_size=32"]  # fmt: skip
    elif "colocate_all" in extra:
        path = yaml(MINIMAL.replace("train: {batch_size: 32}", "train: {batch_size: 32, colocate_all: 3}"))
    arguments = arguments if "--mel.runtime" in arguments else ["--mel.runtime=cpu", *arguments]
    with pytest.raises(UserError) as error:
        resolve(path, arguments)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 10


def test_null_leaves_a_key_to_its_default(yaml):
    nulls = (
        "algo: {advantage: {estimator: null}, kl: {init_coef: null}}\nckpt: {path: null, best_metric_key: null}\nmel:\n"
    )
    plain, nulled = resolve(yaml(), []), resolve(yaml(MINIMAL + nulls), [])
    assert nulled == plain and nulled.upstream["algo.advantage.estimator"] == "group_norm"


def test_local_paths_do_not_depend_on_the_folder_of_a_worker(yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").touch()
    (tmp_path / "t").mkdir()
    settings = resolve(yaml(), ["--mel.template_dir", "t", "--eval.dataset", "questions.jsonl, hub/name"])
    assert settings.upstream["data.prompt_dataset"] == str(tmp_path / "questions.jsonl")
    assert settings.upstream["eval.dataset"] == f"{tmp_path}/questions.jsonl,hub/name"
    assert settings.upstream["actor.model_name_or_path"] == "some/model"
    assert settings.mel.template_dir == str(tmp_path / "t")


def test_a_resolved_configuration_is_the_same_after_a_round_trip_through_the_manifest(yaml, tmp_path):
    settings = resolve(yaml(), ["--mel.run_dir", str(tmp_path / "run")])
    settings.run_dir.mkdir()
    disk.write_json(settings.run_dir / records.MANIFEST, {"config": settings.as_dict(), "finished": None})
    settings.run_dir.rename(tmp_path / "moved")
    again = resolve(yaml(), ["--mel.run_dir", str(tmp_path / "moved"), "--ckpt.load_enable"])
    folder.check(again.run_dir, again.as_dict(), resume=True)


def test_rft_brings_no_critic(yaml):
    values = resolve(yaml(), ["--mel.algorithm=rft"]).upstream
    assert values["algo.advantage.estimator"] == "reinforce"
    with pytest.raises(UserError, match=r"estimator gae contradicts --mel\.algorithm rft, whose estimator is none"):
        resolve(yaml(), ["--mel.algorithm=rft", "--algo.advantage.estimator=gae"])


def test_missing_flags_are_all_named():
    with pytest.raises(UserError, match=r"--actor\.model_name_or_path.*--train\.batch_size not given"):
        resolve(None, [])


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n"])
def test_unreadable_yaml(yaml, text):
    with pytest.raises(UserError, match=r"name\.yaml"):
        resolve(yaml(text), [])


def test_missing_yaml(tmp_path):
    with pytest.raises(UserError, match=r"--config .*none\.yaml: No such file"):
        resolve(str(tmp_path / "none.yaml"), [])


def test_every_upstream_default_survives_the_way_through_the_command_line(yaml):
    values = resolve(yaml(), []).upstream
    ours = {"data.max_len", "data.label_key", "vllm.num_engines", "vllm.sync_backend", "ds.attn_implementation"}
    for name, action in flags.actions().items():
        if action.dest == name and values[name] != action.default:
            assert name in ours or name.split(".")[0] in {"actor", "algo", "ckpt", "data", "logger", "rollout", "train"}


DYNAMIC = ["--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "0.1", "0.9"]


@pytest.mark.parametrize(
    ("flags", "construction"),
    [([], "deferred"), (["--train.async_enable"], "streaming"), (DYNAMIC, "streaming"),
     (["--mel.construction=streaming"], "streaming"), (["--mel.enable=false"], "streaming")],
)  # fmt: skip
def test_constructions_are_deferred_where_that_is_possible(yaml, flags, construction):
    found = resolve(yaml(), flags)
    assert found.mel.construction == construction == found.as_dict()["mel.construction"]


@pytest.mark.parametrize(
    ("began", "flags", "construction"),
    [({}, [], "streaming"), ({"mel.construction": "deferred"}, [], "deferred"),
     ({"mel.construction": "streaming"}, [], "streaming"), ({}, ["--mel.construction=deferred"], "deferred")],
)  # fmt: skip
def test_a_run_that_is_resumed_constructs_as_it_began(yaml, began, flags, construction):
    """A run of a version without the option waited for its constructions."""
    found = resolve(yaml(), ["--ckpt.load_enable", *flags], begun=lambda _: {"mel.seed": 0} | began)
    assert found.mel.construction == construction
    assert resolve(yaml(), ["--ckpt.load_enable"], begun=lambda _: {}).mel.construction == "deferred"
