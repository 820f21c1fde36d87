"""Whether a process runs."""

from pathlib import Path


def alive(pid: int) -> bool:
    """False also for one that has ended and waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
