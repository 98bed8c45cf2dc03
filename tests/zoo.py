"""Tiny networks of the kinds that training tools export, with small random weights.

They follow the papers that name them in structure, not in size.
"""

import torch
from torch import nn
from torch.nn import functional as F

FEATS = 8


def conv(given, out, size=3, **how):
    return nn.Conv2d(given, out, size, padding=how.pop("padding", size // 2), **how)


def end(scale=2, given=FEATS, colours=3):
    return nn.Sequential(conv(given, colours * scale**2), nn.PixelShuffle(scale))


class Chain(nn.Module):
    """Head, residual body, tail."""

    def __init__(self, *body, scale=2, colours=3):
        super().__init__()
        self.head, self.body = conv(colours, FEATS), nn.Sequential(*body)
        self.tail = end(scale, colours=colours)

    def forward(self, x):
        x = self.head(x)
        return self.tail(x + self.body(x))


class Residual(nn.Module):
    """A branch that is added to its input, with a factor."""

    def __init__(self, *branch, factor=1.0):
        super().__init__()
        self.branch, self.factor = nn.Sequential(*branch), factor

    def forward(self, x):
        return x + self.branch(x) * self.factor


class MeanShift(nn.Module):
    """EDSR with the mean of DIV2K as convolutions, on 0..255."""

    def __init__(self):
        super().__init__()
        self.sub, self.add = conv(3, 3, 1), conv(3, 3, 1)
        for layer, sign in ((self.sub, -1), (self.add, 1)):
            layer.weight.data = torch.eye(3)[:, :, None, None]
            layer.bias.data = sign * torch.tensor([114.4, 111.5, 103.0])
        self.net = Chain(
            *(
                Residual(conv(FEATS, FEATS), nn.ReLU(), conv(FEATS, FEATS), factor=0.1)
                for _ in range(2)
            )
        )

    def forward(self, x):
        return self.add(self.net(self.sub(x)))


class Branches(nn.Module):
    """Parallel convolutions of 3x3 and 1x1, normalized or not, and identity (RepVGG, ECBSR)."""

    def __init__(self, *, norm):
        super().__init__()
        made = nn.BatchNorm2d if norm else lambda _: nn.Identity()
        self.wide = nn.Sequential(conv(FEATS, FEATS), made(FEATS))
        self.narrow = nn.Sequential(conv(FEATS, FEATS, 1), made(FEATS))
        self.row = nn.Sequential(
            conv(FEATS, 2 * FEATS, 1, bias=False), conv(2 * FEATS, FEATS, bias=False)
        )

    def forward(self, x):
        return F.relu(self.wide(x) + self.narrow(x) + self.row(x) + x)


class Gated(nn.Module):
    """Attention without parameters (SPAN)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(conv(FEATS, FEATS) for _ in range(3))

    def forward(self, x):
        y = F.silu(self.layers[0](x))
        y = self.layers[2](F.silu(self.layers[1](y)))
        return (y + x) * (torch.sigmoid(y) - 0.5)


class Joined(nn.Module):
    """Blocks whose results are concatenated and fused."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.fuse = conv(FEATS * len(blocks), FEATS, 1)

    def forward(self, x):
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return self.fuse(torch.cat(made, 1))


class Esa(nn.Module):
    """Enhanced spatial attention (RFDN)."""

    def __init__(self):
        super().__init__()
        self.reduce, self.skip, self.expand = conv(FEATS, 4, 1), conv(4, 4, 1), conv(4, FEATS, 1)
        self.strided = conv(4, 4, stride=2, padding=0)
        self.inner = conv(4, 4)

    def forward(self, x):
        reduced = self.reduce(x)
        y = F.max_pool2d(self.strided(reduced), 7, 3)
        y = F.interpolate(self.inner(y), x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(y + self.skip(reduced)))


class Distilled(nn.Module):
    """Split, refine and join, with contrast-aware channel attention (IMDN)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(FEATS, FEATS), conv(FEATS - 2, FEATS)
        self.fuse = conv(2 + FEATS, FEATS, 1)
        self.attention = nn.Sequential(
            conv(FEATS, 2, 1), nn.ReLU(), conv(2, FEATS, 1), nn.Sigmoid()
        )

    def forward(self, x):
        kept, rest = torch.split(F.leaky_relu(self.first(x), 0.05), (2, FEATS - 2), 1)
        y = self.fuse(torch.cat([kept, F.leaky_relu(self.second(rest), 0.05)], 1))
        mean = y.mean((2, 3), keepdim=True)
        contrast = ((y - mean) ** 2).mean((2, 3), keepdim=True).sqrt() + mean
        return x + y * self.attention(contrast)


class NearestSkip(nn.Module):
    """A chain whose result is added to the repeated pixels (SRVGGNet)."""

    def __init__(self, scale=2, factor=1.0, *, clip=False):
        super().__init__()
        body = [conv(3, FEATS), nn.PReLU(FEATS), conv(FEATS, FEATS), nn.PReLU(FEATS)]
        self.net, self.scale, self.factor = nn.Sequential(*body, *end(scale)), scale, factor
        self.clip = clip

    def forward(self, x):
        y = self.factor * self.net(x) + F.interpolate(x, scale_factor=self.scale)
        return y.clamp(0, 1) if self.clip else y


class Anchored(nn.Module):
    """A chain whose result is added to repeated channels, and clipped (ABPN)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            conv(3, FEATS), nn.ReLU(), conv(FEATS, FEATS), nn.ReLU(), conv(FEATS, 12)
        )

    def forward(self, x):
        y = self.net(x) + torch.cat([x] * 4, 1)
        return F.pixel_shuffle(
            y.view(-1, 4, 3, *y.shape[2:]).transpose(1, 2).flatten(1, 2), 2
        ).clamp(0, 1)


class WindowAttention(nn.Module):
    """Attention in windows of 4x4, of channels last."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(FEATS), nn.Linear(FEATS, 3 * FEATS)
        self.bias = nn.Parameter(0.1 * torch.randn(2, 16, 16))
        self.project = nn.Linear(FEATS, FEATS)
        self.mlp = nn.Sequential(
            nn.LayerNorm(FEATS), nn.Linear(FEATS, 16), nn.GELU(), nn.Linear(16, FEATS)
        )

    def forward(self, x):
        n, c, h, w = x.shape
        windows = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        qkv = self.qkv(self.norm(windows)).reshape(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * 0.5) @ qkv[1].transpose(-2, -1) + self.bias
        made = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, 16, c)
        windows = windows + self.project(made)
        windows = windows + self.mlp(windows)
        tokens = windows.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return tokens.reshape(n, c, h, w)


class ChannelsLast(nn.Module):
    """A network of pictures whose colours come last."""

    def __init__(self):
        super().__init__()
        self.net = Chain(conv(FEATS, FEATS), nn.ReLU())

    def forward(self, x):
        return self.net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class OneAtATime(nn.Module):
    """A network that spells its PixelShuffle for a batch of one."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(conv(3, FEATS), nn.ReLU(), conv(FEATS, 12))

    def forward(self, x):
        y = self.net(x)
        h, w = y.shape[2:]
        return y.reshape(1, 3, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 2 * h, 2 * w)


class Padded(nn.Module):
    """A network that pads its input to a multiple, and crops its output."""

    def __init__(self):
        super().__init__()
        self.net = Chain(nn.AvgPool2d(2), conv(FEATS, FEATS), nn.Upsample(scale_factor=2))

    def forward(self, x):
        h, w = x.shape[2:]
        x = F.pad(x, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4), "reflect")
        return self.net(x)[:, :, : 2 * h, : 2 * w]


