"""Layers with the names, arguments, defaults, state_dict keys and default initialisation of torch.nn."""

from . import init
from .activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .adder import Adder2d
from .container import Identity, ModuleList, Sequential
from .conv import Conv1d, Conv2d, Conv3d
from .conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .deform import ActiveConv2d, DeformAggregate2d, DeformConv2d, DeformConv2dPack
from .dropout import Dropout, Dropout2d
from .dynamic import CondConv2d, DynamicConv2d, Involution2d
from .linear import Flatten, Linear
from .loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss
from .module import Module, Parameter
from .non_local import NonLocal1d, NonLocal2d, NonLocal3d
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from .shift import ActiveShift2d, Shift2d, SparseShift2d
from .shuffle import ChannelShuffle, Fold, PixelShuffle, PixelUnshuffle, Unfold

__all__ = [
    "ELU",
    "GELU",
    "ActiveConv2d",
    "ActiveShift2d",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Adder2d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "ChannelShuffle",
    "CondConv2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "DeformAggregate2d",
    "DeformConv2d",
    "DeformConv2dPack",
    "Dropout",
    "Dropout2d",
    "DynamicConv2d",
    "Flatten",
    "Fold",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "Involution2d",
    "L1Loss",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Mish",
    "Module",
    "ModuleList",
    "NLLLoss",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "PReLU",
    "Parameter",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReLU",
    "ReLU6",
    "Sequential",
    "Shift2d",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "SparseShift2d",
    "Tanh",
    "Unfold",
    "init",
]
