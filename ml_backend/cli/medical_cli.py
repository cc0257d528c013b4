"""The commands ``medical prepare`` and ``medical restore`` as the command line sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import Debug, complain, plain_errors

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
        from ml_backend.cli.medical import prepare

        options = ReadOptions(Window.parse(window), axis, every, allow_burned_in)
        prefix = f"/data/local-files/?d={out.resolve().name}/images/" if url_prefix is None else url_prefix
        done = prepare(files, out, options, url_prefix=prefix, tell=complain)
        typer.echo(f"{done.pictures} pictures in {out / 'images'}; {len(done.failed)} files left out")
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
        bool, typer.Option("--predictions", help="Where nobody annotated, take the newest prediction.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Masks from Label Studio back into the pixel grid of the original files. DICOM-SEG files carry the patient."""
    with plain_errors(debug=debug):
        from ml_backend.cli.medical import read_export, read_mapping, restore

        if format_ not in ("native", "png"):
            raise ValueError(f"there is no format '{format_}'; choose native or png")
        known = read_mapping(mapping)
        native = format_ == "native"
        count = restore(read_export(export), known, sources, out, native=native, predictions=predictions, tell=complain)
        typer.echo(f"{count} files in {out}")
