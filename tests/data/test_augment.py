"""Random numbers, crops, mirror images and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hpcbench.tasks.image_augmentation import (
    CROP_AREA,
    AugmentationSeed,
    CropAndFlip,
    Flip,
    NormaliseImages,
    ResizedCropAndFlip,
    crop_box,
    crop_boxes,
    crop_numbers,
    random_below,
    random_number_table,
    random_numbers,
    resample_boxes,
)
from hpcbench.tasks.picture_decoding import make_torchvision_importable
from hpcbench.tasks.smoke_data import photographs

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def _images(count: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)


def test_numbers_are_those_of_splitmix64() -> None:
    """The hash is the published one: its first outputs from state 0, as the reference program prints them."""
    from hpcbench.tasks.image_augmentation import _GAMMA, _mixed_number

    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [_mixed_number(step * _GAMMA) for step in (1, 2, 3)] == published


def test_tensor_arithmetic_is_that_of_whole_numbers() -> None:
    """64-bit tensors that wrap and shift give what Python's unlimited integers give."""
    from hpcbench.tasks.image_augmentation import _mixed, _mixed_number, _signed

    words = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    mixed = _mixed(torch.tensor([_signed(word) for word in words]))
    assert [each % 2**64 for each in mixed.tolist()] == [_mixed_number(word) for word in words]


def test_numbers_are_uniform_and_unrelated() -> None:
    """Mean, spread and correlations over 100,000 samples are those of independent uniform numbers."""
    samples = torch.arange(100_000)
    columns = [
        random_numbers(0, 0, samples, 0),
        random_numbers(1, 0, samples, 0),
        random_numbers(0, 1, samples, 0),
        random_numbers(0, 0, samples, 1),
    ]
    uniform = torch.stack(columns).double() / 2**32
    assert (uniform.mean(1) - 0.5).abs().max() < 0.005
    assert (uniform.var(1) - 1 / 12).abs().max() < 0.001
    assert (torch.corrcoef(uniform) - torch.eye(4)).abs().max() < 0.015
    counts = torch.bincount(random_below(9, 0, 0, samples, 1), minlength=9)
    assert (counts / 100_000 - 1 / 9).abs().max() < 0.005


def test_many_numbers_are_the_single_ones() -> None:
    """Drawing several numbers at once is only faster."""
    samples = torch.tensor([5, 0, 1_281_166])
    expected = torch.stack([random_numbers(7, 2, samples, number) for number in range(8, 12)], dim=1)
    assert torch.equal(random_number_table(7, 2, samples, range(8, 12)), expected)


def test_crop_and_flip_move_pixels_as_a_loop_would() -> None:
    """One gather does what padding, cutting out and mirroring each image does."""
    images, samples, moment = _images(64), torch.arange(100, 164), AugmentationSeed(3, 1)
    done = CropAndFlip(4)(images, samples, moment).numpy()
    top = random_below(9, 3, 1, samples, 1).tolist()
    left = random_below(9, 3, 1, samples, 2).tolist()
    mirrored = random_below(2, 3, 1, samples, 0).bool().tolist()
    padded = np.pad(images.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)))
    for row in range(64):
        expected = padded[row, top[row] : top[row] + 32, left[row] : left[row] + 32]
        assert np.array_equal(done[row], expected[:, ::-1] if mirrored[row] else expected)
    assert {True, False} == set(mirrored)
    assert set(top) == set(range(9))


@pytest.mark.parametrize("augmentation", [CropAndFlip(4), Flip(), ResizedCropAndFlip(24)])
def test_a_sample_looks_the_same_in_any_batch(augmentation: CropAndFlip | Flip | ResizedCropAndFlip) -> None:
    """What is done to a sample depends on seed, epoch and sample, not on its neighbours."""
    images, samples, moment = _images(16), torch.arange(16) * 77, AugmentationSeed(0, 5)
    together = augmentation(images, samples, moment)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(augmentation(images[order], samples[order], moment), together[order])
    assert torch.equal(augmentation(images[3:4], samples[3:4], moment), together[3:4])


