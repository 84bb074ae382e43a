"""I3D written plainly with nn.Conv3d on (B, 3, T, H, W): what models.i3d must equal, number for number."""

import torch
from torch import nn


class PlainBottleneck(nn.Module):
    def __init__(self, width_in, width, stride, momentum):
        super().__init__()
        inner = width // 4
        self.conv1 = nn.Conv3d(width_in, inner, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(inner, eps=0.001, momentum=momentum)
        self.conv2 = nn.Conv3d(inner, inner, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(inner, eps=0.001, momentum=momentum)
        self.conv3 = nn.Conv3d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width, eps=0.001, momentum=momentum)
        self.downsample = None
        if stride != 1 or width_in != width:
            conv = nn.Conv3d(width_in, width, 1, stride=(1, stride, stride), bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(width))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class PlainI3D(nn.Module):
    def __init__(self, num_classes, stem, stem_width, pool, blocks, widths, momentum, time_pool, window):
        super().__init__()
        self.conv1 = nn.Conv3d(3, stem_width, stem, stride=2, padding=[k // 2 for k in stem], bias=False)
        self.bn1 = nn.BatchNorm3d(stem_width, eps=0.001, momentum=momentum)
        self.maxpool = nn.MaxPool3d(pool, stride=[min(k, 2) for k in pool], padding=[k // 2 for k in pool])
        self.maxpool2 = nn.MaxPool3d((3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)) if time_pool else nn.Identity()
        width_in = stem_width
        self.layers = len(widths)
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            layer = nn.Sequential()
            for j in range(count):
                layer.append(PlainBottleneck(width_in, width, 2 if i > 1 and j == 0 else 1, momentum))
                width_in = width
            setattr(self, f"layer{i}", layer)
        self.avgpool = nn.AvgPool3d(window, stride=1)
        self.fc = nn.Conv3d(width_in, num_classes, 1)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def forward(self, video):
        x = ((video - self.mean) / self.std).permute(0, 4, 1, 2, 3).contiguous()
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for i in range(1, self.layers + 1):
            x = getattr(self, f"layer{i}")(x)
            x = self.maxpool2(x) if i == 1 else x
        return self.fc(self.avgpool(x)).mean((3, 4)).permute(0, 2, 1)


def plain_resnet50(num_classes, window=(2, 7, 7)):
    return PlainI3D(num_classes, (5, 7, 7), 64, (3, 3, 3), (3, 4, 6, 3), (256, 512, 1024, 2048), 0.01, True, window)


def plain_small(num_classes, window):
    return PlainI3D(num_classes, (3, 5, 5), 24, (1, 3, 3), (1, 1, 1), (48, 96, 160), 0.1, False, window)
