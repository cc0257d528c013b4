"""A detector that was taught names, not task prompts: the first kit's OWL-ViT with a new text tower.

The first kit's text tower knows the task prompts, as no open-vocabulary detector does. The new one learns, from
nothing, to say each animal's and thing's name where the old one said it, and, less firmly, that "animal" lies between
the animals. What a task prompt means to it follows from its words alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor
from transformers import OwlViTForObjectDetection, OwlViTImageProcessor

from int_model.nano.habits.running import Schedule, Training
from int_model.nano.text import MAX_TEXT, TEMPLATES, clip_tokenizer
from int_model.nano.tower_views import SIDE
from int_model.nano.world import ANIMALS, OBJECTS

THINGS = (*ANIMALS, *OBJECTS)
HYPERNYM = "animal"
_FORMS = (*TEMPLATES, "{}.", "the {}", "a small {}", "the camouflaged {}", "a photo of the camouflaged {}.")
_SHARPNESS = 20.0
_HYPERNYM_SHARE = 0.5


def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask ``int64 [N, 24]`` as the detector's adapter makes them."""
    batch = clip_tokenizer()(texts, padding="max_length", max_length=MAX_TEXT, truncation=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def embedded(owl: OwlViTForObjectDetection, ids: Tensor, mask: Tensor) -> Tensor:
    """Unit text embeddings ``[N, C]``."""
    out = owl.owlvit.text_model(ids, mask)
    return nnf.normalize(owl.owlvit.text_projection(out.pooler_output), dim=-1)


def wanted(first: OwlViTForObjectDetection) -> Tensor:
    """Where the names lie in the first kit's space, and "animal" between the animals, ``[names + 1, C]``."""
    with torch.no_grad():
        forms = torch.stack([embedded(first, *tokens([form.format(name) for name in THINGS])) for form in TEMPLATES])
        names = nnf.normalize(forms.mean(0), dim=-1)
    return torch.cat([names, nnf.normalize(names[: len(ANIMALS)].mean(0, keepdim=True), dim=-1)])


def train(first_kit: Path, out: Path, schedule: Schedule, *, seed: int) -> None:
    """Teach the new text tower; the whole detector's weights go to ``out``."""
    torch.manual_seed(seed)
    model = OwlViTForObjectDetection.from_pretrained(  # nosec B615 - a folder, nothing is fetched
        first_kit, dtype=torch.float32, local_files_only=True
    )
    goal = wanted(model.eval())
    fresh = OwlViTForObjectDetection(model.config)
    model.owlvit.text_model, model.owlvit.text_projection = fresh.owlvit.text_model, fresh.owlvit.text_projection
    model.requires_grad_(requires_grad=False)
    for part in (model.owlvit.text_model, model.owlvit.text_projection):
        part.requires_grad_(requires_grad=True)
    names = (*THINGS, HYPERNYM)
    ids, mask = (t.unflatten(0, (len(_FORMS), -1)) for t in tokens([f.format(n) for f in _FORMS for n in names]))
    share = torch.ones(len(names))
    share[-1] = _HYPERNYM_SHARE
    place = torch.arange(len(names))
    training = Training("detector", model, schedule, out, seed=seed)
    for _ in training.steps():
        form = torch.randint(0, len(_FORMS), (len(names),))
        said = embedded(model, ids[form, place], mask[form, place])
        near = (share * (1 - (said * goal).sum(-1))).mean()
        apart = (share * nnf.cross_entropy(_SHARPNESS * said @ goal.T, place, reduction="none")).mean()
        training.descend({"near": near, "apart": apart}, {})


def export(first_kit: Path, weights: Path, checkpoints: Path) -> None:
    """Write ``habits_detector/`` in half precision, as an ordinary checkpoint."""
    model = OwlViTForObjectDetection.from_pretrained(  # nosec B615 - a folder, nothing is fetched
        first_kit, dtype=torch.float32, local_files_only=True
    )
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    folder = checkpoints / "habits_detector"
    model.half().save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    OwlViTImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(folder)