def _norms():
    """A residual block with normalization."""
    return Residual(
        conv(FEATS, FEATS),
        nn.BatchNorm2d(FEATS),
        nn.PReLU(),
        conv(FEATS, FEATS),
        nn.BatchNorm2d(FEATS),
    )


NETWORKS = {
    "srresnet": lambda: Chain(_norms(), _norms()),
    "repvgg": lambda: Chain(Branches(norm=True)),
    "ecbsr": lambda: Chain(Branches(norm=False), nn.PReLU(FEATS)),
    "span": lambda: Chain(Joined(Gated(), Gated())),
    "rfdn": lambda: Chain(Joined(Residual(conv(FEATS, FEATS), nn.LeakyReLU(0.05)), Esa())),
    "bsrn": lambda: Chain(
        Joined(
            *(
                Residual(conv(FEATS, FEATS, 1), conv(FEATS, FEATS, groups=FEATS), nn.GELU())
                for _ in range(2)
            )
        )
    ),
    "srvgg": NearestSkip,
    "fsrcnn": lambda: nn.Sequential(
        conv(3, FEATS, 5),
        nn.PReLU(FEATS),
        conv(FEATS, 4, 1),
        nn.PReLU(4),
        conv(4, 4),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 3, 9, 2, 4, 1),
    ),
    "espcn": lambda: nn.Sequential(
        conv(3, FEATS, 5), nn.Tanh(), conv(FEATS, FEATS), nn.Tanh(), end(3)
    ),
    "xlsr": lambda: nn.Sequential(
        conv(3, FEATS),
        conv(FEATS, FEATS, groups=4),
        nn.ReLU(),
        conv(FEATS, FEATS, 1),
        end(),
        nn.Hardtanh(0, 1),
    ),
    "abpn": Anchored,
    "imdn": lambda: Chain(Distilled(), Distilled()),
    "edsr": MeanShift,
    "windows": lambda: Chain(WindowAttention()),
    "luma": lambda: Chain(conv(FEATS, FEATS), nn.ReLU(), colours=1),
    "channels_last": ChannelsLast,
    "one_at_a_time": OneAtATime,
    "padded": Padded,
    "scale4": lambda: nn.Sequential(
        conv(3, FEATS),
        nn.Upsample(scale_factor=2),
        conv(FEATS, FEATS),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        conv(FEATS, 3),
    ),
}
"""Makers of the networks, by the names of what they resemble."""


def made(name, seed=0):
    """A network in evaluation mode whose norms are not the identity."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def export(network, path, *, opset=17, shape=(1, 3, 24, 20), free=True, dynamo=False, example=None):
    """Write the ONNX file of a network with free sizes, as training tools do."""
    last = shape[3] in (1, 3)
    axes = {0: "n", 1: "h", 2: "w"} if last else {0: "n", 2: "h", 3: "w"}
    x = torch.rand(shape) if example is None else example
    if dynamo:
        sizes = {axis: torch.export.Dim.DYNAMIC for axis in axes if axis} if free else None
        torch.onnx.export(network, (x,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)
        return path
    torch.onnx.export(
        network,
        (x,),
        path,
        dynamo=False,
        opset_version=opset,
        input_names=["lr"],
        output_names=["sr"],
        dynamic_axes={"lr": axes, "sr": axes} if free else None,
    )
    return path
