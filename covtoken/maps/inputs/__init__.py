"""List and open what a person gives: files, folders, DICOM series, and what their stored values mean."""
