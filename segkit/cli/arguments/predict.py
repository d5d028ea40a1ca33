"""The flags of `segkit predict`."""

import argparse
from pathlib import Path

from segkit.data.options import add_read_arguments
from segkit.errors import InputError
from segkit.predictors.shards import Shard

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".png", ".tif", ".dcm")
AXES = {"k": 0, "j": 1, "i": 2}
"""Axes of slices by the name of their index: numbers in the order of arrays."""
EXAMPLE = """examples:
  segkit predict ct.nii.gz -m runs/liver -o liver.nii.gz
  segkit predict cases/ -m runs/liver -o masks/ --resume
  segkit predict ct.nii.gz -m runs/liver -o liver.stl --label liver
  segkit predict cases/ -m cv/0 -m cv/1 -m cv/2 --ensemble -o masks/
  torchrun --nproc-per-node 4 --no-python segkit predict cases/ -m runs/liver -o masks/
  segkit predict polyp.png -m nano -o mask.png --box 80,60,210,180
  segkit predict t1.nrrd -m nano -o mask.nrrd --point=-12.5,30,41.2 --space ras
  segkit predict ct.nii.gz -m nano -o kidney.nii.gz --box 90,80,40,150,160,41 --propagate
  segkit predict ct.nii.gz -m nano -o both.nii.gz --point 80,90,40@left --point 180,92,40@right

Voxel coordinates are i,j,k, the order of the file's axes (x,y for pictures), from 0. Boxes are
half-open: first corner, then one past the last voxel. Millimetres are x,y,z. Prompts without a
name belong to the object of --label; the output holds 1, 2, ... in the order of the objects.

The exit code is 0 if every input gave its mask, 1 if one failed (the others are done nevertheless;
run_report.json beside the masks says why), 2 if the command was wrong."""
_WORDS = """words (needs segkit[text]; the same for all inputs, wordings of one name are averaged):
  segkit predict scan.png -m nano -o mask.png --text "a bright round lesion"
  segkit predict cases/ -m nano -o masks/ --text "cyst=a dark spot" --text "cyst=a black spot"
  segkit predict cases/ -m runs/mine -o masks/ --words words.yaml --text-encoder biomedclip"""
_VIDEOS = """videos (an input is a video file, or a prompt is x,y@FRAME):
  segkit predict clip.mp4 -m nano2 -o out.mp4 --point 120,80@0
  segkit predict clip.mp4 -m nano2 -o out/ --box 10,20,60,90@0#1 --point 200,40@12:0#2
  segkit predict cine.dcm -m nano2 -o out/ --box 10,20,60,90@12 --direction both
  segkit predict ct.nii.gz -m nano2 -o labels.nii.gz --box 10,20,60,90@40 --direction both
Prompts are x,y@FRAME[:0|1][#OBJECT]; frames and slices count from 0. Sources are videos, folders
of pictures, DICOM cine, and volumes as sequences of slices (--axis). OUT is an .mp4 or a folder
(masks.jsonl, frames.csv, overlay.mp4); of a volume also a file like labels.nii.gz, which a folder
gets, too."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "predict",
        help="segment files; the mask has the input's own grid",
        epilog=f"{EXAMPLE}\n\n{_WORDS}\n\n{_VIDEOS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, DICOM folder or folder")
    parser.add_argument(
        *("-m", "--model"),
        dest="models",
        action="append",
        required=True,
        metavar="MODEL",
        help="run folder, adapter file or name; several share one backbone",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="file or folder")
    parser.add_argument("--checkpoint", help="weight file of a backbone that does not ship here")
    parser.add_argument("--format", choices=FORMATS, help="file type in an output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument(
        "--encoder",
        metavar="int8|float32|FILE",
        help="on a CPU: encode with an exported encoder (segkit[int8]; see `segkit convert --to`)",
    )
    parser.add_argument("--json", action="store_true", help="print the run report as JSON")
    _add_cohort_arguments(parser)
    _add_prompt_arguments(parser)
    _add_text_arguments(parser)
    _add_video_arguments(parser)
    classes = parser.add_argument_group("classes (automatic models)")
    classes.add_argument(
        "--ensemble", action="store_true", help="one mask: the mean of all models named with -m"
    )
    classes.add_argument("--mirror", action="store_true", help="average over mirrored inputs")
    classes.add_argument(
        "--overlap", type=float, default=0.5, help="of blocks, as a share of their side (0.5)"
    )
    parser.add_argument("--label", metavar="NAME", help="name of the object, or class to keep")
    parser.add_argument(
        "--uncertainty",
        type=Path,
        metavar="FILE",
        help="also write the entropy of a prompted object, in percent of a bit (one input)",
    )
    reading = parser.add_argument_group("reading (each makes one refusal proceed)")
    add_read_arguments(reading)


def _add_cohort_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what concerns folders of cases."""
    many = parser.add_argument_group("many inputs")
    many.add_argument("--resume", action="store_true", help="skip inputs that are done")
    many.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only part I (from 0) of N of the inputs; torchrun sets it by itself",
    )


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that `CommandPrompts` reads."""
    prompts = parser.add_argument_group("prompts (interactive models)")
    for option, metavar, text in (
        ("--point", "I,J,K[:0|1][@NAME]", "click; :0 removes, @NAME is an object of its own"),
        ("--box", "I0,J0,K0,I1,J1,K1[:0|1][@NAME]", "half-open box"),
        ("--lasso", "'I,J,K;I,J,K;...[:0|1][@NAME]'", "closed curve on one slice"),
        ("--scribble", "FILE|'I,J,K;...'", "voxels 1 add, 2 remove; or a line, as --lasso"),
    ):
        prompts.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    prompts.add_argument("--mask", type=Path, metavar="FILE", help="mask to start from")
    prompts.add_argument("--propagate", action="store_true", help="carry masks to other slices")
    prompts.add_argument("--slices", metavar="A:B", help="range of --propagate: A to B - 1")
    prompts.add_argument("--axis", choices=tuple(AXES), help="axis along which slices lie")
    prompts.add_argument(
        "--zoom",
        type=float,
        metavar="F",
        help="see each object in a window F times as wide as it (2 is usual; small objects)",
    )
    prompts.add_argument("--space", choices=("voxel", "ras", "lps"), default="voxel")


def _add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that `CommandWords` reads."""
    words = parser.add_argument_group("words (interactive models; needs segkit[text])")
    words.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="[NAME=]WORDS",
        help="what to look for; repeat it for other wordings, or with names for several objects",
    )
    words.add_argument(
        "--words", type=Path, metavar="FILE", help="YAML file {NAME: [WORDS, ...]} instead"
    )
    words.add_argument(
        "--text-encoder",
        default="nano_clip",
        metavar="ENCODER",
        help="nano_clip (default), biomedclip, a folder, or a model name of open_clip",
    )
    words.add_argument(
        "--text-checkpoint", type=Path, metavar="FILE", help="weights for --text-encoder"
    )
    words.add_argument(
        "--text-as", choices=("box", "point", "both"), default="box", help="prompt made of a region"
    )
    words.add_argument(
        "--text-slices",
        default="best",
        metavar="best|all|A:B",
        help="slices of a volume to look at; see --propagate",
    )
    words.add_argument(
        "--text-regions", type=int, default=1, metavar="N", help="regions per slice (1)"
    )


def _add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what concerns sequences of frames alone."""
    videos = parser.add_argument_group("videos, and volumes slice by slice")
    videos.add_argument(
        "--direction",
        choices=("forward", "backward", "both"),
        help="where to follow objects from their first mark (forward)",
    )


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
