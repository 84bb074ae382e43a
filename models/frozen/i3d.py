"""An I3D for running only: batch-norm folded, forward and input gradient of stem and blocks written out.

It equals the network of `nn.Conv3d` and `nn.BatchNorm3d` (tests/models/test_frozen.py): in float64 logits and input
gradient to 1e-10; in float32 at 224 x 224 logits to 1e-5 and saliency maps to 1e-3, or at most twice as far from
float64 as that network's own.
"""

from torch import Tensor, nn

from models.frozen.bottleneck import FrozenBottleneck
from models.frozen.stem import FrozenStem
from models.i3d import I3D, classify


class FrozenI3D(nn.Module):
    """The function of an I3D in eval mode, batch-norms folded, for logits and gradients with respect to the video."""

    def __init__(self, network: I3D):
        super().__init__()
        self.pool_frames, self.head_name = network.pool_frames, network.head_name
        self.last_block, self.channels_last = network.last_block, network.channels_last
        self.stem = FrozenStem(network)
        self.maxpool2, self.fc = network.maxpool2, network.fc
        self.layer_names = network.layer_names
        for name in self.layer_names:
            self.add_module(name, nn.Sequential(*map(FrozenBottleneck, network.get_submodule(name))))

    def forward(self, video: Tensor) -> Tensor:
        """Compute logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = self.maxpool2(self.layer1(self.stem(video)))  # B, C, T', h, w
        for name in self.layer_names[1:]:
            x = self.get_submodule(name)(x)
        return classify(x, self.pool_frames, self.fc, video.shape[1])
