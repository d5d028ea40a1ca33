"""Predictions made elsewhere (nnU-Net, TotalSegmentator, a reader) as a row of the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from segkit.data.cases import SUFFIXES, Case, shorten, stem
from segkit.data.labels import read_labels
from segkit.errors import InputError
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample, SampleReader

_CHANNEL = "_0000"  # nnU-Net's suffix of the first image of a case; its predictions go without


@dataclass(frozen=True, slots=True)
class PredictionFolder:
    """Label maps by case: one file named after the case, or a folder with one mask per class.

    A file holds the label values of the data set, as nnU-Net writes it; a folder of the case's name
    holds `<class name>.nii.gz`, as TotalSegmentator writes it, a missing class being empty.
    """

    files: Mapping[str, Path]
    labels: Mapping[int, str]

    @classmethod
    def find(
        cls, folder: str | Path, cases: Sequence[Case], reader: SampleReader
    ) -> "PredictionFolder":
        """Match files to cases and check that each lies on the grid of its image.

        Raises:
            InputError: The folder or a prediction is missing, or some do not fit their images; the
                message names the files.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("there is no such folder of predictions", path=folder)
        by_name = {_name(path): path for path in sorted(folder.iterdir()) if _is_prediction(path)}
        if missing := [case.id for case in cases if case.id not in by_name]:
            raise InputError(
                f"{len(missing)} of {len(cases)} cases have no prediction ({shorten(missing)}); "
                f"found are {shorten(sorted(by_name)) or 'none'}",
                path=folder,
                fix="name each file after its case, or leave cases out with settings.limit",
                code="missing_predictions",
            )
        found = cls({reader.name(case): by_name[case.id] for case in cases}, reader.labels)
        found._check(cases, reader, folder)
        return found

    def __call__(self, sample: Sample) -> Integer[np.ndarray, "*shape"]:
        """Label map on the grid of the sample.

        Raises:
            InputError: The file cannot be read, or does not fit the image.
        """
        path = self.files[sample.id]
        if path.is_file():
            return read_labels(path, sample.source, dict(self.labels))
        out = np.zeros(sample.reference.shape, dtype=np.uint8)
        for value, name in self.labels.items():
            if (mask := _mask_of(path, name)) is not None:
                out[read_labels(mask, sample.source) > 0] = value
        return out

    def _check(self, cases: Sequence[Case], reader: SampleReader, folder: Path) -> None:
        """Read everything once, so that all misfits are told at the start."""
        wrong: list[str] = []
        for case in cases:
            try:
                self(reader.read(case))
            except InputError as error:
                if error.path is None or not error.path.is_relative_to(folder):
                    raise
                wrong.append(f"{error.path.relative_to(folder)}: {error.cause}")
        if wrong:
            raise InputError(
                f"{len(wrong)} of {len(cases)} predictions do not fit their images: "
                f"{'; '.join(wrong[:6])}{' ...' if len(wrong) > 6 else ''}",
                path=folder,
                fix="write them on the grid of the images, with the label values of the data set",
                code="other_grid",
            )


def prediction_rows(
    folders: Mapping[str, str | Path], cases: Sequence[Case], reader: SampleReader
) -> list[Row]:
    """One row per folder, named by its key.

    Raises:
        InputError: A folder does not hold what `PredictionFolder.find` needs.
    """
    return [
        Row(
            name,
            name,
            PredictionFolder.find(folder, cases, reader),
            "none (made elsewhere)",
            is_oracle=False,
            note="read from files; its time is that of reading them",
        )
        for name, folder in folders.items()
    ]


def _name(path: Path) -> str:
    return (path.name if path.is_dir() else stem(path)).removesuffix(_CHANNEL)


def _is_prediction(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.name.lower().endswith(SUFFIXES))


def _mask_of(folder: Path, name: str) -> Path | None:
    """File of a class; spaces and case of its name do not count."""
    wanted = name.lower().replace(" ", "_")
    for path in sorted(folder.iterdir()):
        if path.is_file() and stem(path).lower().replace(" ", "_") == wanted:
            return path
    return None
