"""Settings that define a paradigm are fixed, others may vary, and every advice in a message works."""

import itertools
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.run import manifest
from openrlhf_mel.settings import flags
from openrlhf_mel.settings.objections import objections
from openrlhf_mel.settings.paradigms import PARADIGMS, Algorithm
from openrlhf_mel.settings.resolve import resolve

REPO = Path(__file__).resolve().parents[3]
BASE = {
    "mel.runtime": "cuda",
    "actor.model_name_or_path": "m",
    "data.prompt_dataset": "d",
    "data.label_key": "l",
    "rollout.batch_size": "8",
    "rollout.n_samples_per_prompt": "4",
    "rollout.max_new_tokens": "64",
    "train.batch_size": "32",
}
ESTIMATOR, LOSS, AGGREGATION = "algo.advantage.estimator", "actor.policy_loss_type", "actor.loss_agg_mode"
CORRECTION = "algo.advantage.is_correction_level"
GAMMA, LAMBDA, NO_STD = "algo.advantage.gamma", "algo.advantage.lambd", "algo.advantage.no_std_norm"
# estimator, loss type, aggregation, both sides of the clip, stated independently of the code
DEFINED = {
    "grpo": ("group_norm", "ppo", "seq-mean-token-mean", (0.2, 0.2)),
    "gspo": ("group_norm", "gspo", "seq-mean-token-mean", (3e-4, 4e-4)),
    "dr_grpo": ("dr_grpo", "ppo", None, (0.2, 0.2)),
    "rloo": ("rloo", "ppo", "token-mean", (0.2, 0.2)),
    "reinforce++": ("reinforce", "ppo", "token-mean", (0.2, 0.2)),
    "reinforce++-baseline": ("reinforce_baseline", "ppo", "token-mean", (0.2, 0.2)),
    "rft": (None, None, "seq-mean-token-mean", None),
}


def settings(given):
    """Resolve `BASE` with `given`; None removes a flag."""
    chosen = {flag: value for flag, value in (BASE | given).items() if value is not None}
    arguments = [token for flag, value in chosen.items() for token in (f"--{flag}", *value.split())]
    return resolve(None, arguments, device="cuda")


def refused(given):
    """Return the error messages; empty if the settings are accepted."""
    try:
        settings(given)
    except UserError as error:
        return list(error.args)
    return []


def test_every_name_has_its_entry():
    assert set(get_args(Algorithm)) == PARADIGMS.keys() == DEFINED.keys()


@pytest.mark.parametrize("name", DEFINED)
def test_a_paradigm_sets_what_defines_it(name):
    estimator, loss, aggregation, clip = DEFINED[name]
    found = settings({"mel.algorithm": name})
    values, stated = found.upstream, PARADIGMS[name].stated(found.upstream)
    assert values[ESTIMATOR] == (estimator or "reinforce")  # rft uses none; OpenRLHF's own default brings a critic
    assert values[LOSS] == (loss or "ppo") and values["algo.kl.init_coef"] == 0
    assert values[AGGREGATION] == (aggregation or "token-mean")
    low_high = values["actor.eps_clip_low_high"] or [values["actor.eps_clip"]] * 2
    assert clip is None or tuple(low_high) == clip
    assert stated["clip"] == (clip and list(clip)) and (stated["estimator"], stated["policy_loss_type"]) == (
        estimator,
        loss,
    )
    json.dumps(stated)


