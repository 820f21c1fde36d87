"""Where work says how far it is and what it measures."""

from alltrades.system.progress import Progress
from alltrades.system.reporting import Report
from alltrades.system.tracking import Tracker, read_metrics


def test_nobody_needs_to_listen():
    report = Report()
    report.progress(1, 2)
    report.log(1, {"loss": 0.5})
    report.parts([2, 3])[0].progress(1, 2)


def test_parts_add_up_and_correct_what_was_expected_of_them():
    shown = []
    first, second = Report(show=lambda *counts: shown.append(counts)).parts([10, 20])
    first.progress(1, 10)
    second.progress(5, 20)
    second.progress(6, 6)
    first.progress(10, 10)
    assert shown == [(1, 30), (6, 30), (7, 16), (16, 16)]


def test_parts_of_parts_add_up():
    shown = []
    whole = Report(show=lambda *counts: shown.append(counts))
    first, second = whole.parts([4, 4])
    a, b = second.parts([1, 3])
    first.progress(4, 4)
    a.progress(1, 1)
    b.progress(2, 3)
    assert shown == [(4, 8), (5, 8), (7, 8)]


def test_values_go_under_the_name_that_was_given_last():
    lines = []
    report = Report(record=lambda *line: lines.append(line), name="a")
    report.log(1, {"x": 1.0})
    report.named("b").log(2, {"x": 2.0})
    report.unrecorded().log(3, {"x": 3.0})
    report.parts([1])[0].log(4, {"x": 4.0})
    assert lines == [("a", 1, {"x": 1.0}), ("b", 2, {"x": 2.0}), ("a", 4, {"x": 4.0})]


def test_a_progress_line_and_metric_files_can_listen(tmp_path):
    tracker = Tracker(tmp_path, "disabled")
    with Progress("train", 1, "step") as line:
        report = Report(line.update, tracker.log, "train")
        report.progress(3, 8)
        report.log(3, {"loss": 0.5})
        assert (line.done, line.total) == (3, 8)
    assert [(x["step"], x["loss"]) for x in read_metrics(tmp_path, "train")] == [(3, 0.5)]
