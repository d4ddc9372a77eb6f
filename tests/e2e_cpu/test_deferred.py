"""A run with deferred constructions: upstream's real loop and generator over a real Ray, with engines that are paced.

Only what would need a model is a stand-in: the engines, and the policy's update.
"""

import itertools
import random
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from toy_strategy import MODEL, strategy

from openrlhf_mel import disk
from openrlhf_mel.cpu import standins
from openrlhf_mel.errors import Stopped
from openrlhf_mel.run import carried_experiences, checkpoint, records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, QUESTIONS = 50, 4
FLAGS = (
    f"--data.max_samples={STEPS * QUESTIONS}", f"--rollout.batch_size={QUESTIONS}", "--rollout.n_samples_per_prompt=4",
    "--train.batch_size=16", "--train.micro_batch_size=4", "--rollout.micro_batch_size=4", "--ckpt.save_steps=3",
    "--eval.steps=7", "--eval.n_samples_per_prompt=1", "--ckpt.load_enable",
)  # fmt: skip


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def cluster():
    standins.install()
    import ray

    repo = Path(__file__).parents[2]
    env = {"PYTHONPATH": f"{repo}:{repo / 'tests'}", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "0"}
    ray.init(
        address="local",
        num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20,
        runtime_env={"worker_process_setup_hook": "openrlhf_mel.cpu.standins.install", "env_vars": env},
    )  # fmt: skip
    yield ray
    ray.shutdown()


class Run:
    """A run in a folder, in as many attempts as its misfortunes take."""

    def __init__(self, ray, folder, flags, misfortunes=None):
        """`misfortunes` draws when the run is stopped or killed; None: it is left in peace."""
        from openrlhf_mel.upstream import trainer as module

        self.ray, self.folder, self.module, self.rng = ray, folder, module, misfortunes
        self.flags, self.learned, self.faults, self.ends = flags, {}, [], Counter()
        (folder / "logs").mkdir(parents=True)
        with open("data/toy/test.jsonl") as test:
            (folder / "evaluation.jsonl").write_text("".join(itertools.islice(test, 4)))

    def finish(self):
        """Run to the end. Returns the archive."""
        while True:
            try:
                self._attempt()
                return list(disk.read_lines(self.folder / records.ARCHIVE))
            except (Stopped, Killed) as end:
                self.ends[type(end)] += 1
                (self.folder / records.STOP).unlink(missing_ok=True)

    def maybe_killed(self, chance):
        if self.rng and self.rng.random() < chance:
            raise Killed

    def _attempt(self):
        from e2e_cpu.paced import Paced

        actor = self.ray.remote(Paced).options(num_cpus=0)
        engines = [actor.remote() for _ in range(2)]
        saved = self.folder / "checkpoints" / "_actor"
        if saved.exists():
            checkpoint.prepare(saved)
        policy = Policy(self, saved)
        torch.manual_seed(0)  # of the order of questions
        trainer = self.module.MELTrainer(
            MODEL, strategy(self.folder, f"--eval.dataset={self.folder}/evaluation.jsonl", *FLAGS, *self.flags), policy, None, None, None, engines,
            max_len=384, max_new_tokens=64, n_samples_per_prompt=4,
        )  # fmt: skip

        def update(_, samples, step):
            """The policy's update: 20 ms in which the weights change."""
            self.ray.get([engine.weights.remote(True) for engine in engines])
            self.maybe_killed(0.03)
            self.ray.get([engine.weights.remote(False) for engine in engines])
            self.learned[step + 1] = policy.rows
            if self.rng and (self.rng.random() < 0.06 or (step == 30 and not self.ends[Stopped])):
                threading.Timer(self.rng.random() * 0.2, (self.folder / records.STOP).touch).start()
            self.maybe_killed(step == 15 and not self.ends[Killed])
            return {"mel/learned": len(policy.rows)}, step + 1

        generator = trainer.samples_generator
        heed_stop = generator._heed_stop

        def heed_stop_or_be_killed():
            self.maybe_killed(0.002)
            heed_stop()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.module._UpstreamTrainer, "train_step", update)
            patch.setattr(generator, "_heed_stop", heed_stop_or_be_killed)
            try:
                trainer.fit()
            finally:
                for engine in engines:
                    self.faults += self.ray.get(engine.found.remote())
                    self.ray.kill(engine)


