"""The kinds of adapters and the keys of their tables in a profile. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DtypeName = Literal["auto", "float32", "float16", "bfloat16"]


class Table(BaseModel):
    """Checked data: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RoleSettings(Table):
    """A kind of adapter: the keys of its table in a profile, and who loads it. An adapter declares a subclass.

    Attributes:
        kind: as written in the profile.
        role: the table that it may stand in.
        loader: ``package.module:function``, called as ``function(settings, source)``; returns a model with the role's
            Protocol. ``source`` is an ``int_model.models.weights.Source``, or None for a kind without weights.
        speed_only: options that do not change what the model answers.
    """

    kind: str
    role: ClassVar[str]
    loader: ClassVar[str]
    speed_only: ClassVar[frozenset[str]] = frozenset({"max_batch"})


class Weights(RoleSettings):
    """A kind that loads a checkpoint.

    Attributes:
        id: hub id (``owner/name``), path of a folder, or ``bundled:NAME`` for a checkpoint inside this package. A path
            in a profile file may start with ``./`` or ``../``: it is then relative to that file.
        revision: branch, tag or commit of a hub id; unused for folders.
        dtype: ``auto`` is float16 on CUDA and float32 elsewhere.
    """

    speed_only: ClassVar[frozenset[str]] = frozenset({"id", "revision", "max_batch"})
    from_file: ClassVar[bool | None] = False  # None: a file or a folder
    id: str = Field(min_length=1)
    revision: str = "main"
    dtype: DtypeName = "auto"


class VisionLanguageRole(Weights):
    """Any image-text-to-text model of transformers.

    Attributes:
        max_batch: most images, or (image, answer) rows, in one pass.
        padded: pad images to a square with the processor's mean colour, so that its centre crop removes nothing.
        units: how the model words box coordinates (see ``CoordinateFrame``).
        max_side: shrink larger images to this longer side first; 0 leaves them. For models without a fixed input size.
        chat_template: a name of ``int_model.models.adapters.templates``, Jinja text, or empty for the checkpoint's own.
        quantize: ``int8`` or ``int4`` through bitsandbytes (CUDA only).
        share_prefix: read what prompts have in common once: a dialogue's later turns and the answers to one question
            go on from the key-value cache, instead of a full pass each.
        prefix_cache_mb: how much of that cache a dialogue leaves for the scoring of the same images (0: none).
        feature_cache_mb: how much memory projected image features may hold between calls (LLaVA).
    """

    role: ClassVar = "vlm"
    loader: ClassVar = "int_model.models.adapters.vision_language:load"
    speed_only: ClassVar = Weights.speed_only | {"feature_cache_mb", "prefix_cache_mb", "share_prefix"}
    kind: str = "hf"
    max_batch: int = Field(default=8, ge=1)
    padded: bool = True
    units: Literal["auto", "unit", "thousand", "pixel"] = "auto"
    max_side: int = Field(default=0, ge=0)
    chat_template: str = ""
    quantize: Literal["none", "int8", "int4"] = "none"
    share_prefix: bool = True
    prefix_cache_mb: int = Field(default=1024, ge=0)
    feature_cache_mb: int = Field(default=256, ge=0)

    @model_validator(mode="after")
    def _pixels_need_the_whole_image(self) -> VisionLanguageRole:
        if self.units == "pixel" and self.max_side:
            raise ValueError("units = 'pixel' counts pixels of the unshrunk image; set max_side = 0 or other units")
        return self


