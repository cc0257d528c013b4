"""Medical files in, masks back in their original pixel grid. Needs the extra ``medical``.

Nothing here keeps, logs or repeats what a file says about a patient: files are told apart by the hash of their bytes,
errors name the kind of trouble and never a value, and the one output that must carry the patient's identity, a DICOM
segmentation for the archive that the image came from, is written only when it is asked for.
"""
