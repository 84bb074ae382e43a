"""The stem over pairs of rows and columns, as GPUs compute it: the plain convolution and its input gradient."""

import pytest
import torch
import torch.nn.functional as F

from models.frozen.fold import fold
from models.frozen.paired_convolution import Geometry, PairedConvolution, paired_weight
from models.i3d import resnet50_i3d, small_i3d
from tests.models.test_frozen import error, randomised

I3D_STEM = Geometry((5, 7, 7), (2, 2, 2), (2, 3, 3))
SMALL_STEM = Geometry((3, 5, 5), (2, 2, 2), (1, 2, 2))


@pytest.mark.parametrize(
    "geometry",
    [I3D_STEM, SMALL_STEM, Geometry((1, 3, 5), (1, 2, 2), (0, 1, 2)), Geometry((3, 4, 6), (1, 2, 2), (1, 1, 2))],
)
@pytest.mark.parametrize("size", [(2, 8, 20, 26), (1, 7, 21, 24), (1, 6, 18, 23), (2, 5, 13, 15)])
def test_is_the_plain_convolution(geometry, size):
    """In double, of even and odd frames and lengths, whatever the mean colour is."""
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(*size, 3, generator=generator, dtype=torch.double).requires_grad_()
    mean = torch.tensor([0.5, 0.3, -2.0], dtype=torch.double)
    weight = torch.randn(6, 3, *geometry.kernel, generator=generator, dtype=torch.double)
    expected = F.conv3d((video - mean).permute(0, 4, 1, 2, 3), weight, None, *geometry[1:])
    found = PairedConvolution.apply(video, mean, paired_weight(weight, geometry), geometry)
    assert found.shape == expected.shape and found.is_contiguous(memory_format=torch.channels_last_3d)
    assert error(found, expected) < 1e-12
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.double)
    gradients = [torch.autograd.grad(out, video, towards)[0] for out in (found, expected)]
    assert error(*gradients) < 1e-12


@pytest.mark.parametrize("build", [resnet50_i3d, small_i3d])
def test_stem(build):
    """The stem gives what it gives on the CPU, and asks for as many channels as tensor cores take."""
    torch.manual_seed(0)
    stem = fold(randomised(build(7))).stem.double()
    video = torch.rand(2, 9, 32, 36, 3).double().requires_grad_()
    outs = stem.over_pairs(video), stem(video)
    assert error(*outs) < 1e-12 and stem.paired.shape[1] % 8 == 0
    towards = torch.randn_like(outs[0])
    assert error(*(torch.autograd.grad(out, video, towards)[0] for out in outs)) < 1e-12


def test_under_autocast():
    """It computes in bfloat16, in which another pixel may win a pool; the gradient of float32 clips is float32."""
    torch.manual_seed(0)
    stem, video = fold(small_i3d(7)).stem, torch.rand(1, 8, 32, 32, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = stem.over_pairs(video)
    (gradient,) = torch.autograd.grad(out.float().sum(), video)
    wanted = stem(video)
    assert out.dtype == torch.bfloat16 and error(out.float(), wanted) < 0.01
    assert gradient.dtype == torch.float32 and (gradient != gradient.bfloat16()).any()  # frames are summed in float32
    assert error(gradient, torch.autograd.grad(wanted.sum(), video)[0]) < 0.1
