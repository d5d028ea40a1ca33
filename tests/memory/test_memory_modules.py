import pytest
import torch

from segkit.memory import MemoryBank, MemorySizes, Sam2Memory

DIM, MEMORY, SIZE = 32, 16, (4, 6)
CELLS = SIZE[0] * SIZE[1]


@pytest.fixture(scope="module")
def memory() -> Sam2Memory:
    torch.manual_seed(0)
    return Sam2Memory(MemorySizes(dim=DIM, memory_dim=MEMORY, layers=2, mlp_dim=48)).eval()


def _bank(counts: dict[int, int]) -> MemoryBank:
    """Objects that have been tracked for unequal numbers of frames, up to frame 6."""
    generator = torch.Generator().manual_seed(1)
    bank = MemoryBank(rounds=False)
    for one, count in counts.items():
        for frame in range(7 - count, 7):
            maps = torch.randn(1, CELLS, MEMORY, generator=generator)
            pointers = torch.randn(1, DIM, generator=generator)
            bank = bank.add([one]).at(frame)
            bank = bank.remember([one], maps, pointers, is_prompted=frame == 7 - count)
    return bank.at(7)


def test_masked_attention_equals_each_object_alone(memory) -> None:
    image = torch.randn(1, DIM, *SIZE, generator=torch.Generator().manual_seed(2))
    bank = _bank({1: 1, 2: 4, 3: 7})
    index = torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        together = memory.attend(image, bank.recollect([1, 2, 3]), index)
        for row, one in enumerate((1, 2, 3)):
            alone = memory.attend(image, bank.recollect([one]), index[:1])
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-6, rtol=1e-5)


def test_objects_lie_on_images_of_their_own(memory) -> None:
    images = torch.randn(2, DIM, *SIZE, generator=torch.Generator().manual_seed(3))
    bank = _bank({1: 3, 2: 3})
    with torch.no_grad():
        together = memory.attend(images, bank.recollect([1, 2]), torch.tensor([1, 0]))
        alone = memory.attend(images[1:], bank.recollect([1]), torch.tensor([0]))
    torch.testing.assert_close(together[:1], alone, atol=2e-6, rtol=1e-5)


def test_gradient_reaches_the_memory(memory) -> None:
    image = torch.randn(1, DIM, *SIZE)
    maps = torch.randn(1, CELLS, MEMORY, requires_grad=True)
    bank = MemoryBank().add([1]).remember([1], maps, torch.randn(1, DIM), is_prompted=True).at(1)
    memory.attend(image, bank.recollect([1]), torch.tensor([0])).square().sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().sum() > 0


def test_an_unseen_object_is_marked_in_its_map_and_pointer(memory) -> None:
    image, masks = torch.randn(1, DIM, *SIZE), torch.rand(2, 1, 64, 96)
    seen = torch.tensor([[True], [False]])
    index = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        plain = memory.encode(image, masks, None, index)
        marked = memory.encode(image, masks, seen, index)
        pointers = memory.pointer(torch.randn(2, DIM), seen)
    torch.testing.assert_close(marked[0], plain[0])
    torch.testing.assert_close(marked[1], plain[1] + memory.no_obj_embed_spatial)
    torch.testing.assert_close(pointers[1:], memory.no_obj_ptr)


def test_official_key_names() -> None:
    full, first = Sam2Memory(MemorySizes()), MemorySizes(
        pointer_positions=False, occlusion_embedding=False
    )  # fmt: skip
    keys = set(full.state_dict())
    assert len(keys) == 160
    assert {
        "memory_attention.layers.3.cross_attn_image.k_proj.weight",
        "memory_encoder.fuser.layers.1.gamma",
        "memory_encoder.mask_downsampler.encoder.12.bias",
        "obj_ptr_proj.layers.2.weight",
        "maskmem_tpos_enc",
        "mask_downsample.weight",
    } <= keys
    gone = keys - set(Sam2Memory(first).state_dict())
    assert gone == {"obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias", "no_obj_embed_spatial"}


def test_widths_are_checked() -> None:
    with pytest.raises(ValueError, match=r"dim one of memory_dim, got 256 and 48"):
        MemorySizes(memory_dim=48)
