"""Words as prompts: a vision-language encoder, its saliency, and boxes or points made of it.

Needs the extra `segkit[text]` when an encoder is built; weight files are read by
`segkit.models.text_encoder`.
"""

from segkit.text.bottleneck import saliency
from segkit.text.contrastive import DecoupledHardNegative, InfoNce
from segkit.text.encoder import EncoderSpec, TextImageEncoder
from segkit.text.prompter import Finding, Place, TextPrompter
from segkit.text.regions import Region, find_regions, spread
from segkit.text.settings import RegionSettings, SaliencySettings
from segkit.text.small import SmallSizes, build_small
from segkit.text.template import parse_words, read_words
from segkit.text.training import ContrastiveTraining, Pairs, TrainingPlan
from segkit.text.words import WordTokenizer

__all__ = [
    "ContrastiveTraining",
    "DecoupledHardNegative",
    "EncoderSpec",
    "Finding",
    "InfoNce",
    "Pairs",
    "Place",
    "Region",
    "RegionSettings",
    "SaliencySettings",
    "SmallSizes",
    "TextImageEncoder",
    "TextPrompter",
    "TrainingPlan",
    "WordTokenizer",
    "build_small",
    "find_regions",
    "parse_words",
    "read_words",
    "saliency",
    "spread",
]
