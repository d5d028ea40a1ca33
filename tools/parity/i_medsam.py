"""I-MedSAM: its modules, its encoder and the whole model."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.adapters import Frequency, LoRA, Stack
from segkit.adapters.frequency import FrequencyBottleneck
from segkit.adapters.lora import ThirdsLoRA
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import SamModules, SamSizes
from segkit.decoders import InrDecoder
from segkit.decoders.inr import MaskField, centres, released_code_points
from segkit.decoders.inr_field import CODE, ImplicitField, coordinate_code
from segkit.models.convert_i_medsam import authors_name
from segkit.models.convert_medsam import without_scaling
from segkit.models.segmenter import Segmenter
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Grid, Prompts
from tools.parity.harness import Case, copied, images, import_file, import_package, randomise

SIZES = SamSizes(
    "parity", image_size=64, patch_size=8, embed_dim=64, depth=3, heads=2, global_blocks=(1,),
    window=3,
)  # fmt: skip
BOX = (9.0, 14.0, 40.0, 50.0)


def cases(root: Path) -> Iterator[Case]:
    """Every module that I-MedSAM adds, alone and together."""
    modeling = import_package(root / "segment_anything" / "modeling", "i_medsam_modeling")
    lora = import_file(root / "model" / "IMedSAM.py", "i_medsam_model")
    yield _bottleneck(import_file(root / "segment_anything/modeling/common.py", "i_medsam_common"))
    yield _lora(lora)
    fields: Any = __import__("i_medsam_modeling.mask_decoder", fromlist=["SegField"])
    yield _code(fields)
    for share, number in ((0.125, 0), (1.0, 1)):
        yield _field(fields, share, number)
    yield from _whole(modeling, lora)


def _bottleneck(common: Any) -> Case:
    theirs = common.Adapter(64)
    ours = FrequencyBottleneck(64, 4, compat="authors")
    randomise(theirs)
    mine = [*ours.down.parameters(), *ours.up.parameters()]
    pairs = copied(list(theirs.parameters()), mine)
    return Case("frequency bottleneck", theirs, ours.bottleneck, [images(2, 4, 6, 64)], pairs)


def _lora(model: Any) -> Case:
    dim = 32
    ours = ThirdsLoRA(nn.Linear(dim, 3 * dim), ("q", "v"), rank=4, gated=True)
    randomise(ours)
    a, b = ours.lora_A, ours.lora_B
    layers: list[Any] = [ours.base_layer, a["q"], b["q"], a["v"], b["v"], ours.lora_gate]
    base, qa, qb, va, vb, gate = (_twin(layer) for layer in layers)
    none = nn.ModuleList()
    lists = (nn.ModuleList([one]) for one in (qa, qb))
    theirs = model.LoRA_qkv(
        base, *lists, none, none, nn.ModuleList([va]), nn.ModuleList([vb]), gate, mode="qv"
    )
    pairs = [
        pair
        for twin, layer in zip((base, qa, qb, va, vb, gate), layers, strict=True)
        for pair in zip(twin.parameters(), layer.parameters(), strict=True)
    ]
    return Case("gated LoRA on q and v", theirs, ours, [images(5, 3, 4, dim)], pairs)


def _twin(layer: nn.Linear) -> nn.Linear:
    twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    twin.load_state_dict(layer.state_dict())
    return twin


def _code(fields: Any) -> Case:
    theirs = fields.FrequancyEncoding(3, 10, 0.0, 10, include_input=True)
    points = 2 * images(50, 3) - 1
    return Case("code of coordinates", theirs, partial(coordinate_code, compat="authors"), [points])


def _field(fields: Any, share: float, number: int) -> Case:
    theirs = fields.SegField(256, cls_channel=1, top_k_ratio=share).eval()
    ours = ImplicitField(32, 256 + CODE, share=share, compat="authors").eval()
    randomise(theirs, scale=0.1)
    parts = (ours.coarse_trunk, ours.fine_trunk, ours.coarse_heads, ours.fine_heads)
    pairs = copied(list(theirs.parameters()), [p for part in parts for p in part.parameters()])
    buffers = [b for part in parts for b in part.buffers()]
    for source, target in zip(theirs.buffers(), buffers, strict=True):
        target.copy_(source)
    size = (6, 5)

    def run(cells: Tensor, codes: Tensor) -> Tensor:
        maps = cells.transpose(1, 2).unflatten(2, (8, 8))
        opened = MaskField(ours, maps, codes, torch.ones(CODE))
        return ours(opened.samples(centres(size), released_code_points(size)))[number]

    def original(cells: Tensor, codes: Tensor) -> Tensor:
        return theirs(cells, codes, size)[number].flatten(2)

    inputs = [images(1, 64, 32), images(1, 256, 4, 4, seed=2)]
    name = "fine" if number else "coarse"
    used = [pair for pair in pairs if number or _is_coarse(theirs, pair[0])]
    return Case(f"implicit field, {name} map", original, run, inputs, used)


def _is_coarse(theirs: Any, parameter: nn.Parameter) -> bool:
    parts = (theirs.seg_net[0], theirs.seg_net[2])
    return any(parameter is one for part in parts for one in part.parameters())


def _whole(modeling: Any, lora: Any) -> Iterator[Case]:
    """The authors' model at a small size; weights travel as the converter moves them."""
    torch.manual_seed(0)
    sam = _their_sam(modeling)
    randomise(sam, scale=0.1)
    for block in sam.image_encoder.blocks:  # never trained
        nn.init.ones_(block.freq_norm.weight)
        nn.init.zeros_(block.freq_norm.bias)
    frozen = {key: value.clone() for key, value in sam.state_dict().items()}
    theirs = lora.IMedSAM(sam, r=4, mode="qv")
    for layer in (*theirs.w_As, *theirs.w_Bs, *theirs.w_Gs):
        randomise(layer, scale=0.1)
    ours = _our_model(frozen)
    state = theirs.save_lora_parameters()
    named = {
        authors_name(key): value
        for key, value in state.items()
        if ".freq_norm." not in key and authors_name(key) in ours.trainable_state()
    }
    ours.load_trainable_state(named | {"decoder.progress": torch.tensor(1.0)})
    theirs.eval()
    mine = dict(ours.named_parameters(remove_duplicate=False))
    own = _their_parameters(theirs)
    pairs = [(own[key], mine[authors_name(key)]) for key in own if authors_name(key) in mine]
    image = images(1, 3, 64, 64)
    grid = Grid((1, 64, 64))

    def encoded(pixels: Tensor) -> Tensor:
        return ours.backbone(pixels, grid).levels[0]

    # the released code leaves torch for its spectrum, so no gradient reaches the image
    encoder = theirs.sam.image_encoder
    yield Case("image encoder", encoder, encoded, [], _encoder(own, mine), [image])
    prompts = Prompts(
        torch.tensor([[[0, BOX[1], BOX[0]], [0, BOX[3], BOX[2]]]]), torch.tensor([[2, 3]])
    )

    def decoded(pixels: Tensor) -> list[Tensor]:
        made = ours.decode(ours.encode(pixels), prompts)
        assert made.coarse is not None
        return [made.coarse, made.logits]

    def original(pixels: Tensor) -> Any:
        return theirs(pixels, torch.tensor([[BOX]]), original_size=(32, 32))

    yield Case("whole model, coarse and fine maps", original, decoded, [], pairs, [image])