class Policy:
    """Upstream's group of policy actors, of one rank: real checkpoints of a model without weights."""

    def __init__(self, run, folder):
        self.run, self.folder, self.rows = run, folder, []

    def async_run_method(self, method_name, **given):
        return [self.run.ray.put(found)] if (found := getattr(self, method_name)(**given)) is not None else []

    def take_rows(self, rows, coefficient):
        self.rows = rows

    def broadcast_to_vllm(self):
        pass

    def get_checkpoint_states(self):
        return torch.load(checkpoint.newest(self.folder).path / "mp_rank_00_model_states.pt", weights_only=False)

    def save_checkpoint(self, tag, client_states, metric_value, metric_key):
        from openrlhf_mel.upstream import saving

        states = dict(client_states)  # Ray would copy them
        options = strategy(self.run.folder, *FLAGS)
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            saving.save(options, Weightless(self.run), self.folder, tag, states, metric_value, metric_key)
        finally:
            torch.distributed.destroy_process_group()  # upstream's data loader would be a rank's
        self.run.maybe_killed(0.03)


class Weightless:
    """DeepSpeed's engine around a model without weights."""

    def __init__(self, run):
        self.run = run

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        path = Path(folder) / tag
        path.mkdir()
        torch.save(client_state, path / "mp_rank_00_model_states.pt")
        self.run.maybe_killed(0.03)
        (path / "zero_pp_rank_0_optim_states.pt").write_bytes(b"x")


def fate(m):
    """What became of an M, whenever it did."""
    names = (
        "question",
        "y_pos",
        "y_neg",
        "text",
        "replay",
        "replay_scores",
        "kept",
        "reason",
        "tokens",
        "replay_tokens",
    )
    return tuple(map(str, (m["drawn_step"], *map(m.get, names))))


@pytest.fixture(scope="module")
def streaming(cluster, tmp_path_factory):
    """The archive of the same run with streaming construction."""
    run = Run(cluster, tmp_path_factory.mktemp("streaming") / "run", ("--mel.construction=streaming",))
    archive = run.finish()
    assert run.faults == [] and all(m["step"] == m["drawn_step"] for m in archive)
    return archive


def check(run, archive, streaming, max_carries):
    """Every M of streaming's run ends once, in time and as there, and is learned in the step in which it ends."""
    assert run.faults == []
    assert sorted(map(fate, archive)) == sorted(map(fate, streaming))
    late = Counter(m["step"] - m["drawn_step"] for m in archive)
    assert set(late) == set(range(max_carries + 1)) and late[1] > STEPS
    steps = list(disk.read_lines(run.folder / records.METRICS))
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1)) == sorted(run.learned)
    for row in steps:
        ended = [m for m in archive if m["step"] == row["step"]]
        kept = sorted((m["question"], m["tokens"]) for m in ended if m["kept"])
        assert sorted((each.question, len(each.token_ids)) for each in run.learned[row["step"]]) == kept
        assert (row["mel/candidates"], row["mel/kept"]) == (len(ended), len(kept))
        assert row["mel/carried_over"] == sum(m["drawn_step"] <= row["step"] < m["step"] for m in archive)
    assert steps[-1]["mel/carried_over"] == 0 and sum(row["mel/rewritten_tokens"] for row in steps) > 0
    assert all(0 <= row["timing/generation_idle"] < 1 for row in steps)


@pytest.mark.parametrize("max_carries", [1, pytest.param(3, marks=pytest.mark.release)])
def test_deferring_changes_when_an_m_is_learned_and_nothing_else(cluster, streaming, tmp_path, max_carries):
    run = Run(cluster, tmp_path / "run", ("--mel.construction=deferred", f"--mel.max_carries={max_carries}"))
    check(run, run.finish(), streaming, max_carries)
    saved = checkpoint.newest(tmp_path / "run" / "checkpoints" / "_actor")
    assert (saved.path / carried_experiences.FILE).exists()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.release) for seed in range(2, 5))])
def test_stops_and_kills_lose_no_m_and_learn_none_twice(cluster, streaming, tmp_path, seed):
    run = Run(cluster, tmp_path / "run", ("--mel.construction=deferred",), random.Random(seed))
    archive = run.finish()
    assert run.ends[Killed] and run.ends[Stopped]
    check(run, archive, streaming, 1)
