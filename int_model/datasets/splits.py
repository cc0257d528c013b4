"""Which part of a data set an image belongs to: whole groups, by a seed, close to the wanted shares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

TRAIN = "train"


def assign_splits(groups: Sequence[int], names: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """A split per image; images of one group share it.

    Groups are shuffled by a hash of the seed and of their smallest name, so the order of the images does not matter.
    Each split in turn takes groups that fit into what it may hold; the rest is ``train``. A split other than
    ``train`` never takes more than its share, except that one with a share above 0 gets at least one group (the
    smallest) while groups are left. ``train`` keeps at least one group.

    Args:
        groups: the group of each image.
        names: a stable name of each image, e.g. its digest or path.
        shares: the share of all images per split other than ``train``, e.g. ``{"val": 0.2}``.
        seed: another seed, another shuffle.

    Raises:
        ValueError: a share below 0, or shares that leave nothing for ``train``.
    """
    if any(not 0.0 <= share < 1.0 for share in shares.values()) or sum(shares.values()) >= 1.0:
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ValueError(f"shares lie between 0 and 1 and together stay below 1, not: {told}")
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    waiting = sorted(members, key=lambda group: _rank(seed, min(names[i] for i in members[group])))
    out = [TRAIN] * len(groups)
    for name, share in shares.items():
        room = round(share * len(groups))
        taken: list[int] = []
        for group in waiting:
            if len(members[group]) <= room and len(taken) + 1 < len(waiting):
                taken.append(group)
                room -= len(members[group])
        if not taken and share > 0 and len(waiting) > 1:
            taken = [min(waiting, key=lambda group: len(members[group]))]
        for group in taken:
            for index in members[group]:
                out[index] = name
        gone = set(taken)
        waiting = [group for group in waiting if group not in gone]
    return out


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
