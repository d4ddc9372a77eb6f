"""A run that is stopped, or killed at any moment, resumes: every step once, no question twice in an epoch."""

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from openrlhf_mel import disk
from openrlhf_mel.run import carried_experiences, checkpoint, records
from openrlhf_mel.train import EXIT_STOPPED

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPO = Path(__file__).resolve().parents[2]
STEPS, QUESTIONS = 6, 8
SLEEP = ("--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep", "--ds.zero_stage=3")
TOY = f"""
actor: {{model_name_or_path: {REPO}/data/toy/model, adam: {{lr: 1e-4}}, lr_warmup_ratio: 0}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384}}
rollout: {{batch_size: {QUESTIONS}, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 8}}
train: {{batch_size: 64, micro_batch_size: 8}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, runtime: cpu, cpu_engine: transformers,
       construction: streaming}}
"""


@pytest.fixture
def run(tmp_path):
    """Return an object that starts or resumes the run."""
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(TOY)

    class Run:
        folder = out
        checkpoints = out / "checkpoints" / "_actor"

        def start(self, *flags, **env):
            argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", config, "--mel.run_dir", out,
                    "--ckpt.load_enable", *flags]  # fmt: skip
            options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
            return subprocess.Popen(list(map(str, argv)), cwd=REPO, env=os.environ | env, **options)

        def finish(self, *flags, expected=0, limit=400):
            process = self.start(*flags)
            try:
                _, errors = process.communicate(timeout=limit)
            finally:
                kill_all(process)
            assert process.returncode == expected, errors[-2000:]

        def steps(self):
            return [row["step"] for row in disk.read_lines(out / records.METRICS)]

    return Run()


def kill_all(process):
    """Kill the trainer and everything that it started, as a failing node or Slurm would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(20)  # before psutil, which would consume the exit code
        psutil.wait_procs(tree[1:], 20)


def wait_for(process, condition, limit=300):
    """Return whether `condition` came true while the process ran."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def check_history(run, steps, epochs=1):
    assert run.steps() == list(range(1, steps + 1))
    archive = list(disk.read_lines(run.folder / records.ARCHIVE))
    assert [e["step"] for e in archive] == sorted(e["step"] for e in archive)
    per_epoch = steps // epochs
    seen = {(e["question"], e["step"]) for e in archive}
    for epoch in range(epochs):
        asked = [q for q, step in seen if epoch * per_epoch < step <= (epoch + 1) * per_epoch]
        assert len(asked) == len(set(asked)) > steps
    assert json.loads((run.folder / records.MANIFEST).read_text())["finished"]
    assert (run.folder / "model" / "config.json").is_file()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(SLEEP, id="engines and policy sleep", marks=pytest.mark.release),
        pytest.param(("--train.async_enable",), id="asynchronous", marks=pytest.mark.release),
        pytest.param(("--mel.construction=deferred",), id="deferred"),
    ],
)
def test_a_stop_saves_between_steps_and_a_resume_ends_the_run(run, flags):
    flags = (f"--data.max_samples={STEPS * QUESTIONS}", "--ckpt.save_steps=100", *flags)
    process = run.start(*flags)
    try:
        assert wait_for(process, lambda: run.steps()), process.stderr.read()[-2000:]
        (run.folder / records.STOP).touch()
        assert process.wait(200) == EXIT_STOPPED
    finally:
        kill_all(process)
    assert not (run.folder / records.STOP).exists()
    (saved,) = checkpoint.find(run.checkpoints)
    assert run.steps()[-1] == saved.step < STEPS
    carried = list(disk.read_lines(run.folder / records.METRICS))[-1].get("mel/carried_over", 0)
    assert len(carried_experiences.read(saved.path)) == carried and bool(carried) == ("deferred" in str(flags))
    run.finish(*flags)
    check_history(run, STEPS)
    began = time.monotonic()
    run.finish(*flags, limit=120)  # a finished run exits at once
    assert time.monotonic() - began < 60 and run.steps() == list(range(1, STEPS + 1))


