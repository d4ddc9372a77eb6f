"""A run that is stopped, or killed at any moment, goes on: every step once, no question twice in an epoch."""

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from openrlhf_mel import checkpoint, runlog
from openrlhf_mel.train import STOPPED

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPO = Path(__file__).resolve().parents[2]
STEPS, QUESTIONS = 6, 8
TOY = f"""
actor: {{model_name_or_path: {REPO}/data/toy/model, adam: {{lr: 1e-4}}, lr_warmup_ratio: 0}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384}}
rollout: {{batch_size: {QUESTIONS}, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 8}}
train: {{batch_size: 64, micro_batch_size: 8}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, runtime: cpu}}
"""


@pytest.fixture
def run(tmp_path):
    """Start the run, or take it up again."""
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(TOY)

    class Run:
        folder = out
        checkpoints = out / "checkpoints" / "_actor"

        def start(self, *flags):
            argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", config, "--mel.run_dir", out,
                    "--ckpt.load_enable", *flags]  # fmt: skip
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            return subprocess.Popen(list(map(str, argv)), cwd=REPO, start_new_session=True, text=True, **quiet)

        def finish(self, *flags, expected=0, limit=200):
            process = self.start(*flags)
            try:
                _, errors = process.communicate(timeout=limit)
            finally:
                kill_all(process)
            assert process.returncode == expected, errors[-2000:]

        def steps(self):
            return [row["step"] for row in runlog.read_lines(out / runlog.METRICS)]

        def names(self, suffix):
            return [p for p in self.checkpoints.glob(f"*{suffix}")] if self.checkpoints.is_dir() else []

    return Run()


def kill_all(process):
    """The trainer and everything that it started, as a node that fails or Slurm does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(tree, 20)


def wait_for(process, condition, limit=150):
    """Whether `condition` came true while the process ran."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def check_history(run, steps, epochs=1):
    assert run.steps() == list(range(1, steps + 1))
    archive = list(runlog.read_lines(run.folder / runlog.ARCHIVE))
    assert [e["step"] for e in archive] == sorted(e["step"] for e in archive)
    per_epoch = steps // epochs
    seen = {(e["question"], e["step"]) for e in archive}
    for epoch in range(epochs):
        asked = [q for q, step in seen if epoch * per_epoch < step <= (epoch + 1) * per_epoch]
        assert len(asked) == len(set(asked)) > steps
    assert json.loads((run.folder / runlog.MANIFEST).read_text())["finished"]
    assert (run.folder / "model" / "config.json").is_file()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("flags", [(), ("--train.async_enable",)], ids=["synchronous", "asynchronous"])
def test_a_stop_saves_between_steps_and_a_resume_ends_the_run(run, flags):
    flags = (f"--data.max_samples={STEPS * QUESTIONS}", "--ckpt.save_steps=100", *flags)
    process = run.start(*flags)
    try:
        assert wait_for(process, lambda: run.steps()), process.stderr.read()[-2000:]
        (run.folder / runlog.STOP).touch()
        assert process.wait(120) == STOPPED
    finally:
        kill_all(process)
    assert not (run.folder / runlog.STOP).exists()
    (saved,) = checkpoint.find(run.checkpoints)
    assert run.steps()[-1] == saved.step < STEPS
    run.finish(*flags)
    check_history(run, STEPS)
    began = time.monotonic()
    run.finish(*flags, limit=60)  # finished: ends at once
    assert time.monotonic() - began < 30 and run.steps() == list(range(1, STEPS + 1))


@pytest.mark.timeout(1200)
def test_kill_9_at_ten_moments(run, tmp_path):
    """Among them the first checkpoint, the best one, the rotation and the end; at most the steps since the last are lost.

    An episode's last rollout is half a one, so that the data's end is found in the middle of a draw.
    """
    rows = [json.loads(line) for line in (REPO / "data" / "toy" / "test.jsonl").read_text().splitlines()[:4]]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps, epochs = 12, 2
    flags = (
        f"--data.max_samples={steps // epochs * QUESTIONS - 4}", f"--train.num_episodes={epochs}", "--ckpt.save_steps=1",
        "--ckpt.max_num=1", "--eval.steps=1", "--eval.n_samples_per_prompt=2", "--eval.dataset", tmp_path / "eval.jsonl",
        f"--ckpt.best_metric_key=eval_{rows[0].get('datasource', 'default')}_pass1",
    )  # fmt: skip
    done = itertools.count(1)

    def further(count):
        target = (run.steps() or [0])[-1] + count
        return lambda: (run.steps() or [0])[-1] >= target

    moments = {
        "the first checkpoint": lambda: run.names(checkpoint.PARTIAL),
        "the first checkpoint again": lambda: any(p.stat().st_size for d in run.names(checkpoint.PARTIAL) for p in d.iterdir()),
        "the best checkpoint": lambda: any(p.name.startswith("best") for p in run.names(checkpoint.PARTIAL)),
        "rotation": lambda: run.names(checkpoint.DELETED),
        "just sealed": lambda: len(checkpoint.find(run.checkpoints)) >= 2,
        "one step": further,
        "rotation again": lambda: run.names(checkpoint.DELETED),
        "a checkpoint": lambda: run.names(checkpoint.PARTIAL),
        "start-up": lambda: (run.folder / "logs" / "train.log").stat().st_mtime > started,
        "the end of the last episode": lambda: (n := checkpoint.newest(run.checkpoints)) and n.step == steps,
    }  # fmt: skip
    for name, moment in moments.items():
        before = checkpoint.newest(run.checkpoints)
        started = time.time()
        condition = moment(next(done)) if moment is further else moment
        process = run.start(*flags)
        try:
            came = wait_for(process, condition)
        finally:
            kill_all(process)
            errors = process.communicate()[1]
        assert came or process.returncode in (0, -signal.SIGKILL), f"{name}: {errors[-2000:]}"
        after = checkpoint.newest(run.checkpoints)
        assert before is None or after.step >= before.step, name
        assert run.steps() == list(range(1, len(run.steps()) + 1)), name
        assert after is None or len(run.steps()) - after.step <= 1, name  # a checkpoint a step
    run.finish(*flags, limit=300)
    check_history(run, steps, epochs)
    kept = checkpoint.find(run.checkpoints)
    assert kept[-1].step == steps and sum(not c.best for c in kept) == 1 and sum(c.best for c in kept) <= 2
