from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rtl.errors import WeightsError
from rtl.model import inception, kernels, pretrained
from rtl.model.kernels.convolution import PackedConv, has_fused_convolution
from rtl.model.kernels.graph import TracedPart

CPU = torch.device("cpu")
IMAGES = torch.randint(
    0, 256, (2, 3, 80, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    net = inception.build(num_classes=3)
    inception.load_part(net, pretrained.load("packaged", "unused").state)
    inception.init_head(net, seed=0)
    give_taps_weight(net)
    return net.eval()


@pytest.fixture(scope="module")
def last_block_alone(network: torch.nn.Sequential) -> torch.nn.Sequential:
    """The network whose head sees the last block's output alone, as torchvision's does."""
    net = copy.deepcopy(network)
    with torch.no_grad():
        net.get_parameter("taps.weight").zero_()
    return net


def give_taps_weight(network: torch.nn.Sequential) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = network.get_parameter("taps.weight")
    with torch.no_grad():
        weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("k", range(17))
def test_a_cuts_width_is_that_of_the_trunks_output(network: torch.nn.Sequential, k: int) -> None:
    trunk, _ = inception.split(network, k)
    with torch.inference_mode():
        maps, taps = trunk(torch.zeros(1, 3, 80, 80))
    assert inception.feature_width(k, 80) == maps.numel() + taps.numel()
    assert inception.taps_width(16 - k) == taps.numel()


@pytest.mark.parametrize("k", range(17))
def test_trunk_then_tail_is_the_whole_network(network: torch.nn.Sequential, k: int) -> None:
    trunk, tail = inception.split(network, k)
    pixels = IMAGES / 255.0
    with torch.no_grad():
        assert torch.equal(tail(*trunk(pixels)), network(pixels))
    blocks = [name for name, _ in tail.named_children() if name in inception.BLOCKS]
    assert blocks == list(inception.BLOCKS[16 - k :])


def test_the_blocks_in_this_order_are_torchvisions_network(
    last_block_alone: torch.nn.Sequential,
) -> None:
    from torchvision.models import Inception3

    network = last_block_alone
    reference = Inception3(num_classes=3, aux_logits=False, init_weights=False).eval()
    state = network.state_dict()
    del state["taps.weight"]
    reference.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(reference(IMAGES / 255.0), network(IMAGES / 255.0))


@pytest.mark.parametrize("k", [0, 3, 8, 11])
def test_folding_changes_nothing_but_rounding(network: torch.nn.Sequential, k: int) -> None:
    trunk, _ = inception.split(network, k)
    frozen = kernels.optimize_for_inference(
        trunk, device=CPU, dtype=torch.float32, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    with torch.no_grad():
        for found, expected in zip(frozen(IMAGES), trunk(IMAGES / 255.0), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_bf16_stays_close(network: torch.nn.Sequential) -> None:
    trunk, _ = inception.split(network, 0)
    exact, rounded = (
        kernels.optimize_for_inference(
            trunk, device=CPU, dtype=dtype, mean=(0.0,) * 3, std=(1.0,) * 3
        )(IMAGES)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (rounded.maps.dtype, rounded.taps.dtype) == (torch.bfloat16, torch.float32)
    for one, other in zip(exact, rounded, strict=True):
        assert torch.nn.functional.cosine_similarity(one, other.float()).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_graph_gives_the_bits_of_its_operators(
    network: torch.nn.Sequential, dtype: torch.dtype
) -> None:
    if not has_fused_convolution(dtype):
        pytest.skip("this processor's convolutions are not oneDNN's")
    trunk, _ = inception.split(network, 2)
    traced = kernels.optimize_for_inference(
        trunk, device=CPU, dtype=dtype, mean=(0.2,) * 3, std=(1.0,) * 3
    )

    @torch.inference_mode()
    def plain(images: torch.Tensor) -> torch.Tensor:
        pixels = images.to(dtype).contiguous(memory_format=torch.channels_last)
        output: torch.Tensor = traced.part(pixels).maps
        return output

    sizes = [IMAGES[:1], IMAGES, IMAGES.repeat(1, 1, 2, 2), IMAGES[:1]]
    expected = [plain(images) for images in sizes]
    assert any(isinstance(module, TracedPart) for module in traced.modules())
    for _ in range(2):  # through the part, then through its graph
        with ThreadPoolExecutor(4) as pool:  # lanes may bring new shapes at the same time
            found = list(pool.map(traced, sizes))
        for given, wanted in zip(found, expected, strict=True):
            assert torch.equal(given.maps, wanted)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(2):
            assert torch.equal(traced(IMAGES).maps, plain(IMAGES))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_what_moves_in_training(batch_norm: str) -> None:
    net = kernels.optimize_for_training(inception.build(num_classes=3))
    inception.load_part(net, pretrained.load("packaged", "unused").state)
    trunk, tail = inception.split(net, 2)
    trunk.eval().requires_grad_(False)
    inception.set_train_mode(tail, batch_norm)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.no_grad():
            features = trunk(IMAGES / 255.0)
        tail(*features).square().sum().backward()
        optimizer.step()
    moved = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert moved, "the tail does not train"
    assert {name.split(".")[0] for name in moved} == {"Mixed_7b", "Mixed_7c", "fc", "taps"}
    statistics = {name for name in moved if "running_" in name}
    assert bool(statistics) == (batch_norm == "train")


def test_the_plain_network_is_made_of_torchvisions_modules(network: torch.nn.Sequential) -> None:
    own = {type(m).__module__ for m in network.modules()} - {inception.__name__}
    assert all(module.startswith(("torch.", "torchvision.")) for module in own)


def test_a_network_for_training_shares_the_plain_ones_parameters() -> None:
    plain = inception.build(num_classes=3)
    faster = kernels.optimize_for_training(plain)
    assert list(faster.state_dict()) == list(plain.state_dict())
    for own, shared in zip(plain.parameters(), faster.parameters(), strict=True):
        assert own is shared
    again = kernels.optimize_for_training(faster)  # nothing is left to replace
    assert [type(m) for m in again.modules()] == [type(m) for m in faster.modules()]


def test_inference_needs_no_network_for_training_first(network: torch.nn.Sequential) -> None:
    faster = kernels.optimize_for_training(network)
    outputs = [
        kernels.optimize_for_inference(
            inception.split(given, 0)[0],
            device=CPU,
            dtype=torch.float32,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        )(IMAGES)
        for given in (network, faster)
    ]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


def test_the_head_is_a_function_of_the_seed() -> None:
    heads = []
    for seed in (1, 1, 2):
        net = inception.build(num_classes=5)
        inception.init_head(net, seed)
        heads.append(net.get_submodule("fc").weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_normalize_scales_uint8() -> None:
    out = inception.Normalize((0.5,) * 3, (0.5,) * 3, torch.float32)(IMAGES)
    torch.testing.assert_close(out, IMAGES.float() / 127.5 - 1)


def test_weights_from_a_torchvision_state_dict(place: str, network: torch.nn.Sequential) -> None:
    from rtl import storage

    buffer = io.BytesIO()
    torch.save({**network.state_dict(), "AuxLogits.fc.weight": torch.zeros(2, 2)}, buffer)
    storage.write_bytes(storage.join(place, "w.pth"), buffer.getvalue())
    loaded = pretrained.load(storage.join(place, "w.pth"), place)
    other = inception.build(num_classes=7)  # another head: the file's classifier is not used
    inception.load_part(other, loaded.state)
    assert torch.equal(other.state_dict()["Mixed_7c.branch1x1.conv.weight"],
                       network.state_dict()["Mixed_7c.branch1x1.conv.weight"])  # fmt: skip
    assert (loaded.mean, loaded.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="neither safetensors"):
        pretrained.load(str(tmp_path / "w.pth"), str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        pretrained.load(str(tmp_path / "none.pth"), str(tmp_path))
    net = inception.build(num_classes=3)
    state = net.state_dict()
    del state["Mixed_6a.branch3x3.conv.weight"]
    with pytest.raises(WeightsError, match=r"Mixed_6a\.branch3x3\.conv\.weight"):
        inception.load_part(net, state)
    state["Mixed_6a.branch3x3.conv.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="another network"):
        inception.load_part(net, state)


def test_imagenet_without_internet_names_the_other_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(WeightsError, match="packaged"):
        pretrained.load("imagenet", str(tmp_path))


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_the_blocks_train_as_torchvisions(network: torch.nn.Sequential, batch_norm: str) -> None:
    from torchvision.models import Inception3

    own = kernels.optimize_for_training(inception.build(num_classes=3))
    reference = Inception3(num_classes=3, aux_logits=False, init_weights=False)
    reference.dropout.p = 0.0
    state = network.state_dict()
    own.load_state_dict(state)
    del state["taps.weight"]
    reference.load_state_dict(state)
    own, reference = own[:-1].double(), reference.double()  # the taps are in fp32
    for model in (own, reference):
        inception.set_train_mode(model, batch_norm)  # type: ignore[arg-type]
    own(IMAGES.double() / 255.0).maps.square().sum().backward()
    reference(IMAGES.double() / 255.0).square().sum().backward()
    gradients = dict(reference.named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-6, atol=1e-9)
    statistics = reference.state_dict()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(value, statistics[name])


def test_pixels_are_scaled_in_the_first_convolution(network: torch.nn.Sequential) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.5, 0.25)
    trunk, _ = inception.split(network, 15)
    frozen = kernels.optimize_for_inference(
        trunk, device=CPU, dtype=torch.float32, mean=mean, std=std
    )
    scaled = inception.Normalize(mean, std, torch.float32)(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(frozen(IMAGES).maps, trunk(scaled).maps, atol=1e-4, rtol=1e-3)


def test_a_convolution_that_is_fused_is_the_one_that_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 8, 9, 9, generator=generator), torch.randn(4, 8, 1, 7)
    bias = torch.randn(4, generator=generator)
    own = PackedConv(weight, bias, padding=(0, 3))
    expected = torch.nn.functional.conv2d(x, weight, bias, padding=(0, 3)).relu()
    for rows in (2, 1, 2):
        torch.testing.assert_close(own(x[:rows]), expected[:rows])
