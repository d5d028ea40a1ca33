"""Names of what STU-Net's published weights segment, in the order of their outputs.

The authors number the 104 structures of TotalSegmentator (Wasserthal et al. 2023, version 1) in
alphabetical order, which is not TotalSegmentator's own: compare classes by name, never by number.
"""

_SIDED = (
    "adrenal_gland", "autochthon", "clavicula", "femur", "gluteus_maximus", "gluteus_medius",
    "gluteus_minimus", "heart_atrium", "heart_ventricle", "hip", "humerus", "iliac_artery",
    "iliac_vena", "iliopsoas", "kidney", "lung_lower_lobe", "lung_upper_lobe", "scapula",
    *(f"rib_{{}}_{number}" for number in range(1, 13)),
)  # fmt: skip
_SINGLE = (
    "aorta", "brain", "colon", "duodenum", "esophagus", "face", "gallbladder", "heart_myocardium",
    "inferior_vena_cava", "liver", "lung_middle_lobe_right", "pancreas",
    "portal_vein_and_splenic_vein", "pulmonary_artery", "sacrum", "small_bowel", "spleen",
    "stomach", "trachea", "urinary_bladder",
    *(f"vertebrae_C{number}" for number in range(1, 8)),
    *(f"vertebrae_T{number}" for number in range(1, 13)),
    *(f"vertebrae_L{number}" for number in range(1, 6)),
)  # fmt: skip


def _both(name: str) -> tuple[str, str]:
    pattern = name if "{}" in name else f"{name}_{{}}"
    return pattern.format("left"), pattern.format("right")


_NAMES = sorted([*_SINGLE, *(one for name in _SIDED for one in _both(name))])
STRUCTURES = dict(enumerate(_NAMES, start=1))
"""Names by class value, 1 to 104."""
