"""``int-backend medical``: medical files to pictures for Label Studio, and the masks back to the files' own grid."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_backend.cli.options import AllAnnotations, Debug, complain, plain_errors

if TYPE_CHECKING:
    from int_model.core.types import Mask
    from int_model.io.medical.restore import PictureMasks
    from int_model.io.medical.sources import ReadOptions, Source
    from ml_backend.labelstudio.exports import ExportedTask

medical = typer.Typer(no_args_is_help=True, help="DICOM, NIfTI and 16-bit TIFF: to Label Studio and back.")


@medical.command("prepare")
def medical_prepare(
    files: Annotated[list[Path], typer.Argument(help="Files or folders; folders with everything below.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, tasks.json and mapping.json.")],
    window: Annotated[str, typer.Option(help="CENTRE,WIDTH as in 40,400, or auto: what the file says.")] = "auto",
    axis: Annotated[int, typer.Option(help="Cut volumes along 0 sagittal, 1 coronal or 2 axial.")] = 2,
    every: Annotated[int, typer.Option(help="Take every n-th slice of a volume.")] = 1,
    url_prefix: Annotated[
        str | None, typer.Option(help="What goes before a picture's file name in tasks.json. (default: local files)")
    ] = None,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Take images that say that text is burned into their pixels.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Pictures of medical files for Label Studio, and the way back. Nothing about patients is written."""
    with plain_errors(debug=debug):
        from int_model.io.medical.sources import ReadOptions
        from int_model.io.medical.windows import Window

        options = ReadOptions(Window.parse(window), axis, every, allow_burned_in)
        prefix = f"/data/local-files/?d={out.resolve().name}/images/" if url_prefix is None else url_prefix
        pictures, failed = prepare(files, out, options, url_prefix=prefix, tell=complain)
        typer.echo(f"{pictures} pictures in {out / 'images'}; {failed} files left out")
        typer.echo(f"import {out / 'tasks.json'} into Label Studio; keep {out / 'mapping.json'} for the way back")


@medical.command("restore")
def medical_restore(
    export: Annotated[Path, typer.Argument(help="Label Studio's export, format JSON.")],
    mapping: Annotated[Path, typer.Option(help="The mapping.json of 'medical prepare'.")],
    sources: Annotated[list[Path], typer.Option(help="Where the original files are; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks.")],
    format_: Annotated[
        str, typer.Option("--format", help="native (DICOM-SEG, NIfTI, TIFF) or png (label maps).")
    ] = "native",
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Where there is no annotation, take the newest prediction.")
    ] = False,
    all_annotations: AllAnnotations = False,
    debug: Debug = False,
) -> None:
    """Masks from Label Studio back into the pixel grid of the original files. DICOM-SEG files carry the patient."""
    with plain_errors(debug=debug):
        from int_model.io.medical.restore import restore
        from int_model.io.outputs import prepare_folder
        from ml_backend.labelstudio.exports import read_tasks

        if format_ not in ("native", "png"):
            raise ValueError(f"there is no format '{format_}'; choose native or png")
        known = _mapping(mapping)
        prepare_folder(out)
        tasks = read_tasks(export)
        answers = masks_of_export(tasks, known, predictions=predictions, every=all_annotations, tell=complain)
        count = restore(answers, known, sources, out, native=format_ == "native", tell=complain)
        typer.echo(f"{count} files in {out}")


def prepare(
    places: Sequence[Path], out: Path, options: ReadOptions, *, url_prefix: str, tell: Callable[[str], None]
) -> tuple[int, int]:
    """Write ``images/*.png``, ``tasks.json`` for Label Studio's import, and ``mapping.json``, the way back.

    None of them holds a file name, a path or anything that a file says about a patient. Returns how many pictures were
    written, and how many files were left out; ``tell`` gets a line for each of those.

    Raises ``ValueError`` for a place that does not exist, an ``out`` that cannot be written to, or if there is no
    picture at all.
    """
    from PIL import Image as PilImage

    from int_model.io.errors import ImageError
    from int_model.io.medical.sources import files_below, mapping_to_json, read_pictures
    from int_model.io.outputs import prepare_folder, write_atomic

    images = out / "images"
    prepare_folder(images)
    sources: dict[str, Source] = {}
    failed = 0
    for path in files_below([place for place in places if place.resolve() != out.resolve()]):
        if out.resolve() in Path(os.path.realpath(path)).parents:  # unlike Path.resolve it bears links in a circle
            continue
        try:
            for source, image in read_pictures(path, options, note=functools.partial(_note, tell, path.name)):
                if source.id not in sources:
                    PilImage.fromarray(image).save(images / f"{source.id}.png", optimize=True)
                    sources[source.id] = source
        except ImageError as error:
            failed += 1
            tell(f"left out: {path.name}: {error}")
    if not sources:
        raise ValueError("none of the files holds a picture that can be used")
    tasks = [{"data": {"image": f"{url_prefix}{name}.png", "picture": name}} for name in sources]
    write_atomic(out / "tasks.json", json.dumps(tasks, indent=1).encode() + b"\n")
    write_atomic(out / "mapping.json", mapping_to_json(list(sources.values())).encode())
    return len(sources), failed


def _note(tell: Callable[[str], None], name: str, told: str) -> None:
    tell(f"{name}: {told}")


def masks_of_export(
    tasks: Iterable[ExportedTask],
    known: Mapping[str, Source],
    *,
    predictions: bool,
    every: bool,
    tell: Callable[[str], None],
) -> dict[str, PictureMasks]:
    """The masks of an export by the picture's id; only of ``known`` pictures.

    Which annotation counts is the rule of `ml_backend.labelstudio.exports`. Tasks without one are left out, or with
    ``predictions`` taken from their newest prediction. Regions without a label count as ``object``. ``tell`` gets a
    line for everything else that is left out: regions that are no areas, tasks of other pictures.
    """
    from int_model.io.medical.restore import PictureMasks

    found: dict[str, PictureMasks] = {}
    strange = 0
    for task in tasks:
        name = next((path.stem for path in task.files() if path.stem in known), "")
        annotations = task.annotations(every=every)
        offered = task.newest_prediction() if predictions and not annotations else None
        answers = annotations if offered is None else [offered]
        strange += not name and bool(answers)
        if not name or not answers:
            continue
        size = (known[name].height, known[name].width)
        masks: dict[str, Mask] = {}
        try:
            for area in (area for answer in answers for area in task.areas(answer, size, tell)):
                for label in area.labels or ("object",):
                    masks[label] = area.mask | masks.get(label, False)
        except ValueError as error:
            tell(f"left out: {task.name}: {error}")
            continue
        if name in found:
            tell(f"{task.name} shows picture {name} like an earlier task, whose masks are left out")
        found[name] = PictureMasks(masks, reviewed=bool(annotations))
    if strange:
        tell(f"{strange} annotated tasks show no picture of this mapping; left out")
    return found


def _mapping(path: Path) -> dict[str, Source]:
    """The mapping in a file. Raises ``ValueError`` if it cannot be read, or is none."""
    from int_model.io.medical.sources import mapping_from_json

    try:
        return mapping_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the mapping {path} cannot be read: {error}") from None