class OpenAIRole(RoleSettings):
    """A vision-language model behind an OpenAI-compatible server; scoring is in vLLM's dialect.

    Attributes:
        url: where the API is, with its ``/v1``, e.g. ``http://gpu-box:8000/v1``.
        model: the model's name there.
        api_key_env: the environment variable that holds the key, if the server wants one.
        padded, units, max_side: as of ``hf``; images are padded with CLIP's mean colour.
        timeout_s: how long one answer may take.
        attempts: how often a request is tried before its images are put off.
        concurrency: most requests at a time.
        end_token: the token that ends an answer, e.g. ``</s>``; empty: the one that the server's chat template puts
            behind an answer, which must be a special one (``<...>``).
    """

    role: ClassVar = "vlm"
    loader: ClassVar = "int_model.models.adapters.remote_vlm:load"
    speed_only: ClassVar = frozenset({"api_key_env", "timeout_s", "attempts", "concurrency"})
    kind: str = "openai"
    url: str = Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")
    model: str = Field(min_length=1)
    api_key_env: str = Field(default="INT_VLM_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    padded: bool = False
    units: Literal["auto", "unit", "thousand", "pixel"] = "auto"
    max_side: int = Field(default=0, ge=0)
    timeout_s: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    concurrency: int = Field(default=16, ge=1)
    end_token: str = ""


class DetectorRole(Weights):
    """GroundingDINO, OWL-ViT or OWLv2 of transformers.

    Attributes:
        max_batch: most images in one pass.
        template: the query for a name; ``{}`` stands for it. GroundingDINO's is lower-cased and ends in a full stop.
    """

    role: ClassVar = "detector"
    loader: ClassVar = "int_model.models.adapters.detector:load"
    kind: str = "hf"
    max_batch: int = Field(default=4, ge=1)
    template: str = "{}"

    @model_validator(mode="after")
    def _template_names_the_name(self) -> DetectorRole:
        if self.template.count("{}") != 1:
            raise ValueError("template holds {} exactly once, where the name goes")
        return self


class OfficialGroundingDinoRole(DetectorRole):
    """A ``.pth`` file of the original groundingdino package; ``id`` is its path.

    Attributes:
        tokenizer: folder or hub id of BERT's tokenizer, which the file does not hold.
        tokenizer_revision: of a hub id.
    """

    loader: ClassVar = "int_model.models.adapters.originals.grounding_dino:load"
    from_file: ClassVar = True
    kind: str = "groundingdino"
    tokenizer: str = Field(default="IDEA-Research/grounding-dino-tiny", min_length=1)
    tokenizer_revision: str = "a2bb814dd30d776dcf7e30523b00659f4f141c71"


class SegmenterRole(Weights):
    """SAM, SAM 2 or SAM 2.1 of transformers.

    Attributes:
        max_batch: most images encoded, or prompts decoded, in one pass.
    """

    role: ClassVar = "segmenter"
    loader: ClassVar = "int_model.models.adapters.segmenter:load"
    kind: str = "hf"
    max_batch: int = Field(default=8, ge=1)


class OfficialSamRole(SegmenterRole):
    """A ``.pth`` file of the original segment-anything package; ``id`` is its path."""

    loader: ClassVar = "int_model.models.adapters.originals.sam:load"
    from_file: ClassVar = True
    kind: str = "segment-anything"


class OfficialSam2Role(SegmenterRole):
    """A ``.pt`` file of the original sam2 package (SAM 2 or 2.1); ``id`` is its path."""

    loader: ClassVar = "int_model.models.adapters.originals.sam2:load"
    from_file: ClassVar = True
    kind: str = "sam2"


class TextImageRole(Weights):
    """CLIP of transformers.

    Attributes:
        max_batch: most images or texts in one pass.
        surgery_layers: how many last blocks run the second (k-k) path for patch features; 0 gives plain patch tokens.
        text_cache: how many text embeddings are kept.
    """

    role: ClassVar = "text_image"
    loader: ClassVar = "int_model.models.adapters.text_image:load"
    speed_only: ClassVar = Weights.speed_only | {"text_cache"}
    kind: str = "hf"
    max_batch: int = Field(default=32, ge=1)
    surgery_layers: int = Field(default=6, ge=0)
    text_cache: int = Field(default=4096, ge=0)


class OpenClipRole(TextImageRole):
    """A checkpoint of open_clip: a file of tensors, or a folder or hub id with its ``open_clip_config.json``.

    Attributes:
        activation: of the blocks. ``auto`` follows the configuration, and is GELU without one; OpenAI's own weights
            want ``quick_gelu``.
        tokenizer: folder or hub id of the tokenizer. Empty: CLIP's own, or for a model that reads texts with BERT the
            one beside the checkpoint.
        tokenizer_revision: of a hub id.
    """

    loader: ClassVar = "int_model.models.adapters.originals.open_clip:load"
    from_file: ClassVar = None
    kind: str = "open_clip"
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"
    tokenizer: str = ""
    tokenizer_revision: str = "57c216476eefef5ab752ec549e440a49ae4ae5f3"


class ConceptsRole(Weights):
    """SAM 3 of transformers, asked with a text.

    Attributes:
        max_batch: most images in one pass.
    """

    role: ClassVar = "concepts"
    loader: ClassVar = "int_model.models.adapters.concepts:load"
    kind: str = "hf"
    max_batch: int = Field(default=1, ge=1)


class OpenCVRole(RoleSettings):
    """Classical inpainting: no weights, no prompts.

    Attributes:
        method: Telea's fast marching or Bertalmio's Navier-Stokes.
        radius: neighbourhood of a pixel, as a fraction of the image's diagonal (at least 1 pixel).
        max_side: larger images are filled at this longer side and the filling is enlarged; 0 always works at full size.
    """

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_opencv"
    kind: str = "opencv"
    method: Literal["telea", "ns"] = "telea"
    radius: float = Field(default=0.01, gt=0, le=0.1)
    max_side: int = Field(default=512, ge=0)


class MeanColourRole(RoleSettings):
    """Fill with the mean colour of what is left: the cheapest baseline."""

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_mean_colour"
    kind: str = "mean-colour"


class DiffusersRole(Weights):
    """Stable Diffusion inpainting of diffusers.

    Attributes:
        max_batch: most images in one pass.
        size: side of the square the image is squashed to, in pixels (a multiple of 8).
        steps, guidance: denoising steps and guidance scale.
        scheduler: ``unipc`` and ``dpm++`` get by with 20-25 steps; ``ddim`` with 50 is the released code's kind.
        seed: of each image's own generator, so that an image's result does not depend on its batch.
    """

    role: ClassVar = "inpainter"
    loader: ClassVar = "int_model.models.adapters.inpainting:load_diffusers"
    kind: str = "diffusers"
    max_batch: int = Field(default=9, ge=1)
    size: int = Field(default=512, ge=8, multiple_of=8)
    steps: int = Field(default=25, ge=1)
    guidance: float = Field(default=7.5, ge=0)
    scheduler: Literal["unipc", "dpm++", "ddim"] = "unipc"
    seed: int = Field(default=32, ge=0)


SHIPPED_KINDS: dict[tuple[str, str], type[RoleSettings]] = {
    (shipped.role, shipped.model_fields["kind"].default): shipped
    for shipped in (
        VisionLanguageRole,
        OpenAIRole,
        OpenCVRole,
        MeanColourRole,
        DiffusersRole,
        DetectorRole,
        OfficialGroundingDinoRole,
        SegmenterRole,
        OfficialSamRole,
        OfficialSam2Role,
        TextImageRole,
        OpenClipRole,
        ConceptsRole,
    )
}
"""The kinds with a short name, by role and name."""
