"""DeepLab v3 (Chen et al. 2017, arXiv 1706.05587): a dilated network, atrous spatial pyramid pooling, for pixels."""

from .. import nn
from .blocks import conv_norm
from .catalogue import network
from .mobilenetv3 import mobilenet_v3_large
from .resnet import resnet50, resnet101

F = nn.functional


class IntermediateLayers(nn.ModuleDict):
    """The layers of a network up to the last one that is asked for; gives the outputs of those asked for.

    wanted: names of layers, each with the name that its output gets.
    """

    def __init__(self, layers, wanted):
        layers = dict(layers)
        last = max(list(layers).index(name) for name in wanted)
        super().__init__(list(layers.items())[: last + 1])
        self.wanted = wanted

    def forward(self, x):
        out = {}
        for name, layer in self.items():
            x = layer(x)
            if name in self.wanted:
                out[self.wanted[name]] = x
        return out


class ImagePooling(nn.Sequential):
    """Image-level features: the mean, a 1x1 convolution, and back to the size of the input (section 3.3)."""

    def __init__(self, in_channels, out_channels):
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_norm(in_channels, out_channels, 1))

    def forward(self, input):
        return F.interpolate(super().forward(input), input.shape[2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """A 1x1 convolution, dilated 3x3 ones and the image's mean side by side, then 1x1 (figure 5)."""

    def __init__(self, in_channels, atrous_rates, out_channels=256):
        super().__init__()
        branches: list[nn.Module] = [conv_norm(in_channels, out_channels, 1)]
        branches += [conv_norm(in_channels, out_channels, 3, dilation=rate) for rate in atrous_rates]
        branches.append(ImagePooling(in_channels, out_channels))
        self.convs = nn.ModuleList(branches)
        self.project = conv_norm(len(branches) * out_channels, out_channels, 1).append(nn.Dropout(0.5))

    def forward(self, x):
        return self.project(F.cat([conv(x) for conv in self.convs], 1))


class DeepLabHead(nn.Sequential):
    """ASPP, a 3x3 convolution, scores of the classes."""

    def __init__(self, in_channels, num_classes, atrous_rates=(12, 24, 36)):
        super().__init__(ASPP(in_channels, atrous_rates), *conv_norm(256, 256, 3), nn.Conv2d(256, num_classes, 1))


class FCNHead(nn.Sequential):
    """The auxiliary classifier: a 3x3 convolution, scores of the classes."""

    def __init__(self, in_channels, num_classes):
        between = in_channels // 4
        super().__init__(*conv_norm(in_channels, between, 3), nn.Dropout(0.1), nn.Conv2d(between, num_classes, 1))


class DeepLabV3(nn.Module):
    """(N, 3, H, W) to {"out": (N, num_classes, H, W)}, and "aux" likewise where there is an auxiliary classifier."""

    def __init__(self, backbone, classifier, aux_classifier=None):
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier

    def forward(self, x):
        features = self.backbone(x)
        result = {"out": self._scores(self.classifier, features["out"], x)}
        if self.aux_classifier is not None:
            result["aux"] = self._scores(self.aux_classifier, features["aux"], x)
        return result

    def _scores(self, classifier, features, x):
        return F.interpolate(classifier(features), x.shape[2:], mode="bilinear", align_corners=False)


def _on_resnet(backbone, num_classes, aux_loss):
    wanted = {"layer3": "aux", "layer4": "out"} if aux_loss else {"layer4": "out"}
    layers = IntermediateLayers(backbone.named_children(), wanted)
    return DeepLabV3(layers, DeepLabHead(2048, num_classes), FCNHead(1024, num_classes) if aux_loss else None)


PAPER = "Chen et al. 2017, arXiv 1706.05587, section 3"


@network(PAPER, 39_638_869, 168_731_205_888, (3, 520, 520))
def deeplabv3_resnet50(num_classes=21, aux_loss=False):
    """DeepLab v3 on ResNet-50 with output stride 8.  aux_loss: with an auxiliary classifier after the third stage."""
    return _on_resnet(resnet50(replace_stride_with_dilation=(False, True, True)), num_classes, aux_loss)


@network(PAPER, 58_630_997, 248_752_300_288, (3, 520, 520))
def deeplabv3_resnet101(num_classes=21, aux_loss=False):
    """DeepLab v3 on ResNet-101 with output stride 8.  aux_loss: with an auxiliary classifier after the third stage."""
    return _on_resnet(resnet101(replace_stride_with_dilation=(False, True, True)), num_classes, aux_loss)


@network(PAPER, 11_025_477, 10_436_350_688, (3, 520, 520))
def deeplabv3_mobilenet_v3_large(num_classes=21, aux_loss=False):
    """DeepLab v3 on MobileNet v3 with output stride 16.  aux_loss: with an auxiliary classifier at stride 8."""
    features = mobilenet_v3_large(dilated=True).features
    strided = [i for i, block in enumerate(features) if getattr(block, "strided", False)]
    # Outputs: the last convolution, and the end of the stage before the last two that reduce the size.
    out, aux = str(len(features) - 1), str(strided[-3])
    wanted = {aux: "aux", out: "out"} if aux_loss else {out: "out"}
    layers = IntermediateLayers(features.named_children(), wanted)
    auxiliary = FCNHead(features[strided[-3]].out_channels, num_classes) if aux_loss else None
    return DeepLabV3(layers, DeepLabHead(960, num_classes), auxiliary)
