"""The result in a terminal: right numbers, aligned, narrow enough."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from alltrades import cli
from alltrades.envs.rollouts.differences import paired_difference
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.envs.rollouts.evaluation_files import write_evaluation
from alltrades.envs.rollouts.sequential import e_process
from alltrades.envs.rollouts.statistics import wilson
from alltrades.report import text
from alltrades.report.run_files import RunFiles, read_run
from alltrades.report.tables import plain_text, show_result, terminal_table
from tests.alltrades.fake_run import ENVIRONMENTS, ROWS, fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFiles:
    return read_run(fake_run(tmp_path_factory.mktemp("runs") / "fake"))


def rendered(run: RunFiles, width: int) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(
        file=stream, width=width, force_terminal=True, color_system=None, highlight=False
    ).print(terminal_table(run.evaluations, run.comparison, run.advice, (40,)))
    return stream.getvalue()


def test_three_rows_in_plain_text_are_aligned_and_below_110_columns(run):
    shown = plain_text(run.evaluations, run.comparison, run.advice, (40,))
    assert shown.isascii()
    table = shown.split("\n\n")[0].splitlines()
    assert max(map(len, shown.splitlines())) <= 110
    head = table[0]
    for row in ROWS:
        column = head.index(row)
        for name, line in zip(ENVIRONMENTS, table[1:]):
            result = next(r for r in run.evaluations[row].rows if r.environment == name)
            low, high = wilson(result.successes, result.n)
            assert line.startswith(f"{name} ")
            assert line[column:].startswith(
                f"{result.successes / result.n:.2f} [{low:.2f}, {high:.2f}]"
            )
    assert table[1].split()[1] == "50"  # n


def test_the_mean_the_shorter_limit_and_the_signal_are_said(run):
    shown = plain_text(run.evaluations, run.comparison, run.advice, (40,))
    mean, (low, high) = run.evaluations["generalist"].mean()
    within, _ = run.evaluations["generalist"].mean(40)
    assert re.search(rf"^mean of 10 +500 .*{mean:.3f} \[{low:.3f}, {high:.3f}\]$", shown, re.M)
    assert re.search(rf"^mean within 40 steps .*{within:.3f} \[", shown, re.M)
    assert (
        "generalist*" in shown
        and "specialists*" not in shown
        and "* trained with the simulator's success signal" in shown
    )


def test_differences_and_advice_are_shown(run):
    shown = plain_text(run.evaluations, run.comparison, run.advice)
    for pair in run.comparison["pairs"]:
        line = next(x for x in shown.splitlines() if x.startswith(f"{pair['a']} - {pair['b']}"))
        assert (
            f"{pair['mean']:+.3f} [{pair['interval'][0]:+.3f}, {pair['interval'][1]:+.3f}]" in line
            and pair["verdict"] in line
        )
    assert all(facts["line"] in shown for facts in run.advice.values())


def test_different_numbers_of_episodes_stand_in_the_cells(tmp_path):
    few, many = (
        read_run(fake_run(tmp_path / str(n), ENVIRONMENTS[:2], n=n, videos=False)).evaluations
        for n in (10, 20)
    )
    shown = plain_text({"few": few["generalist"], "many": many["generalist"]}, {"pairs": []})
    assert shown.count("n=10") == 2 and shown.count("n=20") == 2


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_terminal_of_any_usual_width_shows_every_number_whole(run, width):
    shown = rendered(run, width)
    assert max(map(len, shown.splitlines())) <= width
    for evaluation in run.evaluations.values():
        for result in evaluation.rows:
            assert text.interval(result.interval) in shown
    for word in ("BETTER", "advice", "generalist*", "mean within 40 steps"):
        assert word in shown


def test_output_that_is_not_a_terminal_is_plain(run):
    stream = io.StringIO()
    show_result(run.evaluations, run.comparison, run.advice, (), file=stream)
    assert stream.getvalue() == plain_text(run.evaluations, run.comparison, run.advice) + "\n"
    assert "\x1b" not in stream.getvalue()


def test_a_comparison_alone_needs_no_evaluations(run):
    pair = {**run.comparison["pairs"][0], "seeds": [0.1, 0.125, 0.2], "seed_interval": [0.01, 0.27]}
    shown = plain_text({}, {"pairs": [pair]}, {})
    assert (
        shown.startswith("paired differences")
        and "over seeds [+0.010, +0.270]: +0.100 +0.125 +0.200" in shown
        and "success, 95" not in shown
    )


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        (["BETTER", "BETTER"], "The g is better than a and b."),
        (
            ["BETTER", "UNDERPOWERED"],
            "The g is better than a, and not told apart from b by this many episodes.",
        ),
        (["SAME", "WORSE", "SAME"], "The g is the same as a and c within 0.05, and worse than b."),
        ([], None),
    ],
)
def test_the_verdict_as_a_sentence(verdicts, expected):
    assert (
        text.sentence([{"a": "g", "b": b, "verdict": v} for b, v in zip("abc", verdicts)], "g")
        == expected
    )


@pytest.mark.parametrize(
    "seconds, expected",
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds, expected):
    assert text.duration(seconds) == expected


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert (
        text.signed(-0.0001) == "0.000"
        and text.signed(0.0006) == "+0.001"
        and text.signed(-0.2, 2) == "-0.20"
    )


def test_tables_load_without_torch_plotly_or_rich():
    code = (
        "import sys, alltrades.report.tables; print([m for m in ('torch', 'plotly', 'rich', "
        "'jinja2') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_metrics_beside_success_have_tables_and_differences_of_their_own():
    def evaluation(name: str, shift: float) -> Evaluation:
        rows = [
            EnvironmentResult(
                e,
                (1, 2, 3, 4),
                (1, 1, -1, 1),
                (0.0,) * 4,
                (0.0,) * 4,
                1,
                "",
                {"psnr": tuple(shift + x for x in (20.0, 22.0, 24.0, 26.0))},
            )
            for e in ("blur", "noise")
        ]
        return Evaluation(name, tuple(rows))

    a, b = evaluation("generalist", 0.75), evaluation("labeled_only", 0.0)
    pairs = [
        {
            "a": "generalist",
            "b": "labeled_only",
            "metric": m,
            **paired_difference(a, b, metric=m).to_json(),
        }
        for m in ("success", "psnr")
    ]
    shown = plain_text({"generalist": a, "labeled_only": b}, {"pairs": pairs}, {}, (1,))
    assert shown.index("success, 95 % interval") < shown.index("psnr, 95 % interval")
    low, high = a.rows[0].estimate("psnr")[1]
    assert re.search(rf"^blur +4 +23\.75 \[{low:.2f}, {high:.2f}\]", shown, re.M)
    assert (
        re.search(r"^mean of 2 +8 +23\.750 \[.*23\.000 \[", shown, re.M)
        and shown.count("mean within 1 steps") == 1
    )
    assert re.search(
        r"^generalist - labeled_only, psnr +\+0\.750 \[\+0\.750, \+0\.750\] +BETTER", shown, re.M
    )
    said = text.sentence(pairs)
    assert said == (
        "The generalist is not told apart from labeled_only by this many episodes. In psnr the "
        "generalist is better than labeled_only."
    )


def test_warnings_about_weights_are_few_lines_however_many_environments_there_are():
    off = "3 demonstrations: weights off"
    assert text.weight_warnings({"a": [off], "b": [], "c": [off]}) == [f"a, c: {off}"]
    assert text.weight_warnings({name: [off] for name in "abcde"}) == [f"a, b, c and 2 more: {off}"]
    assert text.weight_warnings({name: [f"AUC of {name}"] for name in "abcde"}) == [
        "a: AUC of a",
        "b: AUC of b",
        "c: AUC of c",
        "and 2 more warnings",
    ]


def test_rows_of_several_runs_stand_above_their_differences(tmp_path, capsys):
    folders = [str(fake_run(tmp_path / name, policy=name)) for name in ("one", "two")]
    assert (
        cli.main(["compare", *folders, "--rows", "generalist", "specialists", "labeled_only"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    evaluations = read_run(tmp_path / "one").evaluations
    assert (
        lines[0].split("  ")[0] == "success, 2 runs of 500 episodes" and "generalist*" in lines[0]
    )
    for name, line in zip(ENVIRONMENTS, lines[1:]):
        rates = [
            next(r for r in evaluations[row].rows if r.environment == name).estimate()[0]
            for row in ("generalist", "specialists", "labeled_only")
        ]
        assert line.split() == [name, *map(text.rate, rates)]
    mean = text.rate(evaluations["specialists"].mean()[0], 3)
    assert next(x for x in lines if x.startswith("mean of 10")).split(" [")[1].endswith(mean)
    assert f"{mean} / {mean}" in next(x for x in lines if x.startswith("of each run"))
    assert [x.split("  ")[0] for x in lines if x.startswith("generalist - ")] == [
        "generalist - specialists",
        "generalist - labeled_only",
    ]
    assert cli.main(["compare", *folders, "--rows", "generalist", "generalist"]) == 2
    assert "at least two different rows" in capsys.readouterr().err


def test_each_environment_has_its_difference_where_that_is_asked_for(tmp_path, capsys):
    folder = fake_run(tmp_path / "one")
    words = ["compare", str(folder), "--rows", "generalist", "labeled_only", "--each"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    found = read_run(folder).evaluations
    pair = paired_difference(found["generalist"], found["labeled_only"])
    assert lines[0] == "generalist - labeled_only" and len(lines) == 1 + len(ENVIRONMENTS)
    for line, (name, own) in zip(lines[1:], pair.per_environment.items()):
        shown = line.split()
        assert shown[0] == name and float(shown[1]) == pytest.approx(own["mean"], abs=5e-4)
        assert shown[-1] == own["verdict"].split()[-1]


def test_letters_say_which_rows_are_not_told_apart(tmp_path, capsys):
    folders = [str(fake_run(tmp_path / name, policy=name)) for name in ("one", "two")]
    rows = ["labeled_only", "generalist", "specialists"]
    assert cli.main(["compare", *folders, "--letters", "--rows", *rows]) == 0
    shown = capsys.readouterr().out
    found = re.search(r"^share a letter: not told apart +(\w+) +(\w+) +(\w+)$", shown, re.M)
    own = dict(zip(rows, found.groups()))
    assert own["generalist"] == "a"  # the best row
    for other in ("generalist", "specialists"):
        line = next(x for x in shown.splitlines() if x.startswith(f"labeled_only - {other}"))
        apart = "BETTER" in line or "WORSE" in line
        assert bool(set(own["labeled_only"]) & set(own[other])) == (not apart)


def test_sequential_comparison_stops_at_the_start_that_decides(tmp_path, capsys):
    """Of 200 starts a wins every other one and never loses: evidence grows by each win."""
    names = {}
    for name, won in (("a", [1, -1] * 100), ("b", [-1] * 200)):
        result = EnvironmentResult(
            "env", tuple(range(200)), tuple(won), (0.0,) * 200, (0.0,) * 200, 10, ""
        )
        names[name] = tmp_path / f"{name}.json"
        names[name].write_text(json.dumps(Evaluation(name, (result,)).to_json()))
    assert cli.main(["compare", str(names["a"]), str(names["b"]), "--sequential"]) == 0
    rounds = int(re.search(r"^a - b: BETTER after (\d+) starts", capsys.readouterr().out)[1])
    evidence = e_process(np.array([1.0, 0.0] * 100))
    assert rounds == int(np.argmax(evidence >= 40)) + 1 < 40
    wrong = ["compare", str(names["a"]), str(names["b"]), "--sequential", "--metric", "psnr"]
    assert cli.main(wrong) == 2
    assert "no metric 'psnr' was measured in 'env'" in capsys.readouterr().err


def test_comparing_says_where_code_or_settings_of_the_evaluations_differ(tmp_path, capsys):
    alike = {"code": {"torch": "2.6.0", "my_env.py": "0" * 12}, "settings": {"engine": "torch"}}
    others = {
        "a": alike,
        "b": alike,
        "c": {"code": {"torch": "2.7.0", "my_env.py": "1" * 12}, "settings": {"engine": "onnx"}},
        "d": {},
    }
    for name, made in others.items():
        rows = (EnvironmentResult("env", (1, 2), (1, -1), (0.0,) * 2, (0.0,) * 2, 10, ""),)
        write_evaluation(tmp_path / f"{name}.json", Evaluation(name, rows, made=made))

    def said(other: str) -> str:
        assert cli.main(["compare", f"{tmp_path}/a.json", f"{tmp_path}/{other}.json"]) == 0
        return capsys.readouterr().err

    assert said("b") == ""
    assert said("c") == (
        "warning: 'a' and 'c' were measured with other code or settings: my_env.py was edited; "
        "torch 2.6.0 -> 2.7.0; engine torch -> onnx\n"
    )
    assert "'a' and 'd' were measured with other code or settings: one of them" in said("d")


def written(path, name, first, limit=10, policy="p"):
    n = 20
    result = EnvironmentResult(
        "env", tuple(range(n)), first and tuple(first), (0.0,) * n, (0.0,) * n, limit, policy
    )
    path.write_text(json.dumps(Evaluation(name, (result,)).to_json()))
    return str(path)


def test_steps_within_which_success_counts_are_those_of_episodes(tmp_path, capsys):
    a = written(tmp_path / "a.json", "a", [3, -1] * 10)
    b = written(tmp_path / "b.json", "b", [7, -1] * 10)
    silent = written(tmp_path / "silent.json", "silent", None)
    assert cli.main(["compare", a, b, "--at", "5"]) == 0
    assert "within 5 steps" in capsys.readouterr().out
    for words, said in (
        ([a, b, "--at", "11"], "--at 11 and no episode lasts longer than 10 steps"),
        ([silent, silent, "--at", "5"], "nothing says success in env"),
    ):
        assert cli.main(["compare", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_run_or_its_copy_is_no_second_training_seed(tmp_path, capsys):
    one, two = (fake_run(tmp_path / name, policy=name) for name in ("one", "two"))
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(one, copy)
    link.symlink_to(one)
    rows = ["--rows", "generalist", "specialists"]
    assert cli.main(["compare", str(one), str(two), *rows]) == 0
    for other in (one, copy, link):
        assert cli.main(["compare", str(one), str(two), str(other), *rows]) == 2
        said = capsys.readouterr().err
        assert f"{one} and {other} hold the same policies" in said and said.count("\n") == 1


def test_runs_of_other_settings_are_no_training_seeds_of_one_another(tmp_path, capsys):
    one, two, three = (fake_run(tmp_path / name, policy=name) for name in ("one", "two", "three"))
    rows = ["--rows", "generalist", "specialists"]
    changed = yaml.safe_load((two / "settings.yaml").read_text())
    changed |= {"seed": 7, "rollout": {**changed.get("rollout", {}), "workers": 3}}
    (two / "settings.yaml").write_text(yaml.safe_dump(changed))
    assert cli.main(["compare", str(one), str(two), *rows]) == 0
    assert "other settings" not in capsys.readouterr().err
    changed["demos"] = {**changed.get("demos", {}), "episodes": 77}
    (three / "settings.yaml").write_text(yaml.safe_dump(changed))
    assert cli.main(["compare", str(one), str(two), str(three), *rows]) == 0
    said = capsys.readouterr().err
    assert f"{one} and {three} were made with other settings" in said and "-> 77" in said
    assert said.count("other settings") == 1
