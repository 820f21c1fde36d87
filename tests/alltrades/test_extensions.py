"""Parts by name: built in, registered, or offered by installed packages."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from alltrades.errors import UserError
from alltrades.system import extensions
from alltrades.system.extensions import Extensions

GROUP = "alltrades.things"


@pytest.fixture
def things(monkeypatch) -> Extensions:
    """Things of which other packages offer two, one of them broken."""
    points = EntryPoints(
        [EntryPoint("sqrt", "math:sqrt", GROUP), EntryPoint("broken", "math:nothing", GROUP)]
    )
    monkeypatch.setattr(extensions, "entry_points", lambda **chosen: points.select(**chosen))
    return Extensions(GROUP, "thing", {"absolute": abs})


def test_a_thing_is_found_wherever_it_comes_from(things):
    things.register("largest", max)
    assert things.names() == ["absolute", "largest", "sqrt", "broken"]
    assert (things.get("absolute"), things.get("largest")) == (abs, max)
    assert things.get("sqrt")(9) == 3


def test_what_is_built_in_is_known_without_a_search_of_packages(things, monkeypatch):
    things.register("largest", max)
    assert "sqrt" in things and "broken" in things and "cube" not in things
    monkeypatch.setattr(extensions, "entry_points", None)
    assert "absolute" in things and "largest" in things


def test_a_thing_that_is_registered_again_is_the_new_one(things):
    things.register("largest", max)
    things.register("largest", sum)
    assert things.get("largest") is sum
    with pytest.raises(UserError, match="thing 'absolute' is built in; expected a new name"):
        things.register("absolute", sum)


def test_unknown_and_broken_things_are_refused_in_one_line(things):
    with pytest.raises(UserError, match="thing 'absolut'; expected one of absolute, .*'absolute'"):
        things.get("absolut")
    with pytest.raises(UserError, match="'broken = math:nothing' of group .* cannot be loaded"):
        things.get("broken")
