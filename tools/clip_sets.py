"""Bring the two public sets of DD-SAM2 into folders that `experiment=dd_sam2*` reads.

    python -m tools.clip_sets trackrad SOURCE OUT
    python -m tools.clip_sets echonet SOURCE OUT --masks FOLDER

TrackRad2025 (cine MR): SOURCE/CASE/images/CASE_frames.mha with SOURCE/CASE/targets/CASE_labels.mha,
time along the slowest axis; files are linked, not copied. EchoNet-Dynamic: SOURCE/Videos/*.avi,
SOURCE/FileList.csv with the columns FileName and Split, and FOLDER/*.avi with a mask on every frame
(above 125, as DD-SAM2 was trained; the set itself outlines two frames of each video, so such masks
come from elsewhere); each becomes a .mha of grey frames.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK

from segkit.data.video_file import VideoFile
from segkit.data.video_open import read_ahead

_THRESHOLD = 125
_SPLITS = {"TRAIN": "train", "VAL": "val", "TEST": "test"}


def trackrad(source: Path, out: Path) -> list[str]:
    """Link frames and labels of every case; returns their names.

    Raises:
        SystemExit: There is no labelled case, or frames and labels differ in size.
    """
    names = []
    for frames in sorted(source.glob("*/images/*_frames.mha")):
        case = frames.parents[1]
        labels = case / "targets" / f"{case.name}_labels.mha"
        if not labels.exists():
            continue
        sizes = [_size(path) for path in (frames, labels)]
        if sizes[0] != sizes[1]:
            raise SystemExit(f"{case}: frames are {sizes[0]}, labels {sizes[1]} (i, j, time)")
        for kind, path in (("images", frames), ("labels", labels)):
            _link(path, out / kind / f"{case.name}.mha")
        names.append(case.name)
    if not names:
        raise SystemExit(f"{source}: no CASE/images/CASE_frames.mha with a label; is it unpacked?")
    return names


def echonet(source: Path, out: Path, masks: Path) -> list[str]:
    """Write frames and masks of every video that has a mask; returns their names.

    Raises:
        SystemExit: There is none, or a video and its masks differ in size.
    """
    names = []
    for name, split in _listed(source / "FileList.csv"):
        video, mask = source / "Videos" / f"{name}.avi", masks / f"{name}.avi"
        if not (video.exists() and mask.exists()):
            continue
        frames, inside = _grey(video), _grey(mask) > _THRESHOLD
        if frames.shape != inside.shape:
            raise SystemExit(f"{name}: frames are {frames.shape}, masks {inside.shape} (t, j, i)")
        for kind, array in (("images", frames), ("labels", inside.astype(np.uint8))):
            path = out / split / kind / f"{name}.mha"
            path.parent.mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=True)
        names.append(name)
    if not names:
        raise SystemExit(f"no video of {source / 'FileList.csv'} has a file in {masks}")
    return names


def _listed(table: Path) -> Iterator[tuple[str, str]]:
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["FileName"].removesuffix(".avi"), _SPLITS[row["Split"].upper()]


def _grey(path: Path) -> np.ndarray:
    """All frames of a grey video, [t j i]; the channels of a grey file are equal."""
    source = VideoFile(path)
    try:
        indices = iter(range(10**9))
        return np.stack([picture.array[..., 0] for _, picture in read_ahead(source, indices)])
    finally:
        source.close()


def _size(path: Path) -> tuple[int, ...]:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return tuple(reader.GetSize())


def _link(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    to.symlink_to(path.resolve())


def main() -> None:
    """Prepare one of the sets."""
    parser = argparse.ArgumentParser(prog="python -m tools.clip_sets")
    parser.add_argument("set", choices=["trackrad", "echonet"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--masks", type=Path, help="videos of masks, for echonet")
    args = parser.parse_args()
    if args.set == "trackrad":
        names = trackrad(args.source, args.out)
    elif args.masks is None:
        parser.error("echonet needs --masks FOLDER")
    else:
        names = echonet(args.source, args.out, args.masks)
    print(f"{len(names)} clips in {args.out}")


if __name__ == "__main__":
    main()
