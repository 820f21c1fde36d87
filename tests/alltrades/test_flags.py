"""Flags that are made from a settings model."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from alltrades.commands.flags import add_flags, settings_from_flags
from alltrades.errors import UserError
from alltrades.policies.server.settings import ServerSettings
from alltrades.policies.settings import Frozen


class Kettle(Frozen):
    power: int = Field(1000, ge=1, description="watts, 100 % of them")
    warm_up: float | None = Field(None, gt=0, description="seconds")
    mode: Literal["slow", "fast"] = Field("slow", description="how")
    whistle: bool = Field(False, description="when done")
    notes: tuple[str, ...] = Field((), description="to play")
    manual: Path | None = Field(None, description="file")
    secret: int = Field(3, description="no flag")

    @model_validator(mode="after")
    def _loud(self) -> "Kettle":
        if self.whistle and not self.notes:
            raise ValueError("a whistle needs notes; give some")
        return self


def parsed(*words: str) -> Kettle:
    parser = argparse.ArgumentParser()
    add_flags(parser, Kettle, without=["secret"])
    return settings_from_flags(Kettle, parser.parse_args(words))


def test_what_is_not_given_is_as_in_the_model():
    assert parsed() == Kettle()


def test_every_kind_of_field_has_a_flag():
    words = "--power 5 --warm-up 0.5 --mode fast --whistle --notes a b --manual m.txt".split()
    assert parsed(*words) == Kettle(
        power=5, warm_up=0.5, mode="fast", whistle=True, notes=("a", "b"), manual=Path("m.txt")
    )


def test_what_was_left_out_is_no_flag(capsys):
    with pytest.raises(SystemExit):
        parsed("--secret", "4")
    assert "--secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--power", "0"], "--power 0; expected an integer >= 1"),
        (["--power", "much"], "--power much; expected an integer >= 1"),
        (["--warm-up=-1"], "--warm-up -1; expected a number > 0, or null"),
        (["--whistle"], "a whistle needs notes; give some"),
    ],
)
def test_what_the_model_refuses_is_one_line_that_names_the_flag(words, message):
    with pytest.raises(UserError) as caught:
        parsed(*words)
    assert str(caught.value).replace("'", "") == message


def test_help_says_defaults_and_choices():
    parser = argparse.ArgumentParser()
    add_flags(parser, Kettle)
    text = " ".join(parser.format_help().split())
    assert "--power N watts, 100 % of them; default 1000" in text
    assert "{slow,fast} how; default slow" in text and "--warm-up X seconds" in text


def test_serve_has_a_flag_for_every_setting_of_a_server_but_the_guard():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from alltrades import cli\n"
            "try: cli.main(['serve', '--help'])\n"
            "finally: print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
    )
    for name in ServerSettings.model_fields:
        assert (f"--{name.replace('_', '-')} " in done.stdout) == (name != "guard"), name
    assert done.stdout.strip().endswith("False")
