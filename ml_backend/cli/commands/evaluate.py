"""``int-backend evaluate``, declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ml_backend.cli.options import AllAnnotations, CommandOptions, SharedModelArguments


def listed(text: str) -> tuple[str, ...]:
    """``"a, b"`` as ``("a", "b")``. Raises ``ValueError`` if an entry is missing."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(f"'{text}' has an empty entry; separate names by single commas")
    return parts


def whole_numbers(text: str) -> tuple[int, ...]:
    """``"1,2,3"`` as numbers, each once. Raises ``ValueError`` for anything else."""
    parts = listed(text)
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise ValueError(f"'{text}' is not a list of different whole numbers like 1,2,3")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(CommandOptions):
    """What ``int-backend evaluate`` can be asked for. Exactly one kind of truth: ``masks``, a file, ``nano`` scenes."""

    images: Annotated[Path | None, typer.Argument(help="Folder of the images.")] = None
    masks: Annotated[Path | None, typer.Argument(help="Folder of their masks, named like the images.")] = None
    coco: Annotated[Path | None, typer.Option(help="The truth as a COCO instance file, in place of MASKS.")] = None
    label_studio: Annotated[
        Path | None, typer.Option(help="The truth as a JSON export of Label Studio, in place of MASKS.")
    ] = None
    nano: Annotated[
        int | None, typer.Option(min=1, help="So many held-out scenes of a bundled miniature world, of each seed.")
    ] = None
    world: Annotated[
        str, typer.Option(help="The world of the drawn scenes: home, mosaic, habits, woven, or drift (held out).")
    ] = "home"
    cells: Annotated[
        bool,
        typer.Option(
            "--cells", help="So many scenes of every cell of camouflage x clutter x place; also writes cells.md."
        ),
    ] = False
    task: Annotated[str | None, typer.Option("--task", "-t", help="What to look for: 'camouflaged animal'.")] = None
    labels: Annotated[
        tuple[str, ...], typer.Option("--label", help="Only objects with this COCO category or label are sought.")
    ] = ()
    all_annotations: AllAnnotations = False
    strategies: Annotated[
        tuple[str, ...] | None,
        typer.Option(
            parser=listed,
            metavar="NAMES",
            help="Separated by commas. (default: int,vlm_box,grounded_sam; with variants: int)",
        ),
    ] = None
    variants: Annotated[
        tuple[str, ...],
        typer.Option(
            "--variant", metavar="NAME:KEY=VALUE", help="A changed configuration; the same NAME again adds a change."
        ),
    ] = ()
    variants_file: Annotated[
        Path | None, typer.Option("--variants", help="Variants as a TOML file, one table each.")
    ] = None
    ablations: Annotated[
        tuple[str, ...],
        typer.Option(
            "--ablation", help="A table of the paper: 3a iterations, 3b scales, 3c modules, or all; may be given again."
        ),
    ] = ()
    share_calls: Annotated[
        bool, typer.Option("--share-calls", help="Ask the models each question once for all variants: much faster.")
    ] = False
    seeds: Annotated[
        tuple[int, ...],
        typer.Option(
            parser=whole_numbers, metavar="NUMBERS", help="Separated by commas: of the scenes, or of the models."
        ),
    ] = ()
    protocol: Annotated[str, typer.Option(help="How masks are scored: native, mask or promac.")] = "native"
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None
    part: Annotated[str | None, typer.Option(help="Only a part, e.g. 1/2, so that two processes can share.")] = None
    models: SharedModelArguments = field(default_factory=SharedModelArguments)
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results and the report go.")] = Path("int-evaluation")
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the models together.")] = 4
    pages: Annotated[bool, typer.Option(help="Whether to keep a page per result that shows how it came about.")] = True
    rounds: Annotated[int, typer.Option(min=1, help="Resamplings of the bootstrap.")] = 1000


def evaluate(options: EvaluateOptions) -> int:
    """Compare strategies on images with known masks: metrics, seconds, calls, memory, one report and one JSON.

    Options of --set apply to the variants whose strategy has them. Finished results are kept, so a stopped run goes on.
    Exit status: 0 all done, 1 some failed, 2 wrong usage.
    """
    from ml_backend.cli.evaluate import run

    return run(options)
