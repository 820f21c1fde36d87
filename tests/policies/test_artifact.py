"""An artifact is loaded as it was written, or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alltrades.errors import UserError
from alltrades.pipeline.artifacts import policy_digest, success_uses
from alltrades.policies.artifact import facts_of
from alltrades.policies.model.loading import load_policy
from alltrades.system.reading import SEAL, SEALED_BY, write_sealed

from .toys import SMALL, info, make_policy

REFUSED = "cannot be read|do not belong together|not the weights"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact") / "policy"
    facts = {"steps": 3, "held_out_loss": 0.25, "used_success_signal": False}
    return make_policy([info("a"), info("b", 5, 1)]).save(folder, facts)


@pytest.fixture
def copied(artifact, tmp_path):
    return Path(shutil.copytree(artifact, tmp_path / "policy"))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from leaves(item, (*path, k))
    else:
        yield path


def changed(value):
    if isinstance(value, bool) or value is None:
        return not value
    return value + 1 if isinstance(value, int | float) else value + "x"


def edited(facts, path, new):
    facts = json.loads(json.dumps(facts))
    inner = facts
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return facts


def test_every_value_of_policy_json_that_was_edited_by_hand_is_refused(copied):
    """Bounds, stop actions, settings, what training says of itself: each of them alone."""
    file = copied / "policy.json"
    facts = json.loads(file.read_text())
    paths = list(leaves(facts))
    assert len(paths) > 60 and any("low" in p for p in paths) and ("digest",) in paths
    for path in paths:
        value = facts
        for key in path:
            value = value[key]
        file.write_text(json.dumps(edited(facts, path, changed(value))))
        for read in (load_policy, facts_of, policy_digest, success_uses):
            with pytest.raises(UserError, match=REFUSED) as error:
                read(copied)
            assert "\n" not in str(error.value)


def test_fields_that_are_added_or_removed_are_refused_and_the_layout_of_the_text_is_not(copied):
    file = copied / "policy.json"
    facts, before = json.loads(file.read_text()), load_policy(copied)
    for name in (*facts, "further"):
        fewer = {k: v for k, v in facts.items() if k != name}
        file.write_text(json.dumps(fewer | ({"further": 1} if name == "further" else {})))
        with pytest.raises(UserError, match=REFUSED):
            load_policy(copied)
    for text in (json.dumps(facts), json.dumps(facts, indent=7, ensure_ascii=False) + "\n\n"):
        file.write_text(text)
        assert load_policy(copied).digest() == before.digest()


def test_an_edit_of_an_artifact_without_seal_shows_in_its_digest(copied):
    """What earlier versions wrote: the digest covers settings and environments, and is compared."""
    file = copied / "policy.json"
    facts = json.loads(file.read_text())
    del facts[SEAL], facts[SEALED_BY]
    file.write_text(json.dumps(facts))
    load_policy(copied)
    facts["environments"][0]["action"]["high"][0] = 5.0
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="do not belong together"):
        load_policy(copied)


def test_damaged_weights_are_refused(copied):
    """A bit anywhere in the file, a cut, a byte more, zeros in the middle."""
    file, rng = copied / "model.safetensors", np.random.default_rng(0)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    damaged = [whole[:-1], whole[:100], np.append(whole, whole[:1])]
    for at in (*range(0, 400, 9), *rng.integers(0, len(whole), 60)):
        copy = whole.copy()
        copy[at] ^= 1 << rng.integers(8)
        damaged.append(copy)
    blank = whole.copy()
    blank[len(blank) // 2 :][:64] = 0
    for data in (*damaged, blank):
        if np.array_equal(data, whole):
            continue
        file.write_bytes(data.tobytes())
        with pytest.raises(UserError, match=REFUSED) as error:
            load_policy(copied)
        assert "\n" not in str(error.value)


def test_weights_of_another_artifact_of_the_same_shape_are_refused(copied, tmp_path):
    other = make_policy([info("a"), info("b", 5, 1)], seed=1).save(tmp_path / "other")
    shutil.copy(other / "model.safetensors", copied)
    with pytest.raises(UserError, match="do not belong together"):
        load_policy(copied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["backbone", "normalizer.obs_mean", "normalizer.action_scale"])
def test_a_policy_that_is_not_finite_is_not_saved(tmp_path, value, name):
    policy = make_policy([info("a")])
    key = next(k for k in policy.state_dict() if k.startswith(name))
    policy.state_dict()[key].view(-1)[0] = value
    with pytest.raises(UserError, match=f"'{name}.*is not finite.*was not written"):
        policy.save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_artifact_that_is_not_finite_is_not_loaded_whoever_wrote_it(copied):
    """Also where somebody computed its digests anew."""
    from alltrades.policies.model.loading import DESCRIBED
    from alltrades.policies.model.saving import digest_of

    weights, file = copied / "model.safetensors", copied / "policy.json"
    state, facts = load_file(weights), json.loads(file.read_text())
    next(v for k, v in state.items() if k.startswith("backbone")).view(-1)[3] = float("nan")
    save_file(state, weights)
    facts["digest"] = digest_of({k: facts[k] for k in DESCRIBED}, state)
    del facts[SEAL], facts[SEALED_BY]
    write_sealed(file, facts)
    with pytest.raises(UserError, match="'backbone.*is not finite"):
        load_policy(copied)


def test_a_policy_without_clipping_is_saved_with_bounds_that_are_infinite(tmp_path):
    policy = make_policy([info("a")], SMALL.model_copy(update={"clip": None}))
    again = load_policy(policy.save(tmp_path))
    assert torch.isinf(again.normalizer.action_high).all()
    again.normalizer.action_high[0, 0] = float("nan")
    with pytest.raises(UserError, match="action_high' of this policy is not finite"):
        again.save(tmp_path / "other")


def test_every_value_of_an_exported_contract_that_was_edited_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
    from alltrades.policies.onnx.export import export_onnx
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    graph = tmp_path / "p.onnx"
    export_onnx(make_policy([info("a"), info("b", 5, 1)]), graph)
    file = graph.with_suffix(".json")
    facts = json.loads(file.read_text())
    for path in leaves(facts):
        value = facts
        for key in path:
            value = value[key]
        file.write_text(json.dumps(edited(facts, path, changed(value))))
        for read in (OnnxPolicy, facts_of):
            with pytest.raises(UserError, match="was changed after it was written"):
                read(graph)
    for name in facts:
        file.write_text(json.dumps({k: v for k, v in facts.items() if k != name}))
        with pytest.raises(UserError, match=REFUSED):
            OnnxPolicy(graph)
    file.write_text(json.dumps(facts))
    assert OnnxPolicy(graph).digest() == facts["policy"]
