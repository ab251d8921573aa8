import subprocess
import sys

import pytest
import torch
from torch import nn

from latent_scattering.upsampling import UpsampledConvolution


def reference(layer):
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        bias=layer.bias is not None,
    )
    convolution.load_state_dict(layer.state_dict())
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ReflectionPad2d(layer.kernel_size[0] // 2),
        convolution,
    ).to(layer.weight.dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "k"), [((7, 7), 3), ((4, 4), 7), ((5, 3), 5), ((1, 2), 1), ((1, 1), 3)]
)
def test_is_upsampling_then_padding_then_convolution(size, k, bias):
    torch.manual_seed(0)
    layer = UpsampledConvolution(3, 4, k, bias=bias).double()
    plain = reference(layer)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    weights = torch.randn(2, 4, 2 * size[0], 2 * size[1])
    gradients = []
    for module in (layer, plain):
        given = x.clone().requires_grad_()
        y = module(given)
        (y * weights).sum().backward()
        parameters = [p.grad for p in module.parameters()]
        gradients.append([y.detach(), given.grad, *parameters])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_single_precision_and_memory():
    torch.manual_seed(0)
    layer = UpsampledConvolution(64, 32, 3)
    x = torch.randn(4, 64, 14, 14)
    with torch.inference_mode():  # what is cached there must serve training too
        expected = reference(layer)(x)
        y = layer(x)
    assert (y - expected).norm() / expected.norm() < 1e-6
    assert y.is_contiguous(memory_format=torch.channels_last)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_a_bias_leaves_bfloat16_as_it_is():
    layer = UpsampledConvolution(4, 3, 3, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 4, 8, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.bias.grad.dtype == torch.float32
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 2.0 * 16 * 16))


COMPILED = """
import torch
from latent_scattering.upsampling import UpsampledConvolution

layer, x, graphs = UpsampledConvolution(4, 3, 3), torch.randn(2, 4, 8, 8), []
compiled = torch.compile(
    layer, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True
)
torch.testing.assert_close(compiled(x), layer(x))
(graph,) = graphs
made = " ".join(str(node.target) for node in graph.graph.nodes)
assert "matmul" in made and "interpolate" not in made and "stack" not in made, made
"""


def test_taps_are_constants_of_a_compiled_network():
    """Made once, without a break of the graph or a warning."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", COMPILED]
    subprocess.run(command, check=True, timeout=120)
