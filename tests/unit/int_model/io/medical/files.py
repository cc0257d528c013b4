"""Small medical files, made from nothing."""

from __future__ import annotations

import io
import itertools
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SECRETS = ("Doe^Jane", "PID-4711", "19610203", "General Hospital", "Dr^Who")


def ct(values: NDArray[np.int16], *, slope: float = 1.0, intercept: float = -1024.0, **more: Any) -> bytes:
    """A CT slice of stored ``values`` with a talkative header; ``more`` are further attributes."""
    numbers = itertools.count()

    def uid() -> str:
        return str(generate_uid(entropy_srcs=[str(next(numbers)), values.tobytes().hex()]))

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = SECRETS[:3]
    ds.InstitutionName, ds.ReferringPhysicianName = SECRETS[3:]
    ds.PatientSex, ds.AccessionNumber, ds.StudyID = "O", "1", "1"
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.Manufacturer = "20250101", "101010", "CT", "X"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid(), uid(), uid()
    ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator = 1, 1, ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.9], 2.5
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    for name, value in more.items():
        setattr(ds, name, value)
    ds.PixelData = values.astype("<i2").tobytes()
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def nifti(values: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """A NIfTI-1 volume with a talkative header."""
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = b"Doe^Jane PID-4711"
    image.header.set_xyzt_units("mm", "sec")
    return bytes(image.to_bytes())
