"""What of the options of ``int-backend bootstrap`` makes sense."""

from __future__ import annotations

from collections.abc import Sequence

from int_model.core.task_prompt import TaskPrompt
from int_model.datasets.contents import Selection
from int_model.io.outputs import display_name
from ml_backend.cli.commands.bootstrap import BootstrapOptions
from ml_backend.labelstudio.task_files import url_address

FORMATS = ("coco", "yolo", "png", "label-studio")


def parse_tasks(tasks: Sequence[str]) -> list[tuple[str, TaskPrompt]]:
    """``["Polyp=small polyp", "skin lesion"]`` as labels and prompts; a prompt alone is its own label.

    Raises ``ValueError`` without a task, for an empty label or prompt, and for two equal labels.
    """
    found: list[tuple[str, TaskPrompt]] = []
    for text in tasks:
        label, equals, prompt = text.partition("=")
        task = TaskPrompt(prompt if equals else text)
        name = " ".join(label.split()) if equals else task.text
        if not name:
            raise ValueError(f"'{text}' has no label before the equals sign; write LABEL=PROMPT")
        if name.casefold() in {taken.casefold() for taken, _ in found}:
            raise ValueError(f"the label '{name}' is given twice; give each task its own, as in Name='the prompt'")
        found.append((name, task))
    if not found:
        raise ValueError("there is no task; say what to look for: --task 'camouflaged animal'")
    return found


def parse_formats(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of formats, several in one text if separated by commas; no text means all.

    Raises ``ValueError`` for an unknown name.
    """
    if not texts:
        return FORMATS
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"there is no format '{unknown[0]}'" if unknown else "--formats is empty"
        raise ValueError(f"{what}; choose of: {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def check_formats(options: BootstrapOptions) -> tuple[str, ...]:
    """The formats that are asked for. Raises ``ValueError`` for unknown ones, and options that do not go together."""
    formats = parse_formats(options.formats)
    if "yolo" in formats and options.images_mode == "none":
        raise ValueError("YOLO finds labels beside images/; use --images link or copy, or leave yolo out of --formats")
    if options.url_prefix is not None and options.local_root is not None:
        raise ValueError("give --ls-url-prefix or --ls-local-root, not both")
    if options.url_prefix is not None:
        url_address(options.url_prefix)
    return formats


def selection_of(options: BootstrapOptions) -> Selection:
    """What of the results goes into the data set. Raises ``ValueError`` for shares, scores or lists out of range."""
    exclude: frozenset[str] = frozenset()
    if options.exclude is not None:
        try:
            lines = options.exclude.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            name = display_name(options.exclude)
            raise ValueError(
                f"the list '{name}' cannot be read ({error.strerror or error}); check --exclude"
            ) from error
        exclude = frozenset(line for line in lines if line.strip())
    shares = {name: share for name, share in (("val", options.val), ("test", options.test)) if share}
    if any(not 0.0 < share < 1.0 for share in shares.values()) or sum(shares.values()) >= 1.0:
        raise ValueError("--val and --test are shares between 0 and 1, together below 1")
    if not 0.0 <= options.min_score <= 1.0:
        raise ValueError(f"--min-score lies between 0 and 1, not {options.min_score}")
    if not 0 <= options.duplicate_distance <= 16:
        raise ValueError(f"--duplicate-distance is 0 to 16 bits, not {options.duplicate_distance}")
    return Selection(
        min_score=options.min_score,
        negatives=options.negatives,
        exclude=exclude,
        shares=shares,
        seed=options.seed,
        max_distance=options.duplicate_distance,
        keep_folders=options.keep_folders,
    )
