"""Every name and argument of OpenRLHF 0.11.2 that MEL uses, and the check that the installed version has them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import textwrap
from typing import Any

from openrlhf_mel.errors import UserError

VERSION = "0.11.2"
DEEPSPEED = "0.19.6"  # MEL uses its private `averaged_gradients` and the names of its sleep buffers

# name -> the arguments of what MEL calls, overrides or relies on, in order. `*`: only that it exists.
NAMES: dict[str, tuple[str, ...]] = {
    "openrlhf.trainer.ray.create_vllm_engines": (
        "num_engines", "tensor_parallel_size", "pretrain", "seed", "full_determinism", "enable_prefix_caching",
        "enforce_eager", "max_model_len", "shared_pg", "gpu_memory_utilization", "vllm_enable_sleep", "logprobs_mode",
        "agent_func_path", "remote_rm_url", "max_images_per_prompt",
    ),
    "openrlhf.trainer.ray.vllm_engine._load_agent_executor": ("agent_func_path",),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.generate": (
        "self", "prompt_token_ids", "sampling_params", "multi_modal_data",
    ),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.generate_responses": (
        "self", "prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "num_samples", "images",
    ),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.get_num_unfinished_requests": ("self",),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.update_weight": (
        "self", "name", "dtype", "shape", "empty_cache",
    ),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.sleep": ("self", "level"),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.wake_up": ("self", "tags"),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.pause_generation": ("self",),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.resume_generation": ("self",),
    "openrlhf.trainer.ray.vllm_engine.RolloutRayActor.reset_prefix_cache": ("self",),
    "openrlhf.trainer.ray.ppo_actor.PolicyModelActor.init_model_from_pretrained": (
        "self", "strategy", "pretrain", "max_steps", "vllm_engines",
    ),
    "openrlhf.trainer.ray.ppo_actor.PolicyModelActor.fit": ("self", "kl_ctl"),
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer.ppo_train": ("self", "kl_ctl"),
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer.training_step": (
        "self", "experience", "kl_ctl", "step", "loss_batch_info",
    ),
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer._init_vllm_sync_group": ("self", "backend"),
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer.broadcast_to_vllm": ("self",),
    "openrlhf.trainer.ray.ppo_actor.iter_grad_accum_global_norm": (
        "data_iter", "strategy", "accumulated_gradient", "mask_fn",
    ),
    "openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer": (
        "sample_batch_size", "limit", "cpu_offload", "packing_samples", "dynamic_batch",
    ),
    "openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer.setup_dynamic_batch": ("self", "strategy"),
    "openrlhf.trainer.ray.launcher.RayActorGroup.async_run_method": ("self", "method_name", "args", "kwargs"),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.train_step": ("self", "rollout_samples", "global_step"),
    "openrlhf.trainer.ppo_trainer.BasePPOTrainer._compute_rollout_stats": ("self", "experiences"),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.save_logs_and_checkpoints": (
        "self", "global_step", "logs_dict", "client_states",
    ),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.init_checkpoint_states": ("self",),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.evaluate": ("self", "global_step", "generate_kwargs"),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.save_best_checkpoint": (
        "self", "eval_metrics", "global_step", "client_states",
    ),
    "openrlhf.trainer.ppo_trainer_async.PPOTrainerAsync": ("*",),
    "openrlhf.trainer.ppo_trainer_async.SamplesGenerator": ("*",),
    "openrlhf.trainer.ppo_trainer_async.GenerateSamplesActor.fit": ("self", "episode", "total_consumed_prompts"),
    "openrlhf.trainer.ppo_trainer_async.GenerateSamplesActor._should_eval": ("self", "global_step"),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.fit": ("self", "global_step"),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.train_step": ("self", "rollout_samples", "global_step"),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.save_logs_and_checkpoints": (
        "self", "global_step", "logs_dict", "client_states",
    ),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.save_best_checkpoint": (
        "self", "eval_metrics", "global_step", "client_states",
    ),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator.generate_samples": ("self", "generate_kwargs"),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator.generate_eval_samples": ("self", "generate_kwargs"),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator._generate_vllm": (
        "self", "dataloader_iter", "num_prompts", "dynamic_filtering", "generate_kwargs",
    ),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator._process_response_into_experience": (
        "self", "response", "generate_kwargs",
    ),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator._dispatch_prompts_to_vllm": (
        "self", "prompts", "labels", "images", "generate_kwargs",
    ),
    "openrlhf.trainer.ppo_trainer.PromptDataset": ("dataset", "tokenizer", "strategy", "input_template"),
    "openrlhf.datasets.utils.blending_datasets": (
        "datasets", "probabilities", "strategy", "seed", "max_count", "stopping_strategy", "dataset_split",
    ),
    "openrlhf.models.Actor.forward": (
        "self", "sequences", "action_mask", "attention_mask", "return_output", "allgather_logits", "return_logprobs",
        "ring_attn_group", "packed_seq_lens", "return_entropy", "mm_inputs",
    ),
    "openrlhf.models.PolicyLoss.forward": (
        "self", "log_probs", "old_log_probs", "advantages", "action_mask", "rollout_log_probs", "dp_size",
        "batch_num_tokens", "global_batch_size",
    ),
    "openrlhf.utils.agent.SingleTurnAgentExecutor": ("remote_rm_url",),
    "openrlhf.utils.agent.SingleTurnAgentExecutor.execute": (
        "self", "prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "llm_engine", "images",
    ),
    "openrlhf.utils.config.hierarchize": ("args",),
    "openrlhf.trainer.ray.ppo_actor.Actor": ("*",),
    "openrlhf.trainer.ppo_utils.experience.Experience": ("*",),
    "openrlhf.utils.deepspeed.deepspeed_utils.get_train_ds_config": (
        "offload", "adam_offload", "stage", "param_dtype", "max_norm", "zpg", "grad_accum_dtype", "overlap_comm",
        "use_ds_universal_ckpt", "deepcompile", "tensor_parallel_size", "optim_config",
    ),
    "openrlhf.utils.utils.convert_to_torch_dtype": ("param_dtype",),
    "openrlhf.utils.deepspeed.deepspeed.init_device_mesh": ("*",),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.prepare": ("self", "args"),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.backward": ("self", "loss", "model", "_optimizer", "kwargs"),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.optimizer_step": (
        "self", "_optimizer", "model", "_scheduler", "name", "kwargs",
    ),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.all_reduce": ("self", "data", "op"),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.is_rank_0": ("self",),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.save_model": ("self", "model", "tokenizer", "output_dir", "kwargs"),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.CKPT_METRIC_FILENAME": ("*",),
    "openrlhf.utils.logging_utils.TensorboardLogger.log_eval": ("self", "global_step", "logs_dict"),
    "openrlhf.utils.logging_utils.WandbLogger.log_eval": ("self", "global_step", "logs_dict"),
}  # fmt: skip
# method -> attributes that it sets on `self`; no signature shows them.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "openrlhf.trainer.ppo_trainer.BasePPOTrainer.__init__": (
        "args", "actor_model_group", "wandb_logger", "tensorboard_logger",
    ),
    "openrlhf.trainer.ppo_trainer.PPOTrainer.__init__": ("samples_generator", "eval_dataloader", "generate_kwargs"),
    "openrlhf.trainer.ppo_trainer_async.GenerateSamplesActor.__init__": (
        "args", "samples_generator", "_last_eval_step",
    ),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.__init__": ("rollout_queue", "rollout_slots"),
    "openrlhf.trainer.ppo_trainer_async.TrainingActor.fit": ("_latest_client_states",),
    "openrlhf.trainer.ppo_trainer.SamplesGenerator.__init__": (
        "args", "tokenizer", "vllm_engines", "prompts_dataloader",
    ),
    "openrlhf.models.PolicyLoss.__init__": ("token_level_loss",),
    "openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer.__init__": (
        "items", "dynamic_indices", "dynamic_optimizer_step", "dynamic_global_batch_size",
    ),
    "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer.__init__": (
        "strategy", "args", "tokenizer", "actor", "actor_loss_fn", "aux_loss", "replay_buffer", "micro_train_batch_size",
        "vllm_engines", "use_cuda_ipc",
    ),
    "openrlhf.trainer.ray.ppo_actor.PolicyModelActor.init_model_from_pretrained": (
        "actor", "ema_model", "tokenizer", "trainer", "save_hf_ckpt", "disable_ds_ckpt",
    ),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.__init__": ("args",),
    "openrlhf.utils.deepspeed.DeepspeedStrategy.setup_distributed": ("ds_device_mesh", "accumulated_gradient"),
}  # fmt: skip
EXPERIENCE_FIELDS = (
    "sequences", "action_mask", "action_log_probs", "rollout_log_probs", "scores", "rewards", "advantages", "total_length",
)  # fmt: skip


def check_version() -> None:
    """Raise UserError unless the installed OpenRLHF is the one that this package was written for."""
    try:
        installed = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"openrlhf is not installed; expected openrlhf=={VERSION} (see requirements.txt)") from None
    if installed != VERSION:
        raise UserError(
            f"openrlhf {installed} is installed, expected {VERSION}; pip install --no-deps openrlhf=={VERSION}"
            + _differences_text()
        )
    deepspeed = importlib.metadata.version("deepspeed")
    if deepspeed != DEEPSPEED:
        raise UserError(f"deepspeed {deepspeed} is installed, expected {DEEPSPEED}; pip install deepspeed=={DEEPSPEED}")


def differences() -> list[str]:
    """How the installed OpenRLHF differs from what MEL uses, one line each; empty when it fits."""
    lines = []
    for name, expected in NAMES.items():
        try:
            target = _find(name)
        except (ImportError, AttributeError) as error:
            lines.append(f"{name}: not there ({error})")
            continue
        if expected != ("*",) and (arguments := _arguments(target)) != expected:
            lines.append(f"{name}: takes ({', '.join(arguments)}), expected ({', '.join(expected)})")
    from openrlhf.trainer.ppo_utils.experience import Experience

    present = {f.name for f in dataclasses.fields(Experience)}
    lines += [f"Experience.{name}: not there" for name in EXPERIENCE_FIELDS if name not in present]
    for name, expected in ATTRIBUTES.items():
        try:
            attributes = _sets(_find(name))
        except (ImportError, AttributeError) as error:
            lines.append(f"{name}: not there ({error})")
            continue
        lines += [f"{name}: does not set {attribute}" for attribute in expected if attribute not in attributes]
    return lines


def _differences_text() -> str:
    try:
        lines = differences()
    except Exception:  # its modules cannot be imported: the version itself is the message
        return ""
    return "".join(f"\n  {line}" for line in lines[:6])


def _find(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            target: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            # Classes wrapped by `@ray.remote` keep the plain one inside.
            target = target.__ray_metadata__.modified_class if _is_remote(target) else target
            target = getattr(target, part)
        return target
    raise ImportError(name)


def _sets(method: Any) -> set[str]:
    """The attributes of `self` that a method assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def _is_remote(target: Any) -> bool:
    return hasattr(target, "__ray_metadata__")


def _arguments(target: Any) -> tuple[str, ...]:
    # Ray adds an argument of its own to the methods of remote classes.
    return tuple(name for name in inspect.signature(target).parameters if name != "_ray_trace_ctx")
