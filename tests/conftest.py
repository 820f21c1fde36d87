"""Tests run in as many processes as there are cores: a second thread in each would make them wait
for one another.
"""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


@pytest.fixture(autouse=True, scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Plugins that tests name are none that the developer has named."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
