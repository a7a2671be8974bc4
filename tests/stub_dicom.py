"""Write small DICOM series, with a bright block as landmark."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

TILT = np.deg2rad(20)
OBLIQUE = np.array([[np.cos(TILT), -np.sin(TILT), 0], [np.sin(TILT), np.cos(TILT), 0], [0, 0, 1]])


def write_slice(file, pixels, number, series, **tags):
    """Write a file of a series; ``tags`` beside what every one has."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage if tags.get("Modality", "CT") == "CT" else UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset(str(file), {}, file_meta=meta, preamble=bytes(128))
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Modality, found.SeriesInstanceUID, found.PatientID, found.InstanceNumber = "CT", series, "p1", number
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated = found.BitsStored = 8 * pixels.dtype.itemsize
    found.HighBit = found.BitsStored - 1
    for tag, value in tags.items():
        setattr(found, tag, value)
    found.PixelData = pixels.tobytes()
    pydicom.dcmwrite(file, found, enforce_file_format=True)


def write_series(folder, skip=(), **more):
    """Nine slices of 48 rows and 64 columns, named against their order, tilted, the landmark at column 45, row 13."""
    folder.mkdir()
    along, down = (OBLIQUE @ axis for axis in np.eye(3)[:2])
    series, places = generate_uid(), {}
    for k in range(9):
        pixels = np.full((48, 64), 100, np.uint16)
        if k == 6:
            pixels[9:18, 41:50] = 1900
        place = np.array([10.0, 20, 30]) + 2.5 * k * np.cross(along, down)
        places[k] = place
        if k not in skip:
            tags = {"ImagePositionPatient": list(place), "ImageOrientationPatient": [*along, *down]}
            tags |= {"PixelSpacing": [0.8, 0.7], "RescaleSlope": 1, "RescaleIntercept": -1000} | more
            write_slice(folder / f"{9 - k:03}.dcm", pixels, k, series, **tags)
    return places[6] + 45 * 0.7 * along + 13 * 0.8 * down  # left, posterior, superior
