"""Compare modules of the released implementations with segkit's, outputs and gradients.

Both get the same random weights and the same random input. Checkouts are named by environment
variables; methods without one are skipped. Nothing of them is part of segkit:

    I_MEDSAM=... DVPT=... SAM_ADAPTER=... SAM2_ADAPTER=... DD_SAM2=... SAM3D_ADAPTER=... \
    STU_NET=... python -m tools.parity.harness     # writes benchmarks/results/parity_methods.*

The I-MedSAM code needs einops. A difference is relative to the largest value compared with.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segkit.torchvision_compat  # noqa: F401 (before the originals import torchvision)
from benchmarks.table import write

TOLERANCE = 1e-5
METHODS = {
    "i_medsam": ("I_MEDSAM", "ucwxb/I-MedSAM@07aac15"),
    "dvpt": ("DVPT", "NKUhealong/DVPT@180a4a4"),
    "sam_adapter": ("SAM_ADAPTER", "tianrun-chen/SAM-Adapter-PyTorch@665145d"),
    "sam2_adapter": ("SAM2_ADAPTER", "tianrun-chen/SAM-Adapter-PyTorch@db7ee31 (SAM 2 branch)"),
    "dd_sam2": ("DD_SAM2", "apple1986/DD-SAM2@d1634e2"),
    "sam3d_adapter": ("SAM3D_ADAPTER", "med-air/3DSAM-adapter@f4fb8f3"),
    "stu_net": ("STU_NET", "uni-medical/STU-Net@0652eaf"),
}
"""Method file, environment variable of its checkout, and the commit it was compared at."""


@dataclass(frozen=True)
class Case:
    """One comparison: `theirs` and `ours` map `data` and `inputs` to tensors.

    Gradients are taken to the inputs and to the `pairs` of parameters that share values; `data`
    are what a frozen or numpy part reads.
    """

    module: str
    theirs: Callable[..., Any]
    ours: Callable[..., Any]
    inputs: Sequence[Tensor]
    pairs: Sequence[tuple[nn.Parameter, nn.Parameter]] = ()
    data: Sequence[Tensor] = ()


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Draw every parameter, and the statistics of norms, so that nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = scale * torch.randn(tensor.shape, generator=generator)
                is_scale = tensor.ndim == 1 and name.endswith("weight")
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
                tensor.add_(1.0 if is_scale else 0.0)


def copied(
    theirs: Sequence[nn.Parameter], ours: Sequence[nn.Parameter]
) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Give ours the values of theirs, in order."""
    pairs = list(zip(theirs, ours, strict=True))
    with torch.no_grad():
        for source, target in pairs:
            target.copy_(source)
    return pairs


def compare(case: Case) -> tuple[float, float]:
    """Largest relative difference of the outputs, and of all gradients."""
    outputs, gradients = [], []
    for run, side in ((case.theirs, 0), (case.ours, 1)):
        leaves = [one.clone().requires_grad_() for one in case.inputs]
        parameters = [pair[side] for pair in case.pairs]
        made = run(*case.data, *leaves)
        made = list(made) if isinstance(made, list | tuple) else [made]
        loss = sum((one * _weights(one, number)).sum() for number, one in enumerate(made))
        found = torch.autograd.grad(loss, [*leaves, *parameters], allow_unused=True)  # type: ignore[arg-type]
        outputs.append(made)
        gradients.append(found)
    return _worst(*outputs), _worst(*gradients)


def images(*shape: int, seed: int = 1) -> Tensor:
    """Random values in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def import_package(folder: Path, name: str, *, run_init: bool = True) -> types.ModuleType:
    """Import a folder as a package under a name of our own, so that it hides nothing."""
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_loader(name, None, is_package=True)
    if run_init and init.exists():
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(folder)]
        )
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    if spec.loader is not None:
        spec.loader.exec_module(package)
    return package


def import_file(path: Path, name: str) -> Any:
    """Import one file under a name of our own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def stubs(names: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Stand in for modules that the originals import and do not need here."""
    kept = {name: sys.modules.get(name) for name in names}
    for name, values in names.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        module.__path__ = []
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module_before in kept.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before


def _weights(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 10))


def _worst(expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> float:
    differences = [0.0]
    for one, other in zip(expected, found, strict=True):
        if one is None or other is None:
            values = [x for x in (one, other) if x is not None and x.any()]
            assert not values, "a gradient reaches only one of both"
            continue
        scale = max(float(one.abs().max()), 1e-30)
        differences.append(float((one - other).abs().max()) / scale)
    return max(differences)


def run(names: Sequence[str]) -> list[dict[str, object]]:
    """Compare every method whose checkout is named."""
    rows: list[dict[str, object]] = []
    for name in names:
        variable, original = METHODS[name]
        if variable not in os.environ:
            print(f"{name}: {variable} is not set, skipped")
            continue
        method = importlib.import_module(f"tools.parity.{name}")
        for case in method.cases(Path(os.environ[variable])):
            forward, gradient = compare(case)
            row = {"original": original, "module": case.module}
            rows.append(row | {"forward": forward, "gradient": gradient})
            print(f"{name:14} {case.module:40} {forward:9.2e} {gradient:9.2e}", flush=True)
    return rows


def main() -> int:
    """Compare, print, and write the table; 1 if a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", choices=[*METHODS, []], help="all without one")
    names = parser.parse_args().methods
    torch.manual_seed(0)
    rows = run(names or list(METHODS))
    if not names:
        notes = f"Differences are relative to the largest value; allowed is {TOLERANCE:g}."
        title = "Parity of the methods with their released code"
        print(write("parity_methods", title, rows, notes=notes))
    worst = max((max(row["forward"], row["gradient"]) for row in rows), default=0.0)  # type: ignore[type-var]
    return int(worst > TOLERANCE)  # type: ignore[operator]


if __name__ == "__main__":
    raise SystemExit(main())
