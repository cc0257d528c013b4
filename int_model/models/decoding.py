"""Decoding many prompts without holding all their masks at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from int_model.models.protocols import (
    BestMask,
    DecodesBest,
    Embedding,
    MaskPrompt,
    MaskProposal,
    PromptAdapter,
    Segmenter,
)

_BUDGET = 1 << 26  # logits (float32) asked of the segmenter at once: 256 MiB


def best_in_chunks(
    segmenter: Segmenter,
    embedding: Embedding,
    prompts: Sequence[MaskPrompt],
    size: tuple[int, int],
    *,
    multimask: bool,
    adapter: PromptAdapter | None,
    label: str,
) -> Iterator[BestMask]:
    """The best alternative for each prompt; of a segmenter that cannot choose itself, out of ``decode_in_chunks``."""
    if not isinstance(segmenter, DecodesBest):
        for proposal in decode_in_chunks(
            segmenter, embedding, prompts, size, multimask=multimask, adapter=adapter, label=label
        ):
            yield proposal.chosen
        return
    chunk = max(1, _BUDGET // (size[0] * size[1]))
    for start in range(0, len(prompts), chunk):
        part = prompts[start : start + chunk]
        found = segmenter.decode_best(embedding, part, multimask=multimask, adapter=adapter, label=label)
        if len(found) != len(part):
            raise RuntimeError(f"the segmenter gave {len(found)} results for {len(part)} inputs")
        yield from found


def decode_in_chunks(
    segmenter: Segmenter,
    embedding: Embedding,
    prompts: Sequence[MaskPrompt],
    size: tuple[int, int],
    *,
    multimask: bool,
    adapter: PromptAdapter | None,
    label: str,
) -> Iterator[MaskProposal]:
    """``Segmenter.decode`` for an image of ``size`` (height, width), a few prompts at a time.

    The alternatives are the largest arrays of the method: take from each proposal what is needed before the next one.
    Raises ``RuntimeError`` if the segmenter gives another number of proposals than it was given prompts.
    """
    chunk = max(1, _BUDGET // (3 * size[0] * size[1]))
    for start in range(0, len(prompts), chunk):
        part = prompts[start : start + chunk]
        proposals = segmenter.decode(embedding, part, multimask=multimask, adapter=adapter, label=label)
        if len(proposals) != len(part):
            raise RuntimeError(f"the segmenter gave {len(proposals)} results for {len(part)} inputs")
        yield from proposals
