"""Tests run in as many processes as there are cores: a second thread in each would make them wait
for one another.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
