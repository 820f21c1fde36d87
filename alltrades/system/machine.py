"""What the machine gives this process."""

from __future__ import annotations


def processors() -> int:
    """Processors that this process may use: fewer than the machine has under an affinity mask or in
    a container.
    """
    from joblib import cpu_count  # late: commands that start nothing do without

    return int(cpu_count())
