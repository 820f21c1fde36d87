"""A disk that fills up, or a training that diverges, in the middle of a command: one line, what was
finished stays, and the same command goes on.

The disk is a limit of the size of every file, which the system refuses as it does a full disk.
"""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alltrades import cli
from alltrades.policies.model.loading import load_policy

TINY = """--small --environments [planar/reach] --optional_environments [] --generalists {}
--evaluation.episodes 2 --evaluation.rows [labeled_only,generalist]
--demos.episodes 2 --distill.rollouts 2 --distill.label_steps 2 --labeled_only.steps 4
--specialist.train.steps 4 --distill.train.steps 4 --policy.width 32 --policy.depth 1
--specialist.width 32 --rollout.workers 0 --rollout.timeout 0 --trainings 1""".split()
RUN = ["run", "quickstart_paper", *TINY, "--tracking.wandb", "disabled", "--no-report"]
STAGE = ["--config", "quickstart_paper", *TINY]


@contextmanager
def disk(room: int) -> Iterator[None]:
    """No file may be larger than `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(room: int, folder: Path, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command on a full disk; the line it ends with."""
    capsys.readouterr()
    with disk(room):
        code = cli.main([*map(str, words)])
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("alltrades: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in said, said
    assert "cannot be written (File too large); what was finished before is kept" in lines[0]
    assert "the same command then goes on" in lines[0] and str(folder) in lines[0]
    assert not list(folder.rglob("*.partial"))
    return lines[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    with disk(20_000):
        assert cli.main([*RUN, "--out", str(folder / "run")]) == 2
    return folder


def test_a_run_on_a_full_disk_keeps_its_finished_stages_and_goes_on(made, capsys):
    run = made / "run"
    assert (run / "stores" / "demos.zarr").exists()
    assert not list(run.rglob("policy.json")) and not list(run.rglob("*.partial"))
    refused(20_000, run, capsys, *RUN, "--out", run)
    assert cli.main([*RUN, "--out", str(run)]) == 0
    said = capsys.readouterr()
    assert "demos  kept" in said.out + said.err
    assert load_policy(run / "policies" / "generalist").digest()


def test_distilling_and_evaluating_on_a_full_disk_are_done_by_the_same_command_later(made, capsys):
    run, out = made / "run", made / "generalist"
    teacher = f"scratch={run}/policies/specialists/scratch:{run}/stores/rollouts_scratch.zarr"
    words = ["distill", "--demos", run / "stores/demos.zarr", "--teacher", teacher, "--out", out]
    refused(20_000, out, capsys, *words, *STAGE)
    assert not (out / "policy.json").exists()
    assert cli.main([*map(str, words), *STAGE]) == 0
    own, of_run = (load_policy(path) for path in (out, run / "policies" / "generalist"))
    assert own.digest() == of_run.digest()
    result = made / "results" / "generalist.json"
    words = ["evaluate", out, "--out", result]
    refused(400, result.parent, capsys, *words, *STAGE)
    assert not result.exists()
    assert cli.main([*map(str, words), *STAGE]) == 0 and result.exists()


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, capsys):
    """At the largest learning rate that is taken, hardly clipped, a deep network explodes."""
    more = """--policy.width 256 --policy.depth 4 --labeled_only.lr 0.1 --labeled_only.batch 16
    --labeled_only.steps 300 --training.warmup 0.01 --training.grad_clip 1e9
    --training.checkpoint_every 2""".split()
    assert cli.main([*RUN, *more, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("alltrades: ")]
    assert len(lines) == 1 and "Traceback" not in said
    found = re.search(r"labeled_only: training diverged at step (\d+): its loss", lines[0])
    kept = re.search(r"the checkpoint of step (\d+) is kept", lines[0])
    assert 0 < int(kept[1]) < int(found[1]) < 300
    assert "lower labeled_only.lr (now 0.1)" in lines[0]
    assert not list(tmp_path.rglob("policy.json"))
