"""What the machine gives a process."""

import os

from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.run import RunSettings
from alltrades.system.machine import processors


def test_a_process_confined_to_one_processor_starts_one_worker_and_one_training():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert processors() == 1
        assert RolloutSettings().worker_count() == 1
        assert RunSettings(name="a", environments=["planar"]).training_count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert processors() <= len(before)