@pytest.mark.parametrize("name", [name for name in DEFINED if name != "rft"])
@pytest.mark.parametrize(
    ("given", "clip"),
    [
        ({"actor.eps_clip": "0.1"}, [0.1, 0.1]),
        ({"actor.eps_clip_low_high": "0.2 0.28"}, [0.2, 0.28]),
    ],
    ids=["both sides", "each"],
)
def test_clip_and_kl_are_free_and_named_in_the_manifest(name, given, clip):
    found = settings({"mel.algorithm": name, "algo.kl.init_coef": "0.01", **given})
    values = found.upstream  # as OpenRLHF's entry reads them
    assert (values["actor.eps_clip_low_high"] or [values["actor.eps_clip"]] * 2) == clip
    stated = manifest.of(found)["objective"]
    assert (stated["clip"], stated["kl"]) == (clip, 0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # Contradictions that were once accepted, or refused without advice.
        ({LOSS: "gspo"}, "--actor.policy_loss_type gspo contradicts --mel.algorithm grpo, whose policy_loss_type is ppo; "
         "use --mel.algorithm gspo, or leave it out"),
        ({AGGREGATION: "token-mean"}, "--actor.loss_agg_mode token-mean contradicts --mel.algorithm grpo, whose "
         "loss_agg_mode is seq-mean-token-mean; use --mel.algorithm rloo or --mel.algorithm reinforce++ or "
         "--mel.algorithm reinforce++-baseline, or leave it out"),
        ({"mel.algorithm": "rft", LOSS: "gspo"}, "--actor.policy_loss_type gspo contradicts --mel.algorithm rft, whose "
         "policy_loss_type is none; use --mel.algorithm gspo, or leave it out"),
        ({"mel.algorithm": "rft", ESTIMATOR: "rloo"}, "--algo.advantage.estimator rloo contradicts --mel.algorithm rft, "
         "whose estimator is none; use --mel.algorithm rloo, or leave it out"),
        ({"mel.algorithm": "rft", CORRECTION: "token"}, "--algo.advantage.is_correction_level token: --mel.algorithm rft "
         "ignores it, as its loss has no ratio; leave it out"),
        ({ESTIMATOR: "rloo"}, "--algo.advantage.estimator rloo contradicts --mel.algorithm grpo, whose estimator is "
         "group_norm; use --mel.algorithm rloo, or leave it out"),
        ({"mel.algorithm": "reinforce++", AGGREGATION: "seq-mean-token-mean"}, "whose loss_agg_mode is token-mean; "
         "use --mel.algorithm grpo or --mel.algorithm gspo, or leave it out"),
        # No paradigm has the value, or not together with the other flags.
        ({ESTIMATOR: "gae"}, "--algo.advantage.estimator gae contradicts --mel.algorithm grpo, whose estimator is "
         "group_norm; leave it out"),
        ({LOSS: "gspo", CORRECTION: "token"}, "whose policy_loss_type is ppo; leave it out"),
        ({ESTIMATOR: "group_norm", AGGREGATION: "token-mean"}, "whose loss_agg_mode is seq-mean-token-mean; leave it out"),
        ({"mel.algorithm": "gspo", AGGREGATION: "token-mean"}, "--mel.algorithm gspo, whose loss_agg_mode is seq-mean"),
        ({"mel.algorithm": "dr_grpo", AGGREGATION: "seq-mean-token-mean"},
         "--mel.algorithm dr_grpo, whose loss_agg_mode is token sum"),
        ({"mel.algorithm": "gspo", CORRECTION: "seq"}, "--mel.algorithm gspo cannot have it"),
        ({NO_STD: "true"}, "--algo.advantage.no_std_norm true: --mel.algorithm grpo ignores it; leave it out"),
        ({GAMMA: "0.9"}, "--algo.advantage.gamma 0.9: --mel.algorithm grpo ignores it"),
        ({"mel.algorithm": "reinforce++", LAMBDA: "0.9"}, "--algo.advantage.lambd 0.9: --mel.algorithm reinforce++ ignores"),
        ({"mel.algorithm": "rft", "actor.eps_clip": "0.1"}, "--actor.eps_clip 0.1: --mel.algorithm rft ignores it"),
        ({"mel.algorithm": "rft", "actor.eps_clip_low_high": "0.2 0.28"}, "--actor.eps_clip_low_high 0.2 0.28: --mel"),
        ({"mel.algorithm": "rft", "algo.kl.init_coef": "0.01"}, "--algo.kl.init_coef 0.01: --mel.algorithm rft ignores"),
        ({"mel.algorithm": "dr_grpo", "rollout.max_new_tokens": None}, "--rollout.max_new_tokens: not given; --mel.algorithm"),
        # RFT reads the verifier's scores.
        ({"mel.algorithm": "rft", "reward.overlong_buffer_len": "4"}, "--reward.overlong_buffer_len 4.0: --mel.algorithm rft ign"),
        ({"mel.algorithm": "rft", "reward.overlong_penalty_factor": "2"}, "--reward.overlong_penalty_factor 2.0: --mel.algorithm"),
        ({"mel.algorithm": "rft", "reward.stop_properly_penalty_coef": "0.5"}, "--reward.stop_properly_penalty_coef 0.5: --mel"),
        ({"mel.algorithm": "rft", "reward.clip_range": "-1 1"}, "--reward.clip_range -1.0 1.0: --mel.algorithm rft ignores it"),
        ({"mel.algorithm": "rft", "algo.kl.target": "6"}, "--algo.kl.target 6.0: --mel.algorithm rft ignores it; leave it out"),
        ({"mel.algorithm": "rft", "algo.kl.estimator": "k3"}, "--algo.kl.estimator k3: --mel.algorithm rft ignores it"),
        # A term beside the policy's, with another divisor than the paradigm's own loss.
        ({"mel.algorithm": "rft", "actor.entropy_coef": "0.01"}, "--mel.algorithm rft: not supported with --actor.entropy_coef"),
        ({"mel.algorithm": "dr_grpo", "actor.entropy_coef": "0.01"}, "--mel.algorithm dr_grpo: not supported with "
         "--actor.entropy_coef, which averages over the step's tokens, while the policy term is divided by "
         "rollout.max_new_tokens; leave it out"),
        ({"mel.algorithm": "dr_grpo", "algo.kl.use_loss": "true", "algo.kl.init_coef": "0.01"},
         "--mel.algorithm dr_grpo: not supported with --algo.kl.use_loss"),
        # A clip that leaves no room, or has no effect.
        ({"actor.eps_clip": "0.1", "actor.eps_clip_low_high": "0.2 0.28"}, "--actor.eps_clip 0.1: without effect with "
         "--actor.eps_clip_low_high; leave one of them out"),
        ({"mel.algorithm": "gspo", "actor.eps_clip": "0.1", "actor.eps_clip_low_high": "0.2 0.28"}, "--actor.eps_clip 0.1: wi"),
        ({"actor.eps_clip": "-1"}, "--actor.eps_clip -1.0: leaves a ratio no room; expected more than 0"),
        ({"actor.eps_clip": "nan"}, "--actor.eps_clip nan: leaves a ratio no room"),
        ({"actor.eps_clip_low_high": "0.2 0"}, "--actor.eps_clip_low_high 0.2 0.0: leaves a ratio no room"),
        ({"actor.dual_clip": "1"}, "--actor.dual_clip 1.0: OpenRLHF refuses it in a worker; expected more than 1"),
        # There is no critic. The first would keep OpenRLHF from training the policy for that many steps.
        ({"critic.freezing_steps": "10"}, "--critic.freezing_steps 10: no paradigm has a critic; leave it out"),
        ({"critic.model_name_or_path": "m"}, "--critic.model_name_or_path m: no paradigm has a critic; leave it out"),
    ],
)  # fmt: skip
def test_what_contradicts_a_paradigm_is_refused_with_what_to_do(given, said):
    assert len([line for line in refused(given) if said in line]) == 1


