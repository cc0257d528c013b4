"""Which devices ``--devices`` stands for."""

from __future__ import annotations

import pytest
import torch

from int_model.models.device import list_devices


def test_names_are_kept_in_order_and_may_come_twice() -> None:
    assert list_devices(" cpu, cpu ,") == ["cpu", "cpu"]


@pytest.mark.parametrize("names", ["", " , ", "cpu,foo", "cuda:99"])
def test_what_is_not_there_is_refused(names: str) -> None:
    with pytest.raises(ValueError, match=r"no device|not a device"):
        list_devices(names)


def test_all_is_every_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]


def test_all_without_cards_is_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert list_devices("all") == ["cpu"]
