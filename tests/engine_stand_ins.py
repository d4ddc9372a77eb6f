"""Stand-ins for vLLM's engine in the processes of the evaluation's vLLM backend, which all import it."""

import json
import os
import signal
import subprocess
import sys
import time

from eval.backends.vllm_child import Done, Job

DIE, RAISE, STAY, ORPHAN = 1001, 1002, 1003, 1004  # job seeds that trigger this behaviour


class StandIn:
    """Finishes its first two jobs at each step. A response reports the request and the visible GPUs."""

    def __init__(self, **options):
        print(f"options {json.dumps(options)}", flush=True)
        self._more = options["more"]  # options of an engine on a CPU
        if not os.environ.get("CUDA_VISIBLE_DEVICES") and not self._more:
            raise RuntimeError("no GPU for the engine")
        if os.environ["CUDA_VISIBLE_DEVICES"] == "never":
            time.sleep(600)
        self._context = options["context"]
        self._jobs: list[Job] = []
        self._aborted = 0

    def add(self, job):
        if job.seed == RAISE:
            raise ValueError("a job that it does not like\x1b[31m")
        if job.seed == ORPHAN:  # a child that outlives its parent and has inherited its open files
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        if len(job.prompt) + job.max_tokens > self._context:
            raise ValueError("too long for the engine")
        self._jobs.append(job)

    def step(self):
        time.sleep(0.002)
        if self._jobs[0].seed in (DIE, ORPHAN):
            time.sleep(1.5)  # until earlier results have been sent, here and by other processes
            os.kill(os.getpid(), signal.SIGKILL)
        done = [job for job in self._jobs[:2] if job.seed not in (STAY, DIE)]
        self._jobs = [job for job in self._jobs if job not in done]
        return [Done(job.key, self._text(job), job.seed == 7, len(job.prompt) + 1) for job in done]

    def _text(self, job):
        how = [job.temperature, job.top_p, job.max_tokens, job.seed]
        more = [self._more, os.getpid(), os.environ.get("OMP_NUM_THREADS")]
        return json.dumps(
            [len(job.prompt), how, os.environ["CUDA_VISIBLE_DEVICES"], self._aborted, self._context, *more]
        )

    def abort(self, keys):
        self._aborted += len(keys)
        self._jobs = []

    def close(self):
        print("closed", flush=True)


class Broken(StandIn):
    """Raises in a step, and then never shuts down."""

    def step(self):
        raise ValueError("a step that fails")

    def close(self):
        time.sleep(600)


class Lacking:
    """Lacks a package, and reports it like an engine whose core is another process."""

    def __init__(self, **_):
        if os.environ["CUDA_VISIBLE_DEVICES"] == "5":
            time.sleep(600)  # another engine that is still loading
        core = "import traceback\ntry:\n    import absent_package\nexcept Exception:\n    traceback.print_exc()"
        subprocess.run([sys.executable, "-c", core], check=True)
        print("\n".join(f"noise {i}" for i in range(100)), flush=True)
        raise RuntimeError("Engine core initialization failed. See root cause above.")
