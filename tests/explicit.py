"""Relevance in a VGG by every single contribution, in float64: what batched rules are held to.

A convolution becomes all of its products of a weight and a value, laid out one by one, so that
nothing here depends on convolutions run backwards.
"""

import torch
import torch.nn.functional as F
from torch import nn


def layers_of(vgg):
    """Convolutions with their BatchNorm in them, ReLUs, poolings, and the classifier."""
    found, modules = [], list(vgg.features)
    for at, module in enumerate(modules):
        if isinstance(module, nn.Conv2d):
            norm = modules[at + 1]
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps) ** 0.5
            weight = module.weight.double() * scale.reshape(-1, 1, 1, 1)
            bias = (module.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
            found.append(("conv", weight, bias))
        elif isinstance(module, nn.ReLU):
            found.append(("relu", None, None))
        elif isinstance(module, nn.MaxPool2d):
            found.append(("pool", None, None))
    head = vgg.classifier
    return [*found, ("dense", head.weight.double(), head.bias.double())]


@torch.no_grad()
def explained(vgg, images, targets, message, start):
    """Relevance of the images ``[B, C, H, W]`` float64.

    Args:
        message: of a layer's number, its values, the contributions ``[B, out, in, positions]``,
            weights, bias and relevance ``[B, out, 1, positions]``: what each contribution has.
        start: of the logits ``[B]``: what the class has.
    """
    x, seen = images.double(), []
    layers = layers_of(vgg)
    for kind, weight, bias in layers:
        seen.append(x)
        if kind == "conv":
            x = F.conv2d(x, weight, bias, padding=1)
        elif kind == "relu":
            x = x.clamp(min=0)
        elif kind == "pool":
            x = F.max_pool2d(x, 2)
        else:
            x = F.linear(x.flatten(1), weight, bias)
    rows = torch.arange(len(x))
    relevance = torch.zeros_like(x)
    relevance[rows, targets] = start(x[rows, targets])
    for number, (kind, weight, bias) in reversed(list(enumerate(layers))):
        x = seen[number]
        if kind == "pool":
            _, where = F.max_pool2d(x, 2, return_indices=True)
            flat = torch.zeros_like(x).flatten(2)
            relevance = flat.scatter(2, where.flatten(2), relevance.flatten(2)).view_as(x)
        elif kind == "conv":
            patches = F.unfold(x, 3, padding=1).unsqueeze(1)
            rows_of = weight.flatten(1)[None, :, :, None]
            above = relevance.flatten(2).unsqueeze(2)
            sent = message(number, x, patches, rows_of, bias[None, :, None, None], above)
            relevance = F.fold(sent.sum(1), x.shape[2:], 3, padding=1)
        elif kind == "dense":
            flat = x.flatten(1)[:, None, :, None]
            above = relevance[:, :, None, None]
            sent = message(
                number, x, flat, weight[None, :, :, None], bias[None, :, None, None], above
            )
            relevance = sent.sum((1, 3)).view_as(x)
    return relevance


def parts(values):
    return values.clamp(min=0), values.clamp(max=0)


def shared(contributions, relevance, bias=0.0):
    """Relevance in proportion to contributions of one sign and a bias, where there are any."""
    total = contributions.sum(2, keepdim=True) + bias
    return contributions * torch.where(
        total == 0, 0.0, relevance / torch.where(total == 0, 1, total)
    )


def boxed(x, patches, weight, relevance):
    """The z-box rule; patches of the bounds are 0 where they are padded, as those of the images."""
    inside = F.unfold(torch.ones_like(x), 3, padding=1).unsqueeze(1)
    low = x.flatten(1).amin(1).view(-1, 1, 1, 1) * inside
    high = x.flatten(1).amax(1).view(-1, 1, 1, 1) * inside
    up, down = parts(weight)
    return shared(patches * weight - low * up - high * down, relevance)