@pytest.mark.parametrize("name", ["rft", "dr_grpo"])
def test_an_entropy_that_is_only_measured_is_no_term(name):
    assert settings({"mel.algorithm": name, "actor.entropy_coef": "0"}).upstream["actor.entropy_coef"] == 0


@pytest.mark.parametrize("given", [{f"{CORRECTION[:-5]}mode": "clip"}, {f"{CORRECTION[:-5]}threshold": "0.1 2"}])
def test_parts_of_a_correction_that_is_off_are_said_to_have_no_effect(given):
    (warning,) = settings(given).warnings
    assert re.fullmatch(r"--\S+_(mode clip|threshold 0\.1 2\.0): without effect with --\S+_level off", warning)
    assert not settings(given | {CORRECTION: "token"}).warnings


MORE = {
    "plain": {},
    "clip": {"actor.eps_clip": "0.1", "actor.dual_clip": "3"},
    "each side of the clip": {"actor.eps_clip_low_high": "0.2 0.28"},
    "KL, rewards": {"algo.kl.init_coef": "0.01", "reward.clip_range": "-1 1", "reward.stop_properly_penalty_coef": "-0.5"},
    "LoRA": {"ds.lora.rank": "4", "mel.nll_schedule": "linear", "mel.run_dir": "/a/run"},
    "optimizer": {"actor.optim": "muon", "actor.muon.no_nesterov": "true", "actor.adam.betas": "0.9 0.99"},
}  # fmt: skip


