"""The asynchronous trainer: upstream's own two loops, in two threads, with a number in the place of the weights."""

import queue
import random
import threading
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.timeout(120)


class World:
    """Weights are the number of steps that they have learned.

    Attributes:
        episodes: rollouts of each.
        trained, engine: the actor's weights, and the engines'.
        learned: rollouts, in order.
        best: (step, its evaluation's weights, the actor's weights when it is saved, client states).
    """

    def __init__(self, episodes, start, seed):
        self.episodes, self.trained, self.engine = episodes, start, start
        self.learned, self.best = [], []
        self.rng, self.lock = random.Random(seed), threading.Lock()

    def pause(self):
        time.sleep(self.rng.choice([0, 0, 0.001, 0.003]))

    def rollouts(self):
        """What `generate_samples` returns: an episode's end is a draw that finds nothing."""
        number = 0
        for count in self.episodes:
            for _ in range(count):
                self.pause()
                number += 1
                yield [number], 1.0, 1, False
            yield [], 1.0, 0, True


@pytest.fixture
def run(monkeypatch):
    from openrlhf.trainer import ppo_trainer_async as upstream

    from openrlhf_mel.upstream import async_trainer
    from openrlhf_mel.upstream.trainer import MELSteps

    monkeypatch.setattr(upstream, "ray", SimpleNamespace(get=lambda made: made))

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
    # Ray has wrapped what is inherited too, and put it into the class itself
    monkeypatch.setattr(async_trainer.TrainingActor, "save_best_checkpoint", save_best)
    monkeypatch.setattr(async_trainer.TrainingActor, "save_logs_and_checkpoints", lambda *_: None)

    def go(episodes, size, eval_steps, start=0, seed=0, evaluations=None):
        world = World(episodes, start, seed)
        args = SimpleNamespace(
            algo=SimpleNamespace(dynamic_filtering_enable=False),
            eval=SimpleNamespace(steps=eval_steps, dataset="some"),
            rollout=SimpleNamespace(vllm_generate_batch_size=1),
            train=SimpleNamespace(num_episodes=len(episodes)),
        )
        rollouts, slots = queue.Queue(size), queue.Queue(size)
        for _ in range(size):
            slots.put(0)
        lock = SimpleNamespace(
            acquire=SimpleNamespace(remote=world.lock.acquire), release=SimpleNamespace(remote=world.lock.release)
        )
        made = world.rollouts()
        generator = object.__new__(async_trainer.GeneratingActor)
        vars(generator).update(
            args=args, generate_kwargs={}, eval_dataloader=object(), vllm_lock=lock, rollout_queue=rollouts,
            rollout_slots=slots, _partial_rollout=False, _last_eval_step=-1, _eval_just_done=False,
            samples_generator=SimpleNamespace(generate_samples=lambda: next(made)),
            prompts_dataloader=type("Loader", (list,), {"state_dict": lambda self: {}})(),
        )  # fmt: skip
        generator._run_eval = lambda: world.pause() or {"weights": world.engine}
        trainer = object.__new__(async_trainer.TrainingActor)
        vars(trainer).update(
            world=world, args=args, rollout_slots=slots, rollout_queue=async_trainer.ReadAhead(rollouts),
            wandb_logger=None, tensorboard_logger=None, _restored={"global_step": start, "episode": 0}, monitor=SimpleNamespace(evaluations=evaluations or {}),
        )  # fmt: skip
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
        # the generator ends when it has made the last rollout, and evaluates nothing after that, as upstream's
        assert set(steps) >= {step for step in due if step <= last - size}


def test_a_step_that_a_resume_evaluates_again_keeps_its_first_evaluation(run):
    """The one that has its line in evaluations.jsonl."""
    world = run([4], 1, 2, start=2, evaluations={2: {"weights": "the line's"}})
    assert [found for _, found, *_ in world.best[:2]] == ["the line's", 4]


def test_a_token_of_an_earlier_step_evaluates_nothing():
    """The generator gives a token back when an episode's end leaves it without a rollout; newer ones overtake it."""
    from openrlhf_mel.upstream import async_trainer

    generator = object.__new__(async_trainer.GeneratingActor)
    vars(generator).update(
        args=SimpleNamespace(eval=SimpleNamespace(steps=2)), eval_dataloader=object(), _last_eval_step=4
    )
    assert [step for step in range(9) if generator._should_eval(step)] == [6, 8]


def test_without_evaluation_nothing_is_waited_for(run):
    world = run([5], 2, float("inf"))
    assert world.best == [] and world.trained == 5