def halt_at(moment, pattern, mark):
    """Write `mark` and block the process before the audit event `moment` on a path like `pattern`.

    This source becomes a `sitecustomize.py` that every process of a run loads, since Ray's actors do the saving. For
    `torch.save` the file is first cut in half. Each evaluation is better than the previous one.
    """
    import contextlib
    import os
    import sys
    import time
    from fnmatch import fnmatch

    def halt():
        with contextlib.suppress(FileExistsError), open(mark, "x") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            while True:
                time.sleep(60)

    def torn(save):
        def call(value, path, *args, **kwargs):
            save(value, path, *args, **kwargs)
            if moment == "torch.save" and fnmatch(str(path), pattern):
                os.truncate(path, os.path.getsize(path) // 2)
                halt()

        return call

    def rising(compute):
        return lambda *args: dict.fromkeys(compute(*args), time.time())

    def patch(module, name, wrapper):
        found = getattr(sys.modules.get(module), name, None)
        if found is not None and not hasattr(found, "original"):
            replaced = wrapper(found)
            replaced.original = found
            setattr(sys.modules[module], name, replaced)

    def watch(event, args):
        if event == "os.mkdir" and str(args[0]).endswith(".partial"):
            patch("torch", "save", torn)
        elif event == "open" and str(args[0]).endswith("metrics.jsonl"):
            patch("openrlhf.trainer.ppo_trainer", "compute_eval_metrics", rising)
        if event == moment and any(fnmatch(str(arg), pattern) for arg in args):
            halt()

    sys.addaudithook(watch)


# The operation before which the kill comes, and the step of the newest whole checkpoint left at that point.
MOMENTS = {
    "the first checkpoint, not begun": ("os.mkdir", "*/global_step1.partial", 0),
    "the first checkpoint, half a file": ("torch.save", "*/global_step1.partial/*_optim_states.pt", 0),
    "the first checkpoint, not sealed": ("os.rename", "*/global_step1.partial/sealed.json", 0),
    "the first best checkpoint, half a file": ("torch.save", "*/best_global_step1.partial/*_model_states.pt", 1),
    "rotation, nothing deleted": ("shutil.rmtree", "*/global_step1.deleted", 2),
    "a best checkpoint, sealed and not named": ("os.rename", "*/best_global_step2.partial", 2),
    "rotation of the old best, all but the folder deleted": ("os.rmdir", "*/best_global_step3.deleted", 4),
    "start-up, about to choose": ("os.rename", "*/_actor/latest", 4),
    "a checkpoint, named and not the latest": ("open", "*/checkpoints/_actor", 5),
    "the end, its model not named": ("os.rename", "*/out/model.partial", 6),
}


# Expectations depend on the moments before: these three can follow each other.
OFTEN = ["the first checkpoint, half a file", "rotation, nothing deleted", "the end, its model not named"]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "moments", [pytest.param(OFTEN, id="three moments"), pytest.param([*MOMENTS], id="ten", marks=pytest.mark.release)]
)
def test_kill_9(run, tmp_path, moments):
    """Kill at each moment in a chain of resumes, without randomness; only steps since the last checkpoint are lost.

    An episode's last rollout has half the questions, so that the data end in the middle of a draw.
    """
    rows = (REPO / "data" / "toy" / "test.jsonl").read_text().splitlines(keepends=True)[:2]
    (tmp_path / "eval.jsonl").write_text("".join(rows))
    steps, epochs = 6, 2
    flags = (
        f"--data.max_samples={steps // epochs * QUESTIONS - 4}", f"--train.num_episodes={epochs}", "--ckpt.save_steps=1",
        "--ckpt.max_num=1", "--eval.steps=1", "--eval.n_samples_per_prompt=2", "--eval.dataset", tmp_path / "eval.jsonl",
        "--ckpt.best_metric_key=eval_toy_pass1",
    )  # fmt: skip
    hook, mark, best = tmp_path / "hook" / "sitecustomize.py", tmp_path / "reached", 0
    hook.parent.mkdir()
    for name in moments:
        event, pattern, newest = MOMENTS[name]
        mark.unlink(missing_ok=True)
        call = f"halt_at({event!r}, {pattern!r}, {str(mark)!r})"
        hook.write_text(f"{inspect.getsource(halt_at)}\n\n{call}\n")
        process = run.start(*flags, PYTHONPATH=str(hook.parent))
        try:
            reached = wait_for(process, lambda: mark.exists() and mark.read_text().endswith("\n"))
        finally:
            running = process.poll() is None
            kill_all(process)
            errors = process.communicate()[1]
        assert reached and running, f"{name}: not reached, exit code {process.returncode}: {errors[-2000:]}"
        assert process.returncode == -signal.SIGKILL and not psutil.pid_exists(int(mark.read_text())), name
        assert not json.loads((run.folder / records.MANIFEST).read_text())["finished"], name
        whole = checkpoint.find(run.checkpoints)
        assert max((c.step for c in whole), default=0) == newest, name
        assert run.steps() == list(range(1, len(run.steps()) + 1)) and len(run.steps()) - newest <= 1, name
        assert max((c.step for c in whole if c.best), default=0) >= best, name  # a best one always remains
        best = max((c.step for c in whole if c.best), default=0)
    assert best == steps
    run.finish(*flags, limit=300)
    check_history(run, steps, epochs)
    kept = checkpoint.find(run.checkpoints)
    assert [(c.step, c.best) for c in kept] == [(steps, True), (steps, False)]
