"""Conditions on episodes, against what Python says of the same rows."""

import numpy as np
import pytest

from alltrades.data.editing.conditions import Condition
from alltrades.errors import UserError

NAN = np.nan
COLUMNS = {
    "environment": np.array(["lab/pick", "lab/pick", "lab/3d-place", "planar/reach"], object),
    "source": np.array(["expert", "my expert", "expert", "teacher-2"], object),
    "success": np.array([1, 0, NAN, 1.0]),
    "return": np.array([3.0, -1.5, 0.0, 1e-3]),
    "weight": np.array([0.5, NAN, 2.0, 1.0]),
    "seed": np.array([1, 2, 2**63 + 1, 2**63], np.uint64),
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("return >= 3 and source == expert", [0]),
        ("return>=3 and source=expert", [0]),
        ("return < -1 or return == 3", [0, 1]),
        ("return > 1e-4 and not (return > 1)", [3]),
        ("source == 'my expert'", [1]),
        ('source != "my expert"', [0, 2, 3]),
        ("environment == lab/3d-place", [2]),
        ("environment in (lab/3d-place, planar/reach)", [2, 3]),
        ("environment like lab/*", [0, 1, 2]),
        ("not environment like lab/*", [3]),
        ("success", [0, 3]),
        ("not success", [1]),
        ("success == unknown", [2]),
        ("success != unknown", [0, 1, 3]),
        ("success == false", [1]),
        ("success or not success", [0, 1, 3]),
        ("success or return == 0", [0, 2, 3]),
        ("not (success and weight > 0)", [1]),
        ("weight >= 1", [2, 3]),
        ("not weight >= 1", [0]),
        ("weight in (0.5, 2)", [0, 2]),
        ("seed == 9223372036854775809", [2]),
        ("seed > -1 and seed < 3", [0, 1]),
        ("return == 3 or return == 0 and weight == 0.5", [0]),  # `and` binds closer
    ],
)
def test_a_condition_chooses_the_rows_that_it_says(text, expected):
    assert np.flatnonzero(Condition(text).of(COLUMNS)).tolist() == expected


@pytest.mark.parametrize(
    "text, said",
    [
        ("retrun > 3", "no column 'retrun', did you mean 'return'?"),
        ("environment == lab/pik", "no episode has environment 'lab/pik', did you mean 'lab/pick'"),
        ("source in (expert, techer-2)", "did you mean 'teacher-2'?"),
        ("return > many", "return compared with 'many'; expected a number"),
        ("return == nan", "expected a number"),
        ("success == maybe", "expected true, false or unknown"),
        ("success > 0", "'success >'; expected one of ==, !="),
        ("source > a", "'source >' of text"),
        ("return like 3*", "'return like'; expected one of =="),
        ("return", "its end; expected =="),
        ("return >", "its end; expected a value"),
        ("return > 3 source == expert", "'source'; expected 'and', 'or' or its end"),
        ("(return > 3", "expected ')'"),
        ("return > 3)", "')'; expected 'and'"),
        ("", "its end; expected a column"),
        ("source == 'expert", "cannot be read from"),
        ("return > 3 and", "expected a column"),
        ("__import__('os').system('true')", "no column '__import__'"),
        ("(" * 2000 + "success" + ")" * 2000, "more than 50 parentheses"),
        ("not " * 2000 + "success", "more than 50 parentheses"),
        ("seed == " + "9" * 5000, None),
    ],
)
def test_what_is_no_condition_is_one_line(text, said):
    if said is None:
        assert not Condition(text).of(COLUMNS).any()
        return
    with pytest.raises(UserError) as error:
        Condition(text).of(COLUMNS)
    assert said in str(error.value) and "\n" not in str(error.value)
