"""Point prompting over ordinary checkpoints of other sizes: any CLIP and any SAM of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from int_model.learning.ppt.fit import Shape, settings_of
from int_model.learning.ppt.gallery import Gallery
from int_model.learning.ppt.losses import mask_losses
from int_model.learning.ppt.soft_points import decode_points
from int_model.learning.sam import TrainableSam
from int_model.models.adapters.segmenter import HFSamSegmenter
from int_model.models.calls import ModelCalls
from int_model.models.protocols import TextTokens
from int_model.models.suite import ModelSuite
from int_model.point_prompting.generator.bundle import TrainedGenerator, probes_of, unpack
from int_model.point_prompting.generator.filters import PointFilter
from int_model.point_prompting.generator.grounding import PointGrounder
from int_model.point_prompting.generator.network import PointGenerator
from tests.unit.int_model.models.tiny import picture

TEXTS = ["the left moth", "a moth next to the bark of a tree"]


@pytest.mark.parametrize("sees_segmenter", [True, False])
def test_a_generator_learns_and_serves_over_any_clip_and_sam(suite: ModelSuite, sees_segmenter: bool) -> None:
    assert isinstance(suite.segmenter, HFSamSegmenter)
    gallery = Gallery(suite.text_image, TrainableSam(suite.segmenter), sees_segmenter)
    images = [picture(40, 60, seed) for seed in (1, 2)]
    numbers = list(gallery.add(images))
    torch.manual_seed(0)
    shape = Shape(width=32, heads=4, layers=1, feed=32, queries=5, sees_segmenter=sees_segmenter)
    network = PointGenerator(settings_of(gallery, shape))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    truth = torch.zeros(2, gallery.cells, gallery.cells)
    truth[:, : gallery.cells // 4, : gallery.cells // 3] = 1
    losses = []
    for _ in range(12):
        xy, share = network(gallery.seen(numbers, TEXTS)).flat()
        logits, _ = decode_points(gallery, numbers, xy, share)
        loss = mask_losses(logits[:, 0], truth, gallery.inside(numbers), torch.ones(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses[6:]) < losses[0]
    probes = probes_of(suite.text_image, suite.segmenter if sees_segmenter else None)
    made = unpack(TrainedGenerator(network, 3, negatives=True, probes=probes).pack())
    grounder = PointGrounder(suite, made, PointFilter(positive=0.0, negative=0.0))
    calls = ModelCalls(suite, 2)
    found, embeddings = grounder.points(calls, [0, 1], images, TEXTS)
    assert [entry is not None for entry in embeddings] == [sees_segmenter] * 2
    embedding = embeddings[0] or calls.encode([0], images[:1])[0]
    (best,) = grounder.hypotheses(calls, 0, embedding, found[0], (40, 60))
    assert best.logits.shape == (40, 60)


def test_token_features_do_not_depend_on_the_other_texts(suite: ModelSuite) -> None:
    clip = suite.text_image
    assert isinstance(clip, TextTokens)
    alone, together = clip.embed_tokens(TEXTS[:1])[0], clip.embed_tokens(TEXTS)[0]
    assert alone.shape == together.shape
    assert np.allclose(alone, together, atol=1e-5)
    assert np.allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
