"""Low-rank weight edits inside the blocks (LoRA), through peft."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import nn
from typing_extensions import override

from segkit.adapters.base import Adapter
from segkit.typing import BackboneSpec

Target = Literal["qkv", "proj", "mlp"]
_NAMES: dict[str, str] = {
    "qkv": r"attn\.qkv",
    "proj": r"attn\.proj",
    "mlp": r"mlp\.(?:lin1|lin2|fc1|fc2|layers\.\d+)",
}
_BASE, _OWN = "base_layer.", "lora_"


class LoRA(Adapter):
    """Add trainable low-rank products to linear layers of the frozen blocks.

    Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021), section 4.1; the
    layers are peft's. `targets` names the layers: "qkv", "proj" (attention) and "mlp". The product
    is scaled by `alpha / rank`; None means alpha = rank. It starts at zero.

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
    ) -> None:
        super().__init__(spec)
        if rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}")
        if alpha is not None and alpha < 1:
            raise ValueError(f"alpha must be None or >= 1, got {alpha}")
        if not targets or set(targets) - set(get_args(Target)):
            raise ValueError(f"targets must be some of {get_args(Target)}, got {tuple(targets)}")
        self.rank, self.alpha, self.targets = rank, alpha or rank, tuple(targets)
        self.layers = nn.ModuleDict()

    @override
    def attach(self, encoder: nn.Module) -> None:
        names = self._find(encoder)
        _wrap(encoder, names, self.rank, self.alpha)
        for name in names:
            layer: Any = encoder.get_submodule(name)
            layer.register_state_dict_post_hook(_hide)
            layer.register_load_state_dict_pre_hook(_restore)
            # colons, because module names must not contain dots
            self.layers[name.replace(".", ":")] = nn.ModuleDict(
                {"lora_A": layer.lora_A["default"], "lora_B": layer.lora_B["default"]}
            )

    def _find(self, encoder: nn.Module) -> list[str]:
        if any(name.endswith("base_layer") for name, _ in encoder.named_modules()):
            raise ValueError("this encoder has LoRA layers already; use one LoRA with all targets")
        found: list[str] = []
        for target in self.targets:
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