@pytest.mark.parametrize("name", PARADIGMS)
@pytest.mark.parametrize("more", MORE)
def test_a_runs_own_configuration_gives_its_settings(tmp_path, name, more):
    """A manifest's configuration (JSON, so also YAML) resolves to the same settings, without contradictions."""
    if name == "rft" and more not in ("plain", "LoRA", "optimizer"):
        return  # refused
    first = settings({"mel.algorithm": name, **MORE[more]})
    (tmp_path / "own.yaml").write_text(json.dumps(first.as_dict()))
    again = resolve(str(tmp_path / "own.yaml"), [], device="cuda")
    assert (again.mel, again.upstream, again.run_dir) == (first.mel, first.upstream, first.run_dir)
    # A warning names the upstream flags that the paradigm does not use.
    used = {"dr_grpo": [AGGREGATION], "rft": [ESTIMATOR, LOSS]}.get(name, [])
    assert [re.match(r"--(\S+) .*: without effect with", line)[1] for line in again.warnings] == used
    assert not first.warnings


def every_choice():
    """Yield all combinations of the flags in which paradigms differ, each also left out."""
    own = {ESTIMATOR: None, LOSS: None, AGGREGATION: None, CORRECTION: ["token"], NO_STD: [True], GAMMA: [0.9]}
    choices = [[None, *(values or flags.actions()[flag].choices)] for flag, values in own.items()]
    for each in itertools.product(*choices):
        yield {flag: value for flag, value in zip(own, each, strict=True) if value is not None}


@pytest.mark.parametrize("name", PARADIGMS)
def test_every_advice_works_when_it_is_followed(name):
    """Each advised paradigm accepts the given flags; without the flags named in the messages, the rest is accepted."""
    plain = settings({}).upstream

    def said(name, given):
        found = objections(name, plain | PARADIGMS[name].flags(given) | given, given)
        return [f"{each.fault}; {each.advice}" for each in found if each.advice]

    for given in every_choice():
        messages = said(name, given)
        for other in {n for line in messages for n in re.findall(r"(?:use|or) --mel\.algorithm ([\w+-]+)", line)}:
            assert other != name and not said(other, given)
        left_out = {re.match(r"--(\S+)", line)[1] for line in messages if line.endswith("leave it out")}
        assert len(left_out) == len(messages) and left_out <= given.keys()
        assert not said(name, {flag: value for flag, value in given.items() if flag not in left_out})


@pytest.mark.parametrize("name", [name for name, each in PARADIGMS.items() if each.compares_group])
def test_a_paradigm_that_compares_a_group_needs_one(name):
    alone = {"rollout.n_samples_per_prompt": "1", "train.batch_size": "8"}
    assert f"--rollout.n_samples_per_prompt 1: {name} compares a group" in str(
        refused({"mel.algorithm": name, **alone})
    )
    # It is not advised where a group has only one response.
    others = str(refused({"mel.algorithm": "reinforce++", ESTIMATOR: PARADIGMS[name].estimator, **alone}))
    assert "leave it out" in others and "use --mel.algorithm" not in others


def test_the_document_has_every_paradigm():
    text = (REPO / "docs" / "method.md").read_text(encoding="utf-8")
    rows = {
        name: cells for name, *cells in re.findall(r"^\| `(.+?)` \|(.+?)\|(.+?)\|(.+?)\|(.+?)\|", text, re.MULTILINE)
    }
    for name, (estimator, loss, aggregation, clip) in DEFINED.items():
        assert [cell.strip(" `") for cell in rows[name]] == [
            estimator or "none",
            loss or "none",
            aggregation or PARADIGMS[name].aggregation,
            "none" if clip is None else " / ".join(f"{side:g}" for side in dict.fromkeys(clip)),
        ]
