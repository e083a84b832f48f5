from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from rtl.config.schema import AugmentConfig
from rtl.data.images.augmentation import augment


def by_torchvision(image: torch.Tensor, size: int, wanted: AugmentConfig) -> torch.Tensor:
    steps: list[v2.Transform] = []
    if wanted.min_scale < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(wanted.min_scale, 1.0), antialias=True))
    if wanted.jitter:
        steps.append(v2.ColorJitter(brightness=wanted.jitter, contrast=wanted.jitter))
    made: torch.Tensor = v2.Compose(steps)(image)
    return made


def photo(height: int, width: int, seed: int, *, strided: bool) -> torch.Tensor:
    """Random colours; `strided` has the layout of a decoded JPEG."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 256, (3, 6, 8), generator=generator).float()
    noise = 20 * torch.randn(3, height, width, generator=generator)
    smooth = v2.functional.resize(low, [height, width], antialias=True)
    pixels = (smooth + noise).clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1) if strided else pixels


@pytest.mark.parametrize("strided", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (120, 160, AugmentConfig()),
        (60, 40, AugmentConfig(min_scale=0.2, jitter=1.0)),  # enlarged; up to black and white
        (99, 99, AugmentConfig(min_scale=1, jitter=0.4)),
        (150, 200, AugmentConfig(jitter=0)),
    ],
)
def test_views_are_those_of_torchvision_bit_for_bit(
    height: int, width: int, wanted: AugmentConfig, strided: bool
) -> None:
    for seed in range(12):
        image = photo(height, width, seed, strided=strided)
        before = image.clone()
        torch.manual_seed(seed)
        expected = by_torchvision(image, 99, wanted)
        drawn_next = torch.rand(1)
        torch.manual_seed(seed)
        found = augment(image, 99, wanted)
        assert torch.rand(1) == drawn_next  # as many numbers were drawn
        assert found.dtype == torch.uint8
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert torch.equal(image, before)
