"""``int-backend models``: the versions that a project learned, and which of them serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_backend.cli.options import Debug, plain_errors
from ml_backend.cli.runs import console, print_json

if TYPE_CHECKING:
    from ml_backend.learning.versions import Version, Versions
    from ml_backend.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What a project learned: look at versions, promote one, roll back.")

ProjectId = Annotated[int, typer.Option("--project", min=1, help="The project's id in Label Studio.")]
Which = Annotated[str, typer.Argument(metavar="VERSION", help="v3, the beginning of its id, or base.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]


@app.command("list")
def list_versions(project: ProjectId, as_json: AsJson = False, debug: Debug = False) -> None:
    """A project's versions, newest first; the one that serves is marked."""
    with plain_errors(debug=debug), _opened() as (versions, _):
        found = [*versions.of_project(project), versions.show(project, "base")]
        if as_json:
            print_json([_plain(version) for version in found])
            return
        from rich.table import Table

        table = Table("version", "serves", "gate", "arm", "images", "IoU before", "IoU after", "made", "id")
        for version in found:
            before, after = _means(version)
            table.add_row(
                version.name,
                "yes" if version.serving else "",
                "" if not version.number else "accepted" if version.accepted else "refused",
                version.manifest.arm,
                str(version.manifest.images or ""),
                before,
                after,
                f"{version.created_at:%Y-%m-%d %H:%M}" if version.number else "",
                version.id,
            )
        console().print(table)


@app.command()
def show(project: ProjectId, which: Which, as_json: AsJson = False, debug: Debug = False) -> None:
    """One version: what the gate said, every arm's figures, the worst images, and when it served."""
    with plain_errors(debug=debug), _opened() as (versions, _):
        version = versions.show(project, which)
        history = [entry for entry in versions.history(project) if version.id in (entry.adapter, entry.former)]
        if as_json:
            changes = [{**_change(entry), "at": entry.at.isoformat(timespec="seconds")} for entry in history]
            print_json({**_plain(version), "report": dict(version.report), "history": changes})
            return
        out = console()
        for line in _lines(version, versions.names(project, version.id)):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        for entry in history:
            what = "began to serve" if entry.adapter == version.id else "ceased to serve"
            out.print(f"  {entry.at:%Y-%m-%d %H:%M} {what} ({entry.how}, {entry.who})", markup=False, highlight=False)


@app.command()
def promote(
    project: ProjectId,
    which: Which,
    force: Annotated[bool, typer.Option("--force", help="Also a version that the gate refused.")] = False,
    debug: Debug = False,
) -> None:
    """Let a version serve from the next request on; `base` stands for the models as they are."""
    with plain_errors(debug=debug), _opened() as (versions, settings):
        from int_model.models.identity import segmenter_fingerprint

        base = segmenter_fingerprint(settings.models.read_profile())
        _note(versions, "promote", f"project {project}: {which}")
        version = versions.promote(project, which, who=_who(), base=base, force=force)
        typer.echo(f"{version.name} serves project {project} from the next request on")


@app.command()
def rollback(project: ProjectId, debug: Debug = False) -> None:
    """Let serve again what served before; no training, no restart. Annotations that people made stay."""
    with plain_errors(debug=debug), _opened() as (versions, _):
        bad = versions.serving(project)
        _note(versions, "rollback", f"project {project}: from {bad.name}")
        version = versions.rollback(project, who=_who())
        typer.echo(f"{version.name} serves project {project} again, instead of {bad.name}")
        typer.echo(f"its predictions: int-backend models predictions --project {project} {bad.name} [--remove]")


