"""The command ``bootstrap`` as the command line sees it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import Debug, Device, Overrides, Profile, Strategy, model_options, plain_errors


class ImagesChoice(StrEnum):
    """The values of ``bootstrap --images``."""

    link = "link"
    copy = "copy"
    none = "none"


class CocoChoice(StrEnum):
    """The values of ``bootstrap --coco-segmentation``."""

    rle = "rle"
    polygon = "polygon"


class GeometryChoice(StrEnum):
    """The values of ``bootstrap --ls-regions``."""

    polygon = "polygon"
    brush = "brush"
    bitmask = "bitmask"
    rectangle = "rectangle"


def bootstrap(
    images: Annotated[list[Path], typer.Argument(help="Folders (searched with everything below), or image files.")],
    task: Annotated[
        list[str],
        typer.Option("--task", "-t", metavar="[LABEL=]PROMPT", help="What to look for; may be repeated, a class each."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The data set's folder: new, or from an earlier run.")],
    profile: Profile = "nano",
    strategy: Strategy = "int",
    preset: Annotated[str | None, typer.Option(help="A named configuration of the method, e.g. paper, fast.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one option of the method.")
    ] = None,
    model: Overrides = None,
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that go through the models, and are saved, together.")
    ] = 4,
    formats: Annotated[
        list[str] | None, typer.Option(help="Of coco, yolo, png, label-studio; separated by commas. (default: all)")
    ] = None,
    images_mode: Annotated[
        ImagesChoice, typer.Option("--images", help="Put the images into the data set as links or copies, or not.")
    ] = ImagesChoice.link,
    coco_shape: Annotated[
        CocoChoice, typer.Option("--coco-segmentation", help="rle is exact; polygon for programs without run lengths.")
    ] = CocoChoice.rle,
    geometry: Annotated[
        GeometryChoice, typer.Option("--ls-regions", help="Label Studio: the kind of regions.")
    ] = GeometryChoice.polygon,
    url_prefix: Annotated[
        str | None, typer.Option("--ls-url-prefix", help="Label Studio: the address that serves the images' folder.")
    ] = None,
    local_root: Annotated[
        Path | None,
        typer.Option("--ls-local-root", help="Label Studio: its LOCAL_FILES_DOCUMENT_ROOT. (default: one above)"),
    ] = None,
    val: Annotated[float, typer.Option(help="Share of the images for validation; 0 for none.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the images for testing.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    duplicate_distance: Annotated[
        int, typer.Option(help="Bits (0 to 16) in which hashes of near-duplicates may differ; they share a split.")
    ] = 6,
    keep_folders: Annotated[
        bool, typer.Option("--keep-folders", help="Images of one folder (a patient, a video) share a split, too.")
    ] = False,
    min_score: Annotated[float, typer.Option(help="Leave out objects with a lower score.")] = 0.0,
    negatives: Annotated[bool, typer.Option(help="Whether images in which nothing was found are part of it.")] = True,
    exclude: Annotated[
        Path | None, typer.Option(help="A list of images to leave out, one a line, as the contact sheet saves it.")
    ] = None,
    review: Annotated[bool, typer.Option("--review", help="Write a contact sheet, most doubtful first.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try images that failed before again.")] = False,
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Run no model: write the data set of what is done so far.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Licence of the images, for the data card and COCO.")] = "",
    title: Annotated[str, typer.Option(help="Of the data set. (default: the folder's name)")] = "",
    debug: Debug = False,
) -> None:
    """Make a data set of a folder of images: COCO, YOLO, PNG masks, Label Studio tasks. Stopped, it goes on.

    Exit status: 0 all done, 1 some images failed, 2 wrong usage, 130 interrupted.
    """
    with plain_errors(debug=debug):
        from ml_backend.cli.bootstrap import run
        from ml_backend.cli.bootstrap_options import FORMATS, BootstrapOptions

        options = BootstrapOptions(
            images=tuple(images),
            tasks=tuple(task),
            out=out,
            models=model_options(profile, strategy, preset, changes, model, device),
            batch_size=batch_size,
            formats=tuple(formats) if formats is not None else FORMATS,
            images_mode=images_mode.value,
            coco_shape=coco_shape.value,
            geometry=geometry.value,
            url_prefix=url_prefix,
            local_root=local_root,
            val=val,
            test=test,
            seed=seed,
            duplicate_distance=duplicate_distance,
            keep_folders=keep_folders,
            min_score=min_score,
            negatives=negatives,
            exclude=exclude,
            review=review,
            retry_failed=retry_failed,
            export_only=export_only,
            licence=licence,
            title=title,
        )
        status = run(options)
    if status:
        raise typer.Exit(status)
