"""The asynchronous trainer: upstream's two actors in two threads, with a number for the weights."""

import queue
import random
import threading
import time
from types import SimpleNamespace

import pytest
from toy_strategy import MODEL, strategy

from openrlhf_mel import disk
from openrlhf_mel.run import records

pytestmark = pytest.mark.timeout(120)


class World:
    """A run's state; "weights" are the number of steps learned.

    Attributes:
        episodes: number of rollouts of each episode.
        trained, engine: the weights of the actor and of the engines.
        learned: rollouts, in order.
        best: (step, weights at its evaluation, the actor's weights when it is saved, client states).
    """

    def __init__(self, episodes, start, seed):
        self.episodes, self.trained, self.engine = episodes, start, start
        self.learned, self.best = [], []
        self.rng, self.lock = random.Random(seed), threading.Lock()

    def pause(self):
        time.sleep(self.rng.choice([0, 0, 0.001, 0.003]))

    def rollouts(self):
        """Yield the results of `generate_samples`; an empty one ends an episode."""
        number = 0
        for count in self.episodes:
            for _ in range(count):
                self.pause()
                number += 1
                yield [number], 1.0, 1, False
            yield [], 1.0, 0, True


@pytest.fixture
def actors(tmp_path, monkeypatch):
    """Return a function that constructs the generator's and the trainer's actor with a shared queue of `size`."""
    from openrlhf.trainer import ppo_trainer_async as upstream

    from openrlhf_mel.upstream import async_trainer

    monkeypatch.setattr(upstream, "ray", SimpleNamespace(get=lambda made: made))

    def made(size, eval_steps, lock=None, episodes=1):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        made = strategy(
            folder, "--train.async_enable", "--mel.enable=false", "--eval.dataset=data/toy/test.jsonl",
            f"--train.num_episodes={episodes}", f"--train.async_queue_size={size}", "--data.max_samples=8",
        )  # fmt: skip
        made.args.eval.steps = eval_steps  # upstream's entry makes -1 infinite
        made.args.rollout.vllm_generate_batch_size = made.args.rollout.batch_size  # as upstream's entry does
        rollouts, slots = queue.Queue(size), queue.Queue(size)
        for _ in range(size):
            slots.put(0)
        shared = {"vllm_lock": lock, "rollout_queue": rollouts, "rollout_slots": slots}
        generator = async_trainer.GeneratingActor(MODEL, made, [], **shared)
        return generator, async_trainer.TrainingActor(MODEL, made, None, None, None, None, [], **shared)

    return made


@pytest.fixture
def run(actors, monkeypatch):
    from openrlhf_mel.upstream import async_trainer
    from openrlhf_mel.upstream.trainer import MELSteps

    def train_step(trainer, rollout, step):
        world = trainer.world
        world.learned += rollout
        world.pause()
        world.trained += 1
        with world.lock:
            world.engine = world.trained
        return {}, step + 1

    def save_best(trainer, found, step, client_states):
        trainer.world.best.append((step, found["weights"], trainer.world.trained, client_states))

    monkeypatch.setattr(MELSteps, "train_step", train_step)
    # Ray wraps inherited methods too and puts them into the class itself
    monkeypatch.setattr(async_trainer.TrainingActor, "save_best_checkpoint", save_best)
    monkeypatch.setattr(async_trainer.TrainingActor, "save_logs_and_checkpoints", lambda *_: None)

    def go(episodes, size, eval_steps, start=0, seed=0, evaluations=()):
        world = World(episodes, start, seed)
        lock = SimpleNamespace(
            acquire=SimpleNamespace(remote=world.lock.acquire), release=SimpleNamespace(remote=world.lock.release)
        )
        generator, trainer = actors(size, eval_steps, lock, len(episodes))
        rollouts = world.rollouts()
        generator.samples_generator.generate_samples = lambda **_: next(rollouts)
        generator._run_eval = lambda: world.pause() or {"weights": world.engine}
        trainer.world = world
        disk.append_lines(trainer.run_dir / records.EVALUATIONS, evaluations)
        states = {"global_step": start, "episode": 0, "total_consumed_prompts": 0, "data_loader_state_dict": {}}
        monkeypatch.setattr(async_trainer._UpstreamTraining, "init_checkpoint_states", lambda self: states)
        trainer.init_checkpoint_states()
        threads = [
            threading.Thread(target=generator.fit, args=(0, 0), daemon=True),
            threading.Thread(target=trainer.fit, args=(start,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "the two wait for each other"
        return world

    return go


@pytest.mark.parametrize("eval_steps", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("episodes", [[6], [3, 4], [1, 0, 0, 5, 0, 2]])
def test_what_is_saved_as_the_best_is_what_was_evaluated(run, episodes, size, eval_steps):
    for seed, start in [(0, 0), (1, 0), (2, 2), (3, 3)]:
        world = run(episodes, size, eval_steps, start, seed)
        last = start + sum(episodes)
        assert world.learned == list(range(1, sum(episodes) + 1)) and world.trained == last
        for step, evaluated, saved, states in world.best:
            assert step == evaluated == saved == states["global_step"] and "episode" in states
        steps = [step for step, *_ in world.best]
        due = [step for step in range(max(start, 1), last) if step % eval_steps == 0]
        assert steps == due[: len(steps)]
        # like upstream's, the generator ends after the last rollout and evaluates nothing after it
        assert set(steps) >= {step for step in due if step <= last - size}


def test_a_step_that_a_resume_evaluates_again_keeps_its_first_evaluation(run):
    """The first evaluation is the one already in evaluations.jsonl."""
    world = run([4], 1, 2, start=2, evaluations=[{"step": 2, "weights": -1}])
    assert [found for _, found, *_ in world.best[:2]] == [-1, 4]


def test_a_token_of_an_earlier_step_evaluates_nothing(actors):
    """At an episode's end the generator returns a token without a rollout; newer tokens may overtake it."""
    generator, _ = actors(1, 2)
    generator._last_eval_step = 4
    assert [step for step in range(9) if generator._should_eval(step)] == [6, 8]


def test_without_evaluation_nothing_is_waited_for(run):
    world = run([5], 2, float("inf"))
    assert world.best == [] and world.trained == 5
