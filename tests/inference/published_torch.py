"""PyTorch networks with the keys and the arithmetic of the published ones, narrow."""

import torch
from torch import nn


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


class Conv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(sign(x), sign(self.weight), None)


class Linear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(sign(x), sign(self.weight))


def conv(inputs, outputs, size=3, stride=1):
    return Conv(inputs, outputs, size, stride, size // 2, bias=False)


class BinaryNet(nn.Module):
    def __init__(self, classes=5, side=16, width=8):
        super().__init__()
        pooled = nn.MaxPool2d(2)
        c1, c2, c3, hidden = width, 2 * width, 4 * width, 8 * width
        maps = [(c1, c1, True), (c1, c2, False), (c2, c2, True), (c2, c3, False)]
        parts = [nn.Conv2d(3, c1, 3, padding=1), nn.BatchNorm2d(c1), nn.Hardtanh()]
        for inputs, outputs, halves in [*maps, (c3, c3, True)]:
            parts += [conv(inputs, outputs), *([pooled] if halves else [])]
            parts += [nn.BatchNorm2d(outputs), nn.Hardtanh()]
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(
            Linear(c3 * (side // 8) ** 2, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Hardtanh(),
            Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Hardtanh(),
            nn.Linear(hidden, classes),
            nn.BatchNorm1d(classes, affine=False),
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, last):
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            shortcut = conv(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.last = last

    def forward(self, x):
        y = self.conv2(self.bn1(self.conv1(x)))
        y = y + (x if self.downsample is None else self.downsample(x))
        return y if self.last else nn.functional.hardtanh(self.bn2(y))


class ResNet18(nn.Module):
    def __init__(self, classes=5, side=64, width=8):
        super().__init__()
        c1, c2, c3 = width, 2 * width, 4 * width
        self.conv1 = nn.Conv2d(3, c1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c1)
        stages = [(c1, c1, 1), (c1, c2, 2), (c2, c3, 2)]
        for index, (inputs, outputs, stride) in enumerate(stages):
            blocks = (
                Block(inputs, outputs, stride, last=False),
                Block(outputs, outputs, 1, last=index == 2),
            )
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        flat = c3 * (side // 32) ** 2
        self.bn2 = nn.BatchNorm1d(flat)
        self.fc = nn.Linear(flat, classes)
        self.bn3 = nn.BatchNorm1d(classes)

    def forward(self, x):
        x = nn.functional.hardtanh(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.bn2(nn.functional.avg_pool2d(x, 8).flatten(1))
        return self.bn3(self.fc(nn.functional.hardtanh(x)))


def trained(net, side):
    """Fills a network with averages and scales of both signs; returns images, too."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, side, side, generator=chance)
    for module in net.modules():
        for name in ("weight", "bias"):
            value = getattr(module, name, None)
            if value is not None:
                size = 3.0 if isinstance(module, nn.BatchNorm2d) else 1.0
                value.data = size * torch.randn(value.shape, generator=chance)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
        return images, net.eval()(images).numpy()
