"""``int-backend bootstrap``, declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from ml_backend.cli.options import CommandOptions, ModelArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapOptions(CommandOptions):
    """What ``int-backend bootstrap`` can be asked for."""

    images: Annotated[
        tuple[Path, ...], typer.Argument(help="Folders (searched with everything below), or image files.")
    ]
    tasks: Annotated[
        tuple[str, ...],
        typer.Option("--task", "-t", metavar="[LABEL=]PROMPT", help="What to look for; may be repeated, a class each."),
    ]
    out: Annotated[Path, typer.Option("--out", "-o", help="The data set's folder: new, or from an earlier run.")]
    models: ModelArguments = field(default_factory=ModelArguments)
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that go through the models, and are saved, together.")
    ] = 4
    formats: Annotated[
        tuple[str, ...], typer.Option(help="Of coco, yolo, png, label-studio; separated by commas. (default: all)")
    ] = ()
    images_mode: Annotated[
        Literal["link", "copy", "none"],
        typer.Option(
            "--images",
            help="Put the images into the data set as hard links (copies on another disk), as copies, or not.",
        ),
    ] = "link"
    coco_shape: Annotated[
        Literal["rle", "polygon"],
        typer.Option("--coco-segmentation", help="rle is exact; polygon for programs without run lengths."),
    ] = "rle"
    geometry: Annotated[
        Literal["polygon", "brush", "bitmask", "rectangle"],
        typer.Option("--ls-regions", help="Label Studio: the kind of regions."),
    ] = "polygon"
    url_prefix: Annotated[
        str | None, typer.Option("--ls-url-prefix", help="Label Studio: the address that serves the images' folder.")
    ] = None
    local_root: Annotated[
        Path | None,
        typer.Option("--ls-local-root", help="Label Studio: its LOCAL_FILES_DOCUMENT_ROOT. (default: one above)"),
    ] = None
    val: Annotated[float, typer.Option(help="Share of the images for validation; 0 for none.")] = 0.2
    test: Annotated[float, typer.Option(help="Share of the images for testing.")] = 0.0
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0
    duplicate_distance: Annotated[
        int, typer.Option(help="Bits (0 to 16) in which hashes of near-duplicates may differ; they share a split.")
    ] = 6
    keep_folders: Annotated[
        bool, typer.Option("--keep-folders", help="Images of one folder (a patient, a video) share a split, too.")
    ] = False
    min_score: Annotated[float, typer.Option(help="Leave out objects with a lower score.")] = 0.0
    negatives: Annotated[bool, typer.Option(help="Whether images in which nothing was found are part of it.")] = True
    exclude: Annotated[
        Path | None, typer.Option(help="A list of images to leave out, one a line, as the contact sheet saves it.")
    ] = None
    review: Annotated[bool, typer.Option("--review", help="Write a contact sheet, most doubtful first.")] = False
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try images that failed before again.")] = False
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Run no model: write the data set of what is done so far.")
    ] = False
    licence: Annotated[str, typer.Option(help="Licence of the images, for the data card and COCO.")] = ""
    title: Annotated[str, typer.Option(help="Of the data set. (default: the folder's name)")] = ""


def bootstrap(options: BootstrapOptions) -> int:
    """Make a data set of a folder of images: COCO, YOLO, PNG masks, Label Studio tasks. Stopped, it goes on.

    Exit status: 0 all done, 1 some images failed, 2 wrong usage, 130 interrupted.
    """
    from ml_backend.cli.bootstrap import run

    return run(options)