@app.command()
def predictions(
    project: ProjectId,
    which: Which,
    remove: Annotated[bool, typer.Option("--remove", help="Delete them; those that people used stay.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the predictions of a version in Label Studio, or delete them."""
    with plain_errors(debug=debug), _opened() as (versions, settings):
        from ml_backend.context import label_studio_client
        from ml_backend.learning.predictions import predictions_of, remove_predictions
        from ml_backend.runs.manager import NO_LABEL_STUDIO, RunsError

        version = versions.show(project, which)
        if not version.number:
            raise RunsError("the predictions of the base models are not kept apart; name a version: v1, v2")
        client = label_studio_client(settings)
        if client is None:
            raise RunsError(NO_LABEL_STUDIO)
        with client:
            found = list(predictions_of(client, project, versions.names(project, version.id)))
            if remove:
                _note(versions, "remove predictions", f"project {project}: of {version.name}")
            removed = remove_predictions(client, found) if remove else 0
        if as_json:
            rows = [{"task": one.task, "prediction": one.id, "model_version": one.version, "used": one.used}
                    for one in found]  # fmt: skip
            print_json({"predictions": rows, "removed": removed})
            return
        for one in found:
            typer.echo(f"task {one.task}: prediction {one.id} of {one.version}" + (", used" if one.used else ""))
        used = sum(one.used for one in found)
        typer.echo(f"{len(found)} predictions of {version.name}, {used} of them used by annotations; {removed} removed")


def _plain(version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "id": version.id,
        "serving": version.serving,
        "accepted": version.accepted,
        "parent": version.parent,
        "run": version.run,
        "arm": version.manifest.arm,
        "images": version.manifest.images,
        "base": version.manifest.base,
        "data": version.manifest.data,
        "settings": dict(version.manifest.settings),
        "libraries": dict(version.manifest.libraries),
        "figures": dict(version.manifest.figures),
        "created_at": version.created_at.isoformat(timespec="seconds"),
    }


def _change(entry: Any) -> dict[str, str]:
    return {"adapter": entry.adapter, "former": entry.former, "how": entry.how, "who": entry.who}


def _means(version: Version) -> tuple[str, str]:
    """Mean IoU with given prompts of the base models and of the version's arm, on held-out images."""
    table = version.manifest.figures.get("table", {})
    rows = (table.get("base"), table.get(version.manifest.arm) if version.number else None)
    before, after = (f"{row['mean']:.3f}" if row else "" for row in rows)
    return before, after


def _lines(version: Version, names: list[str]) -> Iterator[str]:
    yield f"{version.name} {version.id}".strip() + (", serves now" if version.serving else "")
    if not version.number:
        yield "  the models as they are; always there"
        return
    manifest, figures = version.manifest, version.manifest.figures
    yield f"  learned   {manifest.arm} from {manifest.images} images, over {version.parent or 'base'}"
    yield f"  gate      {'accepted' if version.accepted else 'refused: ' + '; '.join(version.reasons)}"
    if gain := figures.get("gain"):
        yield f"  gain      {gain['value']:+.3f} IoU with given prompts, at least {gain['lower']:+.3f}"
    if both := figures.get("end_to_end"):
        yield f"  own prompts  IoU {both['parent']:.3f} before, {both['candidate']:.3f} after"
    for arm, row in figures.get("table", {}).items():
        yield f"  {arm:10} click {row['click']:.3f}, box {row['box']:.3f}, mean {row['mean']:.3f}"
    for entry in list(version.report.get("worst", ()))[:5]:
        yield f"  worst     {entry['image']}: IoU {entry['iou']:.3f}"
    for name in names:
        yield f"  version string  {name}"


def _who() -> str:
    from ml_backend.storage.audit import operator

    return f"{operator()[0]}, command line"


def _note(versions: Versions, action: str, what: str) -> None:
    """Write into the audit log who does it, before it is done."""
    from ml_backend.storage.audit import Audit, operator

    Audit(versions.database).note(*operator(), action, what)


@contextmanager
def _opened() -> Iterator[tuple[Versions, Settings]]:
    from ml_backend.learning.versions import Versions
    from ml_backend.settings import load_settings
    from ml_backend.storage.database import Database

    settings = load_settings({})
    database = Database.of(settings)
    try:
        yield Versions(database), settings
    finally:
        database.close()
