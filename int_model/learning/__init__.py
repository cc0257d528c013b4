"""Learning from corrected masks on a frozen segmenter (PLM + PMM, arXiv 2403.09199, and cheaper arms beside them).

Belongs here: examples, the arms, their training, the gate that judges them, and bundles. Does not: where corrections
come from and when training starts (``ml_backend.learning``), and the segmenter's own network.

The image encoder stays frozen in every arm. What an arm learned is an `Adaptation`; the identity adaptation changes
nothing, to the bit.
"""
