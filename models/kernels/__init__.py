"""3-D convolutions written out as 2-D convolutions and matrix products; they equal `nn.Conv3d` up to rounding."""
