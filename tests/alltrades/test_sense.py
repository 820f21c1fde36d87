"""Settings that cannot work are refused before anything is recorded or trained, in one line that
names them.
"""

from dataclasses import replace

import pytest

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.errors import UserError
from alltrades.pipeline.resolution import check_environments
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings

REFUSED = {
    "--policy.prediction noise --policy.clip null": "prediction = noise with clip = null",
    "--policy.prediction noise --policy.clip 20": "prediction = noise with clip = 20",
    "--policy.prediction noise --policy.sampling_steps 1": "noise with sampling_steps = 1",
    "--policy.n_action_steps 17": "n_action_steps = 17 exceeds horizon = 16",
    "--policy.process vp --policy.diffusion_steps 5": "sampling_steps = 6 exceeds diffusion_steps",
    "--policy.action_normalizer standard": "clip = 1.0 would cut",
    "--policy.observe []": "observe is empty",
    "--policy.observe [state,state]": "observe names state twice",
    "--distill.observe [state,state]": "distill: observe names state twice",
    "--specialist.observe []": "specialist: observe is empty",
    "--distill.train.lr 0": "distill.train.lr = 0",
    "--distill.train.lr 1": "distill.train.lr = 1",
    "--distill.train.lr .inf": "distill.train.lr = ",
    "--specialist.train.lr -0.1": "specialist.train.lr = -0.1",
    "--labeled_only.batch 100000000": "labeled_only.batch = 100000000",
    "--labeled_only.weight_decay 200": "weight_decay = 200 takes 20% of every weight",
    "--distill.train.observation_noise 10": "observation_noise = 10",
    "--specialist.selection cv --specialist.candidates [{lr:1.0}]": "specialist.candidates.0",
    "--specialist.selection cv --specialist.candidates [{weight_decay:1000.0}]": "candidates: weig",
    "--specialist.selection cv --demos.episodes 2": "specialist.folds = 3 and 2 demonstrations",
    "--specialist.selection cv --demos.episodes 4 --demos.holdout 0.5": "demos.holdout = 0.5",
    "--specialist.selection holdout --demos.episodes 2": "expected at least 3",
    "--demos.episodes 1 --demos.holdout 0.5": "demos.holdout = 0.5 of demos.episodes = 1",
    "--distill.teachers scratch,scratch": "distill.teachers names scratch twice",
    "--distill.weights.kind success --distill.rollouts 0": "distill.rollouts = 0 makes none",
    "--distill.reuse_labels --distill.demo_share 1": "no rollout would be learned from",
    "--distill.weights.floor 6": "all weights would be alike",
    "--distill.weights.at resultant --distill.actions fresh": "actions = fresh draws others",
    "--distill.weights.at progress --distill.weights.kind mixture": "at = progress with kind: mix",
    "--distill.outcome condition": "outcome = condition with weights.kind = ratio",
    "--distill.outcome condition --distill.weights.kind success --distill.actions fresh": "fresh",
    "--distill.outcome condition --distill.weights.kind success "
    "--distill.init labeled_only": "outcome = condition with init = labeled_only",
    "--distill.guidance 2": "guidance = 2 with outcome = filter",
    "--policy.outcome_input": "set distill.outcome: condition",
    "--distill.weights.ess_min 1": "no weights but equal ones",
    "--distill.rounds.count 1 --distill.rounds.tries 1 --distill.rounds.renew 0.5": "not explore",
    "--evaluation.rows generalist,generalist": "rows names generalist twice",
    "--evaluation.compare [[generalist,generalist]]": "compare has generalist with itself",
    "--evaluation.compare [[generalist,specialists_joint]]": "compare names specialists_joint",
    "--evaluation.limits [0]": "limits = [0]",
    "--generalists {other:{rollouts:0,weights:{kind:success}}}": "generalists.other.weights.kind",
}


def settings(words=""):
    return load_settings(RunSettings, overrides=[w.replace(":", ": ") for w in words.split()])[0]


@pytest.mark.parametrize("words", REFUSED)
def test_settings_that_cannot_work_are_refused_with_their_names_and_values(words):
    with pytest.raises(UserError) as caught:
        settings(words)
    assert REFUSED[words] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--policy.prediction noise",
        "--policy.prediction noise --policy.action_normalizer standard --policy.clip 3",
        "--policy.prediction velocity --policy.clip null --policy.sampling_steps 1",
        "--policy.clip null",
        "--distill.rollouts 0",
        "--distill.reuse_labels --distill.demo_share 1 --distill.rollouts 0",
        "--demos.episodes 1",
        "--demos.episodes 2",
        "--distill.train.lr 0.1",
        "--evaluation.compare [[generalist,specialists]]",
        "--evaluation.limits [10,20]",
    ],
)
def test_settings_beside_those_are_taken(words):
    settings(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--device nonsense", "device = nonsense: not there"),
        ("--device nowhere0", "device = nowhere0: not there"),
        ("--distill.preference {nowhere:1}", "distill.preference: preference names 'nowhere'"),
        ("--distill.preference {planar/reach:0}", "distill.preference: every preference is 0"),
        ("--evaluation.limits [100000]", "evaluation.limits names 100000 steps"),
    ],
)
def test_what_these_environments_or_this_machine_lack_is_refused_before_a_run_begins(words, said):
    specs = registry.resolve(["planar/reach", "planar/push"])
    with pytest.raises(UserError) as caught:
        check_environments(settings(words), specs)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    check_environments(settings(), specs)


def test_texts_that_are_to_modulate_pictures_must_be_seen():
    (spec,) = registry.resolve(["planar/marks"])
    fields = dict(spec.observation) | {"images.top": Field.image(8, 8)}
    seen = [replace(spec, observation=fields, cameras={})]
    film = "--policy.encoder.film true --specialist.observe [state] --policy.observe"
    with pytest.raises(UserError, match="film = true and the policy sees no text"):
        check_environments(settings(f"{film} [images.top,state]"), seen)
    listens = "--distill.observe [images.top,instruction] --labeled_only.observe [images.top]"
    only = f"{film} [images.top] {listens}"  # one network of several
    for words in (f"{film} [images.top,instruction]", f"{film} [state]", only, ""):
        check_environments(settings(words), seen)


@pytest.mark.parametrize(
    ("words", "executed"),
    [
        ("", False),
        ("--distill.weights.kind success", True),
        ("--distill.weights.kind success*ratio", True),
        ("--distill.weights.at resultant", True),
        ("--distill.weights.at progress", True),
        ("--distill.actions executed", True),
        ("--distill.weights.kind success --distill.actions fresh", False),
    ],
)
def test_rollouts_keep_executed_actions_where_weights_speak_of_them_or_as_said(words, executed):
    assert settings(words).distill.executed is executed
