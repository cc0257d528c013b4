"""The same models with another seed: what there is of chance in them is the inpainter's noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from int_model.models.identity import profile_fingerprint
from int_model.models.profile import Profile
from int_model.models.suite import ModelSuite


def seeded(suite: ModelSuite, profile: Profile) -> Callable[[int], ModelSuite]:
    """A function that gives ``suite`` (loaded from ``profile``) with a seed; weights are shared.

    Calling it raises ``ValueError`` if the inpainter has no seed: everything else decodes greedily.
    """

    def of(seed: int) -> ModelSuite:
        change = getattr(suite.inpainter, "with_seed", None)
        if change is None:
            raise ValueError(
                f"nothing in the profile '{profile.name}' depends on a seed, so every seed would give the same "
                "answers; leave the seeds out"
            )
        inpainter = profile.inpainter.model_copy(update={"seed": seed})
        changed = profile.model_copy(update={"inpainter": inpainter})
        return dataclasses.replace(suite, inpainter=change(seed), fingerprint=profile_fingerprint(changed))

    return of
