"""Medical files to Label Studio's pictures and back, through the command line."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from typer.testing import CliRunner, Result

from int_model.io.medical.dicom import decode_dicom
from int_model.io.medical.restore import to_native
from int_model.io.medical.sources import Source, mapping_from_json, mapping_to_json
from ml_backend.cli.main import app
from ml_backend.cli.medical import masks_of_export
from ml_backend.labelstudio.exports import ExportedTask
from ml_backend.labelstudio.regions.bitmask import encode_bitmask
from ml_backend.labelstudio.regions.rle import encode_mask
from tests.unit.int_model.io.medical.files import SECRETS, ct, nifti


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["medical", *map(str, args)])


def region(mask: np.ndarray, label: str, kind: str = "brush", key: str = "r1") -> dict[str, Any]:
    height, width = mask.shape
    frame = {"id": key, "original_height": height, "original_width": width}
    if kind == "bitmask":
        value: dict[str, Any] = {"imageDataURL": encode_bitmask(mask), "bitmasklabels": [label]}
        return frame | {"type": "bitmasklabels", "value": value}
    return frame | {"type": "brushlabels", "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]}}


def annotated(task: dict[str, Any], regions: list[dict[str, Any]], where: str = "annotations") -> dict[str, Any]:
    return task | {where: [{"result": regions, "updated_at": "2026-01-02", "created_at": "2026-01-02"}]}


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A folder whose file names and contents are full of secrets."""
    folder = tmp_path / "Doe^Jane"
    (folder / "PID-4711").mkdir(parents=True)
    rng = np.random.default_rng(0)
    (folder / "PID-4711" / "IM0001").write_bytes(ct(rng.integers(900, 1200, (33, 47)).astype(np.int16)))
    scan = rng.integers(0, 4000, (5, 6, 7)).astype(np.int16)
    (folder / "brain_of_Doe^Jane.nii").write_bytes(nifti(scan, np.diag([-2.0, 2.0, 3.0, 1.0])))
    tifffile.imwrite(folder / "slide.tif", rng.integers(0, 4000, (20, 30)).astype(np.uint16))
    (folder / "notes.txt").write_text("Doe^Jane is a fine patient")
    return folder


def test_what_cannot_be_read_is_a_line_each_and_the_rest_goes_on(
    clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clinic / "locked").mkdir()
    (clinic / "loop.dcm").symlink_to("loop.dcm")
    (clinic / "again").symlink_to(clinic)
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:  # root may read everything
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = run("prepare", clinic, "--out", tmp_path / "out")
    assert "3 files left out" in found.output
    for name, why in (("locked", "the folder cannot be read (Permission denied)"), ("loop.dcm", "leads to no file")):
        (line,) = [line for line in found.output.splitlines() if name in line]
        assert line.startswith(f"int-backend: left out: {name}: ")
        assert why in line
    assert len(list((tmp_path / "out" / "images").iterdir())) > 2


def test_there_and_back_again(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = run("prepare", clinic, "--out", out)
    assert prepared.exit_code == 0, prepared.output
    assert "9 pictures" in prepared.output
    assert "1 files left out" in prepared.output
    tasks = json.loads((out / "tasks.json").read_text())
    mapping = mapping_from_json((out / "mapping.json").read_text())
    truth: dict[str, np.ndarray] = {}
    export = []
    for i, task in enumerate(tasks):
        name = task["data"]["picture"]
        with PilImage.open(out / "images" / f"{name}.png") as picture:
            size = (picture.height, picture.width)
        assert size == (mapping[name].height, mapping[name].width)
        truth[name] = np.random.default_rng(i).random(size) < 0.3
        export.append(annotated(task, [region(truth[name], "lesion", "bitmask" if i % 2 else "brush")]))
    (out / "export.json").write_text(json.dumps(export))

    back = tmp_path / "back"
    restored = run(
        "restore", out / "export.json", "--mapping", out / "mapping.json", "--sources", clinic, "--out", back
    )
    assert restored.exit_code == 0, restored.output
    assert json.loads((back / "labels.json").read_text()) == {"lesion": 1}
    kinds = {source.kind: source for source in mapping.values()}

    seg = highdicom.seg.segread(back / f"{kinds['dicom'].id}.seg.dcm")
    original = pydicom.dcmread(clinic / "PID-4711" / "IM0001")
    frames = seg.get_pixels_by_source_instance([original.SOPInstanceUID], combine_segments=True)
    assert np.array_equal(frames[0] == 1, truth[kinds["dicom"].id])
    assert seg.PatientID == original.PatientID
    assert seg.SegmentSequence[0].SegmentLabel == "lesion"
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.7, 0.9]

    volume = nibabel.load(back / f"{kinds['nifti'].sha256[:16]}.nii.gz")
    source = nibabel.load(clinic / "brain_of_Doe^Jane.nii")
    assert volume.shape == source.shape
    assert np.allclose(volume.affine, source.affine)
    marked = np.asarray(volume.dataobj)
    for name, mask in truth.items():
        if mapping[name].kind == "nifti":
            canonical = nibabel.as_closest_canonical(volume)
            assert np.array_equal(np.rot90(np.asarray(canonical.dataobj)[:, :, mapping[name].index]) == 1, mask)
    assert marked.sum() == sum(mask.sum() for name, mask in truth.items() if mapping[name].kind == "nifti")
    assert np.array_equal(tifffile.imread(back / f"{kinds['tiff'].id}.tif") == 1, truth[kinds["tiff"].id])


