"""What messages show of an address: enough to find the image, nothing that is secret."""

from __future__ import annotations

import pytest

from ml_backend.fetching.errors import FetchError, short_address, too_long

LONG = "https://images.example/" + "a" * 97


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://images.example/a/1.png", "https://images.example/a/1.png"),
        ("https://images.example/a/1.png?X-Signature=secret#page", "https://images.example/a/1.png"),
        ("https://images.example/a/1.png#secret", "https://images.example/a/1.png"),
        ("https://me:secret@images.example/a/1.png", "https://images.example/a/1.png"),
        ("https://images.example/a@b/1.png", "https://images.example/a@b/1.png"),
        ("/data/upload/1/a@b.png", "/data/upload/1/a@b.png"),
        ("s3://bucket/a.png", "s3://bucket/a.png"),
        ("data:image/png;base64,secret", "the data: address"),
        (LONG, LONG),
        (LONG + "b", LONG[:117] + "..."),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert short_address(address) == shown
    assert len(LONG) == 120


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://images.example/jane-doe/1.PNG?who=jane", "the image at https://images.example/....png"),
        ("https://jane:secret@images.example/jane.tar.gz", "the image at https://images.example/....gz"),
        ("https://images.example:8443/jane.doe", "the image at https://images.example:8443/..."),
        ("https://images.example/png", "the image at https://images.example/....png"),
        ("/data/upload/7/jane.dcm", "the image at /....dcm"),
        ("jane", "the image at /..."),
        ("data:image/png;base64,jane", "the data: address"),
    ],
)
def test_with_names_hidden_only_the_host_and_the_kind_are_left(address: str, shown: str) -> None:
    assert short_address(address, hide=True) == shown


def test_an_error_says_its_reason_and_is_for_good_unless_it_says_otherwise() -> None:
    assert str(FetchError("no such file")) == "no such file"
    assert not FetchError("no such file").transient
    assert FetchError("nobody answers", transient=True).transient


def test_a_file_that_is_too_long_names_the_setting() -> None:
    assert too_long("the image", 5) == "the image has more than 5 bytes; make it smaller or raise INT_MAX_IMAGE_BYTES"
