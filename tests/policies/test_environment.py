"""What a policy remembers of an environment survives JSON, and leaves older artifacts as
they were.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades.envs import registry
from alltrades.policies.model.environment import EnvironmentInfo
from tests.policies.toys import info, make_policy


def test_json_keeps_every_field_without_infinities() -> None:
    whole = replace(
        info("a"),
        action_low=(-np.inf, -1.0),
        action_high=(1.0, np.inf),
        max_action_rate=(0.5, 0.25),
        stop_action=(0.0, None),
        image_shape=(1, 2),
    )
    for value in (whole, info("b")):
        text = json.dumps(value.to_json(), allow_nan=False)
        assert EnvironmentInfo.from_json(json.loads(text)) == value


def test_the_stop_action_of_a_specification_is_remembered_and_checked() -> None:
    spec = registry.resolve(["planar/reach"])[0]
    assert EnvironmentInfo.of(spec).stop_action == spec.stop_action == (0.0, 0.0)
    with pytest.raises(ValueError, match="stop_action has 3 entries; expected 2"):
        replace(spec, stop_action=(0.0, 0.0, None))


def test_a_policy_from_before_stop_actions_keeps_its_digest_and_one_with_it_has_its_own() -> None:
    policy = make_policy([info("a")])
    description = policy._description()["environments"][0]
    assert "stop_action" not in description
    before = policy.digest()
    policy.environments = (replace(policy.environments[0], stop_action=(0.0, 0.0)),)
    assert policy.digest() != before and policy._description()["environments"][0][
        "stop_action"
    ] == (0.0, 0.0)