def test_nothing_about_patients_is_written(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("prepare", clinic, "--out", out).exit_code == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 11
    for path in files:
        assert not any(secret in str(path.relative_to(tmp_path)) for secret in (*SECRETS, "slide", "IM0001"))
        data = path.read_bytes()
        assert not any(secret.encode() in data for secret in (*SECRETS, "slide", "IM0001", "notes"))


def test_pictures_are_what_the_decoder_shows(clinic: Path, tmp_path: Path) -> None:
    assert run("prepare", clinic / "PID-4711", "--out", tmp_path / "out", "--window", "40,200").exit_code == 0
    (path,) = (tmp_path / "out" / "images").iterdir()
    from int_model.io.medical.windows import Window

    expected = decode_dicom((clinic / "PID-4711" / "IM0001").read_bytes(), window=Window(40, 200))
    with PilImage.open(path) as picture:
        assert np.array_equal(np.asarray(picture), expected)


def test_png_label_maps_need_no_originals(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("prepare", clinic / "slide.tif", "--out", out)
    (task,) = json.loads((out / "tasks.json").read_text())
    large, small = np.zeros((20, 30), dtype=bool), np.zeros((20, 30), dtype=bool)
    large[2:15, 2:20], small[4:6, 4:6] = True, True
    (out / "e.json").write_text(
        json.dumps([annotated(task, [region(small, "a", key="1"), region(large, "b", key="2")])])
    )
    done = run(
        "restore", out / "e.json", "--mapping", out / "mapping.json", "--sources", out, "--out", out, "--format", "png"
    )
    assert done.exit_code == 0, done.output
    with PilImage.open(out / f"{task['data']['picture']}.png") as picture:
        values = np.asarray(picture)
    assert np.array_equal(values, np.where(small, 1, np.where(large, 2, 0)))  # the smaller one on top


def test_images_without_a_frame_of_reference_get_png(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    plain = ct(np.arange(64, dtype=np.int16).reshape(8, 8))
    ds = pydicom.dcmread(io.BytesIO(plain))
    for name in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del ds[name]
    ds.save_as(folder / "photo.dcm")
    run("prepare", folder, "--out", out)
    (task,) = json.loads((out / "tasks.json").read_text())
    mask = np.eye(8, dtype=bool)
    (out / "e.json").write_text(json.dumps([annotated(task, [region(mask, "a")])]))
    done = run("restore", out / "e.json", "--mapping", out / "mapping.json", "--sources", folder, "--out", tmp_path)
    assert done.exit_code == 0
    assert "written as PNG" in done.output
    with PilImage.open(tmp_path / f"{task['data']['picture']}.png") as picture:
        assert np.array_equal(np.asarray(picture), mask)


@pytest.mark.parametrize(
    ("charset", "name"),
    [(None, "Doe^Jane"), ("ISO_IR 100", "Ä^Ö"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう")],
)
def test_labels_keep_their_letters_whatever_the_source_can_say(charset: Any, name: str) -> None:
    data = ct(np.arange(120).reshape(12, 10).astype(np.int16), SpecificCharacterSet=charset, PatientName=name)
    source = Source("a", hashlib.sha256(data).hexdigest(), "dicom", 12, 10)
    labels = ("ポリープ", "腫瘍", "left\\lung", "sur\ud800", "é" * 70)
    masks = {label: np.arange(120).reshape(12, 10) // 20 == number for number, label in enumerate(labels)}
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    made = pydicom.dcmread(io.BytesIO(to_native([source], [masks], data, numbers, reviewed=True).data))
    said = [str(segment.SegmentLabel) for segment in made.SegmentSequence]
    assert said == ["ポリープ", "腫瘍", "left_lung", "sur?", "é" * 64], "they used to be question marks"
    codes = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in made.SegmentSequence]
    assert len(set(codes)) == len(codes)
    assert all(1 <= len(code) <= 16 for code in codes)
    assert str(made.PatientName) == name


def test_burned_in_text_needs_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(ct(np.arange(16, dtype=np.int16).reshape(4, 4), BurnedInAnnotation="YES"))
    refused = run("prepare", folder, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "--allow-burned-in" in refused.output
    assert run("prepare", folder, "--out", tmp_path / "out", "--allow-burned-in").exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["prepare", "nowhere", "--out", "o"], "there is no file or folder"),
        (["prepare", ".", "--out", "o", "--window", "wide"], "no window"),
        (["prepare", ".", "--out", "o", "--axis", "3"], "axis is 0"),
        (["restore", "e.json", "--mapping", "m.json", "--sources", ".", "--out", "o"], "mapping m.json cannot be read"),
        (["restore", "e.json", "--mapping", "m", "--sources", ".", "--out", "o", "--format", "jpg"], "native or png"),
    ],
)
def test_misuse_is_explained(args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_a_foreign_export_or_missing_originals_are_explained(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("prepare", clinic / "PID-4711", "--out", out)
    (task,) = json.loads((out / "tasks.json").read_text())
    (out / "other.json").write_text(json.dumps([annotated({"data": {"image": "/x.png"}}, [])]))
    (out / "e.json").write_text(json.dumps([annotated(task, [region(np.ones((33, 47), dtype=bool), "a")])]))
    (out / "small.json").write_text(json.dumps([annotated(task, [region(np.ones((3, 4), dtype=bool), "a")])]))
    common = ("--mapping", out / "mapping.json", "--out", tmp_path / "back", "--sources")
    assert "no annotated picture" in run("restore", out / "other.json", *common, clinic).output
    assert "none of the files" in run("restore", out / "e.json", *common, out).output
    small = run("restore", out / "small.json", *common, clinic).output
    assert "task 1: its regions are for 4 x 3 pixels, the image has 47 x 33" in " ".join(small.split())
    (out / "min.json").write_text('[{"image": "a.png", "label": []}]')
    assert "not a Label Studio export" in run("restore", out / "min.json", *common, clinic).output


ABC = Source("abc", "0" * 64, "picture", 4, 5)


def masks(*tasks: dict[str, Any], predictions: bool = False, every: bool = False, told: Any = None) -> dict[str, Any]:
    exported = [ExportedTask(f"task {number}", task) for number, task in enumerate(tasks)]
    tell = ([] if told is None else told).append
    return masks_of_export(exported, {"abc": ABC}, predictions=predictions, every=every, tell=tell)


def test_the_annotation_that_evaluate_takes_counts_and_predictions_only_on_request() -> None:
    one, other = np.zeros((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)
    one[0], other[1] = True, True
    task: dict[str, Any] = {
        "data": {"image": "/data/upload/1/8f3a1b2c-abc.png"},
        "annotations": [
            {"result": [region(other, "x")], "updated_at": "2026-01-02"},
            {"result": [region(one, "x")], "updated_at": "2026-01-01"},
            {"result": [region(one, "x")], "updated_at": "2026-02-01", "was_cancelled": True},
        ],
    }
    found = masks(task)
    assert np.array_equal(found["abc"].masks["x"], other)
    assert found["abc"].reviewed
    assert np.array_equal(masks(task, every=True)["abc"].masks["x"], one | other)
    task["annotations"][1]["ground_truth"] = True
    assert np.array_equal(masks(task)["abc"].masks["x"], one), "the ground truth goes before what is newer"
    offered = {"data": {"picture": "abc"}, "predictions": [{"result": [region(one, "x")], "created_at": "1"}]}
    assert masks(offered) == {}
    assert not masks(offered, predictions=True)["abc"].reviewed


def test_an_ellipse_is_restored_and_what_is_no_area_is_named() -> None:
    frame = {"original_height": 4, "original_width": 5}
    oval = {**frame, "id": "o", "type": "ellipselabels"}
    oval["value"] = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 30, "rotation": 0, "ellipselabels": ["x"]}
    point = {**frame, "id": "p", "type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["x"]}}
    told: list[str] = []
    found = masks({"data": {"picture": "abc"}, "annotations": [{"result": [point, oval]}]}, told=told)
    assert found["abc"].masks["x"].sum() == 6
    assert told == ["task 0: region p (keypointlabels) is not an area; left out"]


def test_an_out_that_cannot_be_written_to_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "m.json").write_text(mapping_to_json([ABC]))
    (tmp_path / "in").mkdir()
    prepared = run("prepare", tmp_path / "in", "--out", tmp_path / "file" / "out")
    common = ("--mapping", tmp_path / "m.json", "--sources", tmp_path / "in")
    restored = run("restore", tmp_path / "missing.json", *common, "--out", tmp_path / "file")
    for done in (prepared, restored):
        assert done.exit_code == 2
        assert "nothing can be written to" in done.output
        assert "choose another --out" in " ".join(done.output.split())


def test_every_region_of_a_restore_is_drawn_or_named(tmp_path: Path) -> None:
    shown = np.zeros((4, 5, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    PilImage.fromarray(shown).save(tmp_path / "in" / "a.png")
    assert run("prepare", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    (task,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = True
    frame = {"original_height": 4, "original_width": 5}
    line = {**frame, "id": "two", "type": "polygonlabels", "value": {"points": [[0, 0], [9, 9]]}}
    odd = {**frame, "id": "odd", "type": ["brush"], "value": {"vertices": 3}}
    thin = {**frame, "id": "thin", "type": "rectangle", "value": {"x": 1, "y": 1, "width": 0, "height": 50}}
    again = annotated(task | {"id": 7}, [line, odd, thin, region(mask, "x")])
    other = annotated({"id": 8, "data": {"image": "other.png"}}, [region(mask, "x")])
    (tmp_path / "e.json").write_text(json.dumps([annotated(task | {"id": 6}, []), again, other]))
    places = ("--mapping", tmp_path / "out" / "mapping.json", "--sources", tmp_path / "in", "--out", tmp_path / "back")
    done = run("restore", tmp_path / "e.json", *places)
    assert done.exit_code == 0, done.output
    said = done.output
    assert "task 7: region two (polygonlabels) is damaged: a polygon has at least 3 points" in said
    assert "task 7: region odd (['brush']) is not an area" in said, "an odd type used to stop the whole restore"
    assert "task 7: region thin covers no pixel" in said, "it used to be dropped without a word"
    assert "task 7 shows picture" in said
    assert "1 annotated tasks show no picture of this mapping" in said
    (restored,) = (tmp_path / "back").glob("*.png")
    assert np.array_equal(np.asarray(PilImage.open(restored)) == 1, mask)


def test_split_labels_and_regions_without_a_label() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 1:3] = True
    shape = region(mask, "", key="k")
    shape["type"], shape["value"] = "brush", {"format": "rle", "rle": encode_mask(mask)}
    named = {**shape, "type": "labels", "value": {**shape["value"], "labels": ["polyp"]}}
    alone = {**shape, "id": "other"}
    task = {"data": {"picture": "abc"}, "annotations": [{"result": [shape, named, alone]}]}
    found = masks(task)["abc"].masks
    assert set(found) == {"polyp", "object"}
    assert np.array_equal(found["polyp"], mask)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Source,
            id=st.text("abc123-", min_size=1),
            sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
            kind=st.sampled_from(["dicom", "nifti", "tiff", "picture"]),
            height=st.integers(1, 9000),
            width=st.integers(1, 9000),
            axis=st.none() | st.integers(0, 2),
            index=st.none() | st.integers(0, 999),
        ),
        unique_by=lambda source: source.id,
    )
)
def test_mappings_survive_a_file(sources: list[Source]) -> None:
    assert list(mapping_from_json(mapping_to_json(sources)).values()) == sources


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "pictures": []}', '{"format": 1, "pictures": [{}]}'])
def test_other_files_are_no_mappings(text: str) -> None:
    with pytest.raises(ValueError, match="mapping"):
        mapping_from_json(text)


@pytest.mark.parametrize(
    "change",
    [{"id": "../../x"}, {"id": ""}, {"id": "a/b"}, {"sha256": "../x"}, {"kind": "exe"}, {"height": 0}, {"axis": 7}],
)
def test_a_mapping_that_would_write_elsewhere_is_refused(change: dict[str, Any]) -> None:
    row = {"id": "abc", "sha256": "0" * 64, "kind": "dicom", "height": 3, "width": 4}
    assert list(mapping_from_json(json.dumps({"format": 1, "pictures": [row]}))) == ["abc"]
    with pytest.raises(ValueError, match="mapping"):
        mapping_from_json(json.dumps({"format": 1, "pictures": [row | change]}))
