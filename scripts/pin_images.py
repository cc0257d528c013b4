"""Pin the container images by content: append the digest of each tag in Dockerfile and docker-compose.yml.

    python scripts/pin_images.py [FOLDER]

Asks the registries with ``docker buildx imagetools inspect``, so it needs Docker and the network. What is pinned is
looked up anew by its tag. Writes nothing unless every digest is known. Images that are built here stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FILES = ("Dockerfile", "docker-compose.yml")
_OURS = "int-backend:"
_NAMED = re.compile(r"^(FROM |\s+image: (?:&\S+ )?)([\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?(?=\s|$)", re.MULTILINE)
_DIGEST = re.compile(r"^Digest:\s+(sha256:[0-9a-f]{64})$", re.MULTILINE)


def digest(image: str) -> str:
    """Of the image that a tag means today, for all platforms. Exits with a sentence if it cannot be had."""
    command = ["docker", "buildx", "imagetools", "inspect", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    except FileNotFoundError:
        sys.exit("docker is not there; run this where it is")
    found = _DIGEST.search(done.stdout)  # the first one is the list's of all platforms; theirs follow
    if done.returncode or found is None:
        told = (done.stderr.strip().splitlines() or ["docker names none"])[-1]
        sys.exit(f"the digest of {image} cannot be had: {told}; nothing was written")
    return found[1]


def main() -> None:
    """Pin all of them."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else __file__ + "/../..").resolve()
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    images = {found[2] for text in texts.values() for found in _NAMED.finditer(text)}
    digests = {image: digest(image) for image in sorted(images) if not image.startswith(_OURS)}
    for name, text in texts.items():
        pinned = _NAMED.sub(
            lambda found: f"{found[1]}{found[2]}@{digests[found[2]]}" if found[2] in digests else found[0], text
        )
        (folder / name).write_text(pinned, encoding="utf-8")
    for image, known in digests.items():
        print(f"{image}@{known}")


if __name__ == "__main__":
    main()
