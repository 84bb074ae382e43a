"""An I3D that is only run: batch-norm folded, both passes of its stem and blocks written out by hand."""

from torch import Tensor, nn

from models.frozen.bottleneck import FrozenBottleneck
from models.frozen.stem import FrozenStem
from models.i3d import I3D, classify


class FrozenI3D(nn.Module):
    """The function of an I3D in eval mode, for logits and gradients with respect to the video.

    Args:
        network: with its batch-norms folded into its convolutions.
    """

    def __init__(self, network: I3D):
        super().__init__()
        self.stages, self.pool_frames = network.stages, network.pool_frames
        self.stem = FrozenStem(network)
        self.maxpool2, self.fc = network.maxpool2, network.fc
        for i in range(self.stages):
            name = f"layer{i + 1}"
            setattr(self, name, nn.Sequential(*(FrozenBottleneck(block) for block in getattr(network, name))))

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = self.maxpool2(self.layer1(self.stem(video)))
        for i in range(1, self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return classify(x, self.pool_frames, self.fc, video.shape[1])