@pytest.mark.parametrize("augmentation", [CropAndFlip(4), ResizedCropAndFlip(24)])
def test_epochs_and_seeds_show_other_crops(augmentation: CropAndFlip | ResizedCropAndFlip) -> None:
    """No two of ten epochs show the same batch, nor do two seeds."""
    images, samples = _images(32), torch.arange(32)
    seen = [augmentation(images, samples, AugmentationSeed(0, epoch)) for epoch in range(10)]
    seen.append(augmentation(images, samples, AugmentationSeed(1, 0)))
    assert len({each.numpy().tobytes() for each in seen}) == len(seen)


def test_evaluation_is_not_augmented() -> None:
    """CIFAR's validation images are taken as they are, others by their centre, in any epoch."""
    images, samples, moment = _images(8), torch.arange(8), AugmentationSeed(9, None)
    assert torch.equal(CropAndFlip(4)(images, samples, moment), images)
    assert torch.equal(ResizedCropAndFlip(28)(images, samples, moment), images[:, 2:30, 2:30])


def test_random_boxes_are_as_large_and_as_long_as_the_recipe_says() -> None:
    """A box covers 8 to 100 % of the image, is at most 4 to 3, lies inside, and reaches every corner."""
    shapes = [(375, 500)] * 2000
    boxes = torch.tensor(crop_boxes(shapes, torch.arange(2000), AugmentationSeed(0, 0))).double()
    top, left, height, width = boxes.unbind(1)
    share = height * width / (375 * 500)
    assert share.min() > CROP_AREA[0] - 0.01
    assert abs(share.mean() - _torchvisions_mean_share(375, 500)) < 0.02
    assert (width / height).log().abs().max() < np.log(4 / 3) + 0.02
    assert (top + height).max() <= 375
    assert (left + width).max() <= 500
    assert top.min() == 0
    assert left.min() == 0


def _torchvisions_mean_share(height: int, width: int) -> float:
    make_torchvision_importable()
    from torchvision.transforms import RandomResizedCrop

    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    return sum(tall * wide for _, _, tall, wide in boxes) / 2000 / (height * width)


def test_very_long_image_still_gives_a_box() -> None:
    """Where none of ten boxes fits, the largest allowed one in the middle is taken."""
    numbers = crop_numbers(torch.arange(50), AugmentationSeed(0, 0))
    assert numbers is not None
    boxes = [crop_box(10, 3000, each) for each in numbers]
    assert all(0 <= top <= 10 - height and 0 <= left <= 3000 - width for top, left, height, width in boxes)
    assert (0, 1493, 10, 13) in boxes


@pytest.mark.parametrize(
    ("box", "size"), [((10, 20, 250, 300), 224), ((40, 7, 50, 60), 224), ((0, 0, 300, 400), 64)]
)
def test_resampling_agrees_with_pillow(box: tuple[int, int, int, int], size: int) -> None:
    """Weights of 256ths differ from Pillow's finer ones by one grey level at most, and hardly ever."""
    photograph = np.ascontiguousarray(photographs()[0][:300, :400])
    top, left, height, width = box
    part = Image.fromarray(photograph[top : top + height, left : left + width])
    expected = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    ours = (
        resample_boxes(torch.from_numpy(photograph)[None], torch.tensor([box]), size)[0].numpy().astype(int)
    )
    assert abs(ours - expected).max() <= 1
    assert abs(ours - expected).mean() < 0.25


def test_resampling_keeps_grey_levels() -> None:
    """Weights add up to one: an image of one colour keeps it, whatever the box."""
    image = torch.full((1, 37, 53, 3), 201, dtype=torch.uint8)
    for box in ((0, 0, 37, 53), (5, 6, 1, 1), (30, 50, 7, 3)):
        assert resample_boxes(image, torch.tensor([box]), 29).unique().tolist() == [201]


def test_normalisation_is_the_same_in_both_memory_formats() -> None:
    """channels_last changes where numbers lie, not one bit of them."""
    images = _images(4)
    plain, last = (
        NormaliseImages(MEAN, DEVIATION, torch.float32, layout)(images) for layout in (False, True)
    )
    expected = (images.permute(0, 3, 1, 2).double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        DEVIATION
    ).view(3, 1, 1)
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain.double(), expected, atol=1e-5)
