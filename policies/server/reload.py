"""Another artifact in place of the one that is served, without a client noticing more than better
actions.
"""

from __future__ import annotations

from pathlib import Path

from alltrades.errors import UserError
from alltrades.policies.client.messages import FACTS
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy


def load_successor(folder: Path, current: DiffusionPolicy, device: str) -> DiffusionPolicy:
    """Read the artifact that shall replace `current`; raises UserError where clients could not go
    on with it.

    It must be complete and finite (see `load_policy`), and what clients were told on connecting
    must hold: environments in the same order with equal sizes, bounds and rates,
    history, chunk and draws of noise. The preference that `current` acts by is kept.
    """
    policy = load_policy(folder, device)
    if policy.environments != current.environments:
        names = [{e.id: e for e in p.environments} for p in (current, policy)]
        changed = [i for i in (*names[0], *names[1]) if names[0].get(i) != names[1].get(i)]
        what = f"'{changed[0]}' is missing or changed" if changed else "they are in another order"
        raise UserError(
            f"{folder}: environments differ from those being served ({what}); expected the same; "
            "start the server again"
        )
    for name in FACTS:
        mine, theirs = getattr(current, name), getattr(policy, name)
        if mine != theirs:
            raise UserError(
                f"{folder}: {name} is {theirs}, that of the policy being served {mine}; expected "
                "the same; start the server again"
            )
    if policy.reading and current.reading:
        policy.set_unknown_instruction(current.unknown_instruction)
    return policy.set_preference(current.chosen_preference())


def stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when the artifact is written again (policy.json is its last file); None where
    there is none.
    """
    try:
        found = (folder / "policy.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
