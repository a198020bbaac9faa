"""The networks and SGDAT as plain PyTorch, to measure against."""

import torch
from torch import nn
from torch.nn import functional


def sign(x: torch.Tensor) -> torch.Tensor:
    """Sign with sign(0) = +1 and the gradient of a Hardtanh."""
    x = functional.hardtanh(x)
    return x + (torch.where(x >= 0, 1.0, -1.0) - x).detach()


class BinaryConv(nn.Conv2d):
    """A convolution of signs, whose weights are -1 and +1 themselves."""

    def __init__(self, inputs, outputs, size=3, stride=1):
        super().__init__(inputs, outputs, size, stride, size // 2, bias=False)
        binarize(self.weight)

    def forward(self, x):
        return super().forward(sign(x))


class BinaryLinear(nn.Linear):
    """A linear layer of signs, whose weights are -1 and +1 themselves."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        binarize(self.weight)

    def forward(self, x):
        return super().forward(sign(x))


def binarize(weight):
    with torch.no_grad():
        weight.copy_(torch.where(weight >= 0, 1.0, -1.0))


def channels(width, features):
    return max(8, 8 * int(features * width / 8 + 0.5))


class BinaryNet(nn.Sequential):
    """VGG-small for 32x32 images."""

    def __init__(self, width=1.0):
        c1, c2, c3, hidden = (channels(width, c) for c in (128, 256, 512, 1024))
        maps = [(c1, c1, True), (c1, c2, False), (c2, c2, True)]
        maps += [(c2, c3, False), (c3, c3, True)]
        layers = [nn.Conv2d(3, c1, 3, padding=1), nn.BatchNorm2d(c1)]
        for inputs, outputs, pooled in maps:
            layers.append(BinaryConv(inputs, outputs))
            if pooled:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.BatchNorm2d(outputs))
        layers += [
            nn.Flatten(),
            BinaryLinear(16 * c3, hidden),
            nn.BatchNorm1d(hidden),
            BinaryLinear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.Hardtanh(),
            nn.Linear(hidden, 10),
            nn.BatchNorm1d(10, affine=False),
        ]
        super().__init__(*layers)


class SgdatBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, last):
        super().__init__()
        self.conv1 = BinaryConv(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = BinaryConv(outputs, outputs)
        self.norm2 = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.shortcut = nn.Hardtanh()
        if stride > 1:
            self.shortcut = nn.Sequential(
                BinaryConv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.conv2(self.norm1(self.conv1(x)))
        return self.norm2(y + self.shortcut(x))


class SgdatResNet18(nn.Sequential):
    """The three-stage network of the SGDAT paper, for 32x32 images."""

    def __init__(self, width=1.0):
        c1, c2, c3 = (channels(width, c) for c in (80, 160, 320))
        shapes = [(c1, c1, 1), (c1, c1, 1), (c1, c2, 2)]
        shapes += [(c2, c2, 1), (c2, c3, 2), (c3, c3, 1)]
        super().__init__(
            nn.Conv2d(3, c1, 3, padding=1, bias=False),
            nn.BatchNorm2d(c1),
            *(SgdatBlock(*shape, index == 5) for index, shape in enumerate(shapes)),
            nn.AvgPool2d(8),
            nn.Flatten(),
            nn.BatchNorm1d(c3),
            nn.Hardtanh(),
            nn.Linear(c3, 10),
            nn.BatchNorm1d(10),
        )


class BiRealBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = BinaryConv(inputs, outputs, stride=stride)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        return self.norm(self.conv(x)) + self.shortcut(x)


class BiRealResNet18(nn.Sequential):
    """The four-stage network with Bi-Real shortcuts, for 32x32 images."""

    def __init__(self, width=1.0):
        c1, c2, c3, c4 = (channels(width, c) for c in (64, 128, 256, 512))
        sizes = [*[c1] * 5, *[c2] * 4, *[c3] * 4, *[c4] * 4]
        super().__init__(
            nn.Conv2d(3, c1, 3, padding=1, bias=False),
            nn.BatchNorm2d(c1),
            *(
                BiRealBlock(sizes[i], sizes[i + 1], 2 if i in (4, 8, 12) else 1)
                for i in range(16)
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(c4, 10),
        )


class Sgdat(torch.optim.Optimizer):
    """SGDAT as its authors' code computes it, one tensor after another.

    After a step, `flipped` has the share of each tensor's weights that flipped.

    Args:
      params: the binary weights.
      learning_rate, threshold: as published by default.
      latents: latent weights of an optimizer before this one, which go on; None: zeros.
    """

    def __init__(self, params, learning_rate=1e-4, threshold=1e-7, latents=None):
        super().__init__(params, {"lr": learning_rate, "threshold": threshold})
        self.flipped = []
        (group,) = self.param_groups
        latents = latents or [torch.zeros_like(p) for p in group["params"]]
        for p, latent in zip(group["params"], latents, strict=True):
            self.state[p] = {"latent": latent, "flips": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self):
        self.flipped = []
        for group in self.param_groups:
            for p in group["params"]:
                latent, flips = self.state[p]["latent"], self.state[p]["flips"]
                latent.add_(p.grad, alpha=-group["lr"])
                flip = (latent.abs() > group["threshold"] * flips) & (
                    (latent >= 0) != (p >= 0)
                )
                flips.add_(flip)
                p.copy_(torch.where(flip, -p, p))
                self.flipped.append(flip.float().mean())


def split_parameters(net):
    """Returns the binary weights of a network, and its other parameters."""
    modules = [m for m in net.modules() if isinstance(m, BinaryConv | BinaryLinear)]
    binary = [m.weight for m in modules]
    known = {id(weight) for weight in binary}
    return binary, [p for p in net.parameters() if id(p) not in known]


def augment(images, padding):
    """Shifts images (NHWC) by up to some pixels and mirrors half of them, by chance."""
    count, height, width, _ = images.shape
    device = images.device
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    top, left = torch.randint(2 * padding + 1, (2, count, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    examples = torch.arange(count, device=device)[:, None, None]
    return padded[examples, rows[:, :, None], columns[:, None]]


def train_step(name, width, device, *, mixed, compiled, padding, mean, std):
    """Returns a function that takes one step on some of all images (NHWC, uint8).

    It returns metrics as the library's step does: the sums over the batch of the loss,
    of correct and of top-5 predictions, and the share of each binary kernel that flips.
    """
    net = {
        "BinaryNet": BinaryNet,
        "SgdatResNet18": SgdatResNet18,
        "BiRealResNet18": BiRealResNet18,
    }[name](width).to(device, memory_format=torch.channels_last)
    binary, real = split_parameters(net)
    optimizers = [Sgdat(binary), torch.optim.Adam(real, 1e-3)]
    forward = torch.compile(net) if compiled else net
    mean, std = torch.tensor(mean, device=device), torch.tensor(std, device=device)

    def step(all_images, all_labels, numbers):
        labels = all_labels[numbers]
        images = augment(all_images[numbers], padding)
        # Channels stay last in memory.
        images = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            logits = forward(images).float()
            loss = functional.cross_entropy(logits, labels)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            hits = logits.topk(5, dim=1).indices == labels[:, None]
            flips = torch.stack(optimizers[0].flipped)
            return loss * len(labels), hits[:, 0].sum(), hits.sum(), flips

    return step