def _encoder(
    own: dict[str, nn.Parameter], mine: dict[str, nn.Parameter]
) -> list[tuple[nn.Parameter, nn.Parameter]]:
    starts = ("w_", "image_encoder.")
    return [(own[key], mine[authors_name(key)]) for key in own if key.startswith(starts)]


def _their_parameters(theirs: Any) -> dict[str, nn.Parameter]:
    """Trained parameters under the names they are saved by."""
    named: dict[str, nn.Parameter] = {}
    for letter, layers in (("a", theirs.w_As), ("b", theirs.w_Bs), ("g", theirs.w_Gs)):
        named |= {f"w_{letter}_{i:03d}": layer.weight for i, layer in enumerate(layers)}
    kept = ("freq_adapter", "seg_field", "output_upscaling", "prompt_encoder")
    for name, parameter in theirs.sam.named_parameters():
        if any(part in name for part in kept) and parameter.requires_grad:
            named[name] = parameter
    return named


def _their_sam(modeling: Any) -> Any:
    cells = SIZES.image_size // SIZES.patch_size
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=SIZES.image_size, patch_size=SIZES.patch_size, embed_dim=SIZES.embed_dim,
            depth=SIZES.depth, num_heads=SIZES.heads, mlp_ratio=4, out_chans=SIZES.out_dim,
            qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            global_attn_indexes=SIZES.global_blocks, window_size=SIZES.window,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=256, image_embedding_size=(cells, cells),
            input_image_size=(SIZES.image_size,) * 2, mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=256, top_k_ratio=1.0,
            transformer=modeling.TwoWayTransformer(
                depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8
            ),
        ),
    )  # fmt: skip


def _our_model(state: dict[str, Tensor]) -> Segmenter:
    modules = SamModules(SIZES)
    frozen = {key: state[key] for key in modules.state_dict()}
    modules.load_state_dict(without_scaling(frozen))
    lora = partial(LoRA, targets=("q", "v"), gated=True)
    adapter = partial(Stack, adapters=[lora, partial(Frequency, compat="authors")])
    return Segmenter(
        SamBackbone(modules.image_encoder, SIZES, adapter, attention="eager"),
        SamPromptEncoder(modules.prompt_encoder, trained="all"),
        InrDecoder(modules.mask_decoder, share=1.0, compat="authors"),
    ).eval()
