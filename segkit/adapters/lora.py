"""Low-rank weight edits inside the blocks (LoRA), through peft."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter
from segkit.typing import BackboneSpec

Target = Literal["qkv", "q", "k", "v", "proj", "mlp"]
_NAMES: dict[str, str] = {
    "qkv": r"attn\.qkv",
    "proj": r"attn\.proj",
    "mlp": r"mlp\.(?:lin1|lin2|fc1|fc2|layers\.\d+)",
}
_THIRDS = ("q", "k", "v")
_BASE, _OWN = "base_layer.", "lora_"


class LoRA(Adapter):
    """Add trainable low-rank products to linear layers of the frozen blocks.

    Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021), section 4.1; the
    layers are peft's. `targets` names the layers: "qkv", "proj" (attention) and "mlp"; "q", "k" and
    "v" each get a product of their own on their third of "qkv". A product is scaled by
    `alpha / rank`; None means alpha = rank. It starts at zero.

    `gated` multiplies the products on "q", "k" and "v" by a learned linear function of the mean
    token of each attention window, as the released code of I-MedSAM does ("I-MedSAM", Wei et al.,
    ECCV 2024; its paper mentions no gate).

    `attach` replaces those layers of the encoder, the only child replacement in segkit; the keys
    and values of the encoder's state dict stay what they were, and this module's state dict holds
    the low-rank matrices. They exist from `attach` on.

    Example:
        >>> backbone = SamBackbone.tiny(partial(LoRA, rank=2, targets=("qkv", "mlp")))
        >>> sorted(backbone.adapter.state_dict())[0]
        'layers.blocks:0:attn:qkv.lora_A.weight'
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        rank: int = 4,
        alpha: int | None = None,
        targets: Sequence[Target] = ("qkv", "proj"),
        gated: bool = False,
    ) -> None:
        super().__init__(spec)
        if rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}")
        if alpha is not None and alpha < 1:
            raise ValueError(f"alpha must be None or >= 1, got {alpha}")
        if not targets or set(targets) - set(get_args(Target)):
            raise ValueError(f"targets must be some of {get_args(Target)}, got {tuple(targets)}")
        thirds = tuple(third for third in _THIRDS if third in targets)
        if thirds and "qkv" in targets:
            raise ValueError(f"targets name 'qkv' and its part {thirds[0]!r}; choose one of both")
        if gated and not thirds:
            raise ValueError(f"gated=True needs targets among {_THIRDS}, got {tuple(targets)}")
        self.rank, self.alpha, self.targets = rank, alpha or rank, tuple(targets)
        self.thirds, self.gated = thirds, gated
        self.layers = nn.ModuleDict()

    @override
    def attach(self, encoder: nn.Module) -> None:
        if any(name.endswith("base_layer") for name, _ in encoder.named_modules()):
            raise ValueError("this encoder has LoRA layers already; use one LoRA with all targets")
        whole = [target for target in self.targets if target not in _THIRDS]
        parts: dict[str, dict[str, nn.Module]] = {}
        if names := self._find(encoder, whole):
            _wrap(encoder, names, self.rank, self.alpha)
            for name in names:
                layer: Any = encoder.get_submodule(name)
                matrices = {"lora_A": layer.lora_A["default"], "lora_B": layer.lora_B["default"]}
                parts[name] = matrices
        for name in self._find(encoder, ["qkv"] if self.thirds else []):
            parts[name] = self._split(encoder, name)
        for name, matrices in parts.items():
            layer = encoder.get_submodule(name)
            layer.register_state_dict_post_hook(_hide)
            layer.register_load_state_dict_pre_hook(_restore)
            # colons, because module names must not contain dots
            self.layers[name.replace(".", ":")] = nn.ModuleDict(matrices)

    def _split(self, encoder: nn.Module, name: str) -> dict[str, nn.Module]:
        """Put products on the thirds of one layer."""
        base: Any = encoder.get_submodule(name)
        layer = ThirdsLoRA(
            base, self.thirds, rank=self.rank, scale=self.alpha / self.rank, gated=self.gated
        )
        encoder.set_submodule(name, layer)
        matrices: dict[str, nn.Module] = {"lora_A": layer.lora_A, "lora_B": layer.lora_B}
        return matrices | ({} if layer.lora_gate is None else {"lora_gate": layer.lora_gate})

    def _find(self, encoder: nn.Module, targets: Sequence[str]) -> list[str]:
        found: list[str] = []
        for target in targets:
            pattern = re.compile(r"(?:.+\.)?blocks\.\d+\." + _NAMES[target])
            names = [
                name
                for name, module in encoder.named_modules()
                if pattern.fullmatch(name) and isinstance(module, nn.Linear)
            ]
            if not names:
                raise ValueError(f"the encoder has no linear layers for target {target!r}")
            found += names
        return found


class ThirdsLoRA(nn.Module):
    """A query-key-value layer with low-rank products on some of its thirds."""

    def __init__(
        self,
        base_layer: nn.Linear,
        thirds: Sequence[str],
        *,
        rank: int,
        scale: float = 1.0,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer, self.scale = base_layer, scale
        dim_in, dim_out = base_layer.in_features, base_layer.out_features // 3
        self.lora_A = nn.ModuleDict({t: nn.Linear(dim_in, rank, bias=False) for t in thirds})
        self.lora_B = nn.ModuleDict({t: nn.Linear(rank, dim_out, bias=False) for t in thirds})
        for product in self.lora_B.values():
            nn.init.zeros_(product.weight)  # type: ignore[arg-type]
        self.lora_gate = nn.Linear(dim_in, 1, bias=False) if gated else None
        self.to(base_layer.weight)

    @override
    def forward(self, x: Float[Tensor, "n *window dim"]) -> Float[Tensor, "n *window qkv"]:
        qkv = self.base_layer(x)
        none = torch.zeros_like(qkv[..., : qkv.shape[-1] // 3])
        products = [
            self.lora_B[third](self.lora_A[third](x)) if third in self.lora_A else none
            for third in _THIRDS
        ]
        edit = self.scale * torch.cat(products, dim=-1)
        if self.lora_gate is not None:
            window = tuple(range(1, x.ndim - 1))
            edit = self.lora_gate(x.mean(window, keepdim=True)) * edit
        return qkv + edit


def _wrap(encoder: nn.Module, names: list[str], rank: int, alpha: int) -> None:
    """Let peft replace the named layers; it is imported here because that takes seconds."""
    from peft import LoraConfig, inject_adapter_in_model

    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    pattern = "|".join(re.escape(name) for name in names)
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=pattern), encoder
    )
    # peft freezes whatever it does not add
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_OWN in name or name.replace("." + _BASE, ".") in trainable)


def _hide(_: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        rest = key.removeprefix(prefix)
        if rest.startswith(_OWN):
            del state[key]
        elif rest.startswith(_BASE):
            state[prefix + rest.removeprefix(_BASE)] = state.pop(key)


def _restore(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for name, parameter in module.named_parameters():
        if name.startswith(_BASE):
            outside = prefix + name.removeprefix(_BASE)
            if outside in state:
                state[prefix + name] = state.pop(outside)
        else:
            state[prefix + name] = parameter.detach()
