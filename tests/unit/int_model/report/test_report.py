"""The HTML report: it holds what the trace holds, says why a name won, and nothing in it can harm its reader."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PilImage

from int_model.core.types import Box, Patch, Segmentation, Trace
from int_model.report import ReportBuilder, chart, contrast, view
from tests.support.made_up import made_up, nine_patches

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Elements as (tag, attributes), the visible text, and a check that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items())]

    def links(self) -> list[str]:
        return [v or "" for _, a in self.elements for k, v in a.items() if k in ("href", "src", "xlink:href")]


def page_of(*segmentations: tuple[np.ndarray, Segmentation], **options: object) -> Page:
    builder = ReportBuilder("camouflaged animal", [("Profile", "nano")], **options)  # type: ignore[arg-type]
    for i, (image, segmentation) in enumerate(segmentations):
        builder.add(f"{i}.png", image, segmentation, seconds=1.5, detail_file=f"trace/{i}.json")
    return Page(builder.render())


def decoded(uri: str) -> PilImage.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return PilImage.open(io.BytesIO(base64.b64decode(data)))


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}</title><svg/onload=alert(3)>")


def test_hostile_names_are_shown_and_harmless() -> None:
    image, segmentation = made_up(names=HOSTILE)
    builder = ReportBuilder(HOSTILE[0], [(HOSTILE[1], HOSTILE[2])])
    builder.add(HOSTILE[1], image, replace(segmentation, name=HOSTILE[0]))
    builder.add_error("bad\udce9.png", HOSTILE[2])
    html = builder.render()
    page = Page(html)

    assert len(page.scripts) == 1
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert all(link.startswith(("data:image/", "#")) for link in page.links())
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    assert "49" not in [text.strip() for text in page.texts]
    html.encode("utf-8")


def test_the_policy_allows_our_own_script_and_nothing_else() -> None:
    page = page_of(made_up())
    (policy,) = [a["content"] for a in page.all("meta", **{"http-equiv": "Content-Security-Policy"})]
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_stage_is_shown_as_pictures() -> None:
    image, segmentation = made_up()
    page = page_of((image, segmentation))
    trace = segmentation.trace

    (photo,) = page.all("image", id="photo-1")
    with decoded(photo["href"] or "") as picture:
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - image).mean() < 6
    after = page.all("img", alt="after painting over")
    assert len(after) == len(trace.patches) * len(trace.iterations)
    with decoded(after[8]["src"] or "") as picture:
        x1, y1, x2, y2 = trace.patches[8].box.as_tuple()
        assert picture.size == (pytest.approx(112), pytest.approx(112 * (y2 - y1) / (x2 - x1)))
    labels = [a.get("aria-label") for a in page.all("svg")]
    for wanted in ("Boxes and points", "Spatial CLIP map", "Fused soft mask", "Mask", "Region painted over"):
        assert labels.count(wanted) == len(trace.iterations), wanted
    assert labels.count("Running score over the iterations") == 1
    assert sum(str(label).startswith("View ") for label in labels) == len(trace.patches)
    assert len(page.all("path", class_="point plus")) == 2 * 2 * len(trace.iterations)
    boxes = [a for t, a in page.elements if t == "rect" and a["class"] == "box "]
    first = trace.iterations[0].boxes[0].box
    assert {"x": str(first.x1), "width": str(first.width)}.items() <= boxes[2].items()
    assert len(page.all("li", class_="iter won")) == 1


def test_a_drawing_has_the_shape_of_its_view_so_that_nothing_beside_it_shows() -> None:
    drawings = page_of(made_up(200, 330)).all("svg", class_="pic")
    assert len(drawings) > 50
    for drawing in drawings:
        _, _, width, height = map(float, (drawing["viewbox"] or "").split())
        assert float(drawing["width"] or 0) / float(drawing["height"] or 1) == pytest.approx(width / height)


def test_an_object_s_mask_is_the_mask() -> None:
    image, segmentation = made_up()
    item = view.full(1, "x", image, segmentation, 1.0).instances[1]
    with decoded(item.mask) as picture:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3] > 0
    np.testing.assert_array_equal(alpha, segmentation.instances[1].mask)


def test_the_page_says_why_this_name_won() -> None:
    image, segmentation = made_up()
    text = page_of((image, segmentation)).text
    iteration = segmentation.trace.iterations[2]
    k, u = iteration.winner_patch, segmentation.trace.names.index("chameleon")
    before, after = iteration.p_original[k, u], iteration.p_inpainted[k, u]
    assert f"its probability fell from {before:.2f} to {after:.2f} in view {k + 1} (bottom right quarter)" in text
    assert "the largest drop of all views" in text
    assert "chameleon (4), leaf (3), frog (1)" in text
    scores = np.exp(iteration.log_scores)
    mine = [name == "chameleon" for name in iteration.patch_names]
    assert f"views that point to it hold {100 * scores[mine].sum() / scores.sum():.0f} % of the running score" in text
    assert "The mask is that of iteration 3: of the 5, it lies closest to their mean." in text
    assert "The chameleon sits on a branch" in text
    assert "VLM answers 36" in text


def test_a_rival_is_the_best_view_that_settled_on_another_name() -> None:
    _, segmentation = made_up(iterations=1, chosen=1)
    trace = segmentation.trace
    names = ("chameleon", *("leaf" for _ in range(3)), *("frog" for _ in range(4)), "chameleon")
    log_scores = np.log(np.array([0.1, 0.2, 0.3, 0.1, 0.25, 0.1, 0.1, 0.1, 0.9]))
    iteration = replace(trace.iterations[0], patch_names=names, log_scores=log_scores, winner_patch=8)
    trace = replace(trace, iterations=(iteration,))
    rows = contrast.rows_of(trace, iteration, (240, 320), "patch")
    explanation = contrast.explain(trace, iteration, rows, "patch")
    assert explanation is not None
    assert (explanation.name, explanation.rival, explanation.rival_place) == ("chameleon", "leaf", "right half")
    assert explanation.share == pytest.approx((0.1 + 0.9) / 2.15)
    assert explanation.rival_share == pytest.approx((0.2 + 0.3 + 0.1) / 2.15)
    assert [cell.reached for cell in rows[2].cells] == [False, True, False]


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        (-0.1, "lost nothing: its support is in the surroundings."),
        (0.1, "lost only 0.10: the surroundings kept supporting it."),
        (0.4, "lost 0.40: a close second."),
        (0.7, "lost more here, 0.70, but less over all iterations."),
    ],
)
def test_the_rival_is_described_as_it_fared(drop: float, words: str) -> None:
    image, segmentation = made_up(iterations=1, chosen=1)
    trace = segmentation.trace
    (iteration,) = trace.iterations
    rest = {"p_original": np.full((9, 3), 0.8), "p_inpainted": np.full((9, 3), 0.3)}
    contrast_ = np.full(9, 0.5)
    contrast_[1] = drop
    names = ("chameleon", "leaf", *("chameleon",) * 7)
    iteration = replace(iteration, contrast=contrast_, patch_names=names, winner_patch=0, **rest)
    item = image, replace(segmentation, trace=replace(trace, iterations=(iteration,)))
    assert f"The next name, leaf (left half), {words}" in page_of(item).text


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(-400, 0)))
def test_shares_are_the_normalised_scores(log_scores: np.ndarray) -> None:
    parts = contrast.shares(log_scores)
    assert parts.sum() == pytest.approx(1.0)
    weights = np.exp(log_scores.astype(np.longdouble))
    np.testing.assert_allclose(parts, (weights / weights.sum()).astype(float), atol=1e-12)


def test_shares_without_a_finite_score_are_zero() -> None:
    assert contrast.shares(np.array([-np.inf, np.nan])).tolist() == [0.0, 0.0]
    assert contrast.shares(np.array([-np.inf, -3.0])).tolist() == [0.0, 1.0]


def test_places_in_words() -> None:
    words = [contrast.place_of(patch, (240, 320)) for patch in nine_patches(240, 320)]
    assert words == [
        "whole image", "left half", "right half", "top half", "bottom half",
        "top left quarter", "top right quarter", "bottom left quarter", "bottom right quarter",
    ]  # fmt: skip
    strip = Patch(6, 4, Box(80, 0, 160, 100))
    assert contrast.place_of(strip, (100, 320)) == "left quarter"


@pytest.mark.parametrize("key", ["patch", "name"])
def test_who_keeps_the_score(key: contrast.ScoreKey) -> None:
    image, segmentation = made_up(key=key)
    item = view.full(1, "x", image, segmentation, 0.0, key)
    assert item.by_name == (key == "name")
    assert item.chart is not None
    assert len(item.chart.lines) == (9 if key == "patch" else 3)
    assert [line.tone for line in item.chart.lines].count("winner") == 1
    assert item.chart.lines[-1].tone == "winner"


def test_chart_heights_are_shares_and_labels_keep_their_distance() -> None:
    _, segmentation = made_up()
    drawing = chart.running_scores(segmentation.trace, "patch")
    assert drawing is not None
    zero, highest = drawing.y_ticks[0], drawing.y_ticks[-1]
    scale = float(highest.text.removesuffix(" %")) / 100
    assert zero.text == "0 %"
    values = [contrast.shares(step.log_scores) for step in segmentation.trace.iterations]
    assert max(v.max() for v in values) <= scale
    for line in drawing.lines:
        view_index = int(line.title.partition("(view ")[2].partition(")")[0]) - 1
        for (_, y), value in zip(line.points, values, strict=True):
            assert y == pytest.approx(zero.at + (highest.at - zero.at) * value[view_index] / scale)
    heights = sorted(line.label.y for line in drawing.lines if line.label is not None)
    assert len(heights) >= 2
    assert min(np.diff(heights)) >= 14.99


def test_fifty_images_stay_below_the_limit() -> None:
    rng = np.random.default_rng(0)
    _, segmentation = made_up(768, 1024)
    noise = rng.integers(0, 255, (768, 1024, 3), dtype=np.uint8)
    photo = np.asarray(PilImage.fromarray(noise[::4, ::4]).resize((1024, 768), PilImage.Resampling.BICUBIC))
    empty = len(ReportBuilder("x").render())
    builder = ReportBuilder("x")
    builder.add("a.png", photo, segmentation)
    size = len(builder.render()) - empty
    assert size * 50 < 30_000_000
    assert 0.7 * size < view.full(1, "a.png", photo, segmentation, 0.0).nbytes < 1.3 * size


def test_a_full_page_keeps_results_and_points_to_the_details() -> None:
    item = made_up()
    size = view.full(1, "0.png", *item, 0.0).nbytes
    page = page_of(item, item, item, max_bytes=size + 1000)
    assert len(page.all("image", id="photo-1")) == 1
    assert not page.all("image", id="photo-2")
    assert "trace/2.json" in page.text
    assert len(page.all("img", alt="")) == 3, "the contact sheet is complete"


def without_contrast(segmentation: Segmentation) -> Segmentation:
    """As with PSNM off: no inpainting, empty arrays."""
    none = np.zeros((9, 0))
    iterations = tuple(
        replace(
            item, inpaint_mode="none", inpainted=(), p_original=none, p_inpainted=none, contrast=np.full(9, np.nan),
            log_scores=np.full(9, np.nan), similarity=None, points=np.zeros((0, 2)), instance_masks=(), boxes=(),
            point_labels=np.zeros(0, np.int64), selected=np.zeros(0, bool), mask_scores=np.zeros(0), distance=np.nan,
        )
        for item in segmentation.trace.iterations
    )  # fmt: skip
    return replace(segmentation, trace=replace(segmentation.trace, iterations=iterations))


def test_sparse_traces_make_sparse_pages() -> None:
    image, segmentation = made_up()
    page = page_of((image, without_contrast(segmentation)))
    assert "What painting the region over changed" not in page.text
    assert not re.search(r"\bnan\b", page.text)
    assert "Why" not in page.text

    bare = Trace("camouflaged animal", "vlm_box")
    nothing = Segmentation((240, 320), "camouflaged animal", (), 0.0, bare, reason="the model named nothing")
    text = page_of((image, nothing)).text
    assert "the model named nothing" in text
    assert "Nothing found" in text
    assert "Running score" not in text


def test_an_iteration_with_fewer_names_and_a_smaller_frame() -> None:
    image, segmentation = made_up(120, 160)
    first, *rest = segmentation.trace.iterations
    first = replace(first, p_original=first.p_original[:, :2], p_inpainted=first.p_inpainted[:, :2])
    trace = replace(segmentation.trace, iterations=(first, *rest), size=(120, 160))
    large = np.repeat(np.repeat(image, 2, 0), 2, 1)
    instances = tuple(
        replace(i, mask=np.repeat(np.repeat(i.mask, 2, 0), 2, 1), box=i.box.scale(2, 2)) for i in segmentation.instances
    )
    page = page_of((large, replace(segmentation, size=(240, 320), instances=instances, trace=trace)))
    (result,) = [a for a in page.all("svg") if str(a.get("aria-label")).startswith("Result")]
    assert result["viewbox"] == "0 0 320 240"
    views = [a["viewbox"] for a in page.all("svg") if str(a.get("aria-label")).startswith("View 1:")]
    assert views == ["0.0 0.0 160.0 120.0"]
    assert "scale(2.0 2.0)" in [a.get("transform") for a in page.all("use")]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    segmentation = Segmentation(size, "x", (), 0.0, Trace("x", "int"), reason="too small")
    assert re.search(r"data:image/(png|jpeg)", view.full(1, "x", image, segmentation, 0.0).thumb)
