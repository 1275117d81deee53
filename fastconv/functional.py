"""The public functions, one line each: names, parameters, defaults and results of torch.nn.functional.

Arrays in, arrays out; any Tensor in, Tensors out, recorded for backward. Inputs are never modified.
"""

# activations
from .ops.activation import elu as elu
from .ops.activation import gelu as gelu
from .ops.activation import hardsigmoid as hardsigmoid
from .ops.activation import hardswish as hardswish
from .ops.activation import leaky_relu as leaky_relu
from .ops.activation import log_softmax as log_softmax
from .ops.activation import mish as mish
from .ops.activation import prelu as prelu
from .ops.activation import relu as relu
from .ops.activation import relu6 as relu6
from .ops.activation import sigmoid as sigmoid
from .ops.activation import silu as silu
from .ops.activation import softmax as softmax
from .ops.activation import tanh as tanh

# convolution
from .ops.adder import adder2d as adder2d
from .ops.adder import adder_learning_rate as adder_learning_rate
from .ops.blur_pool import blur_pool1d as blur_pool1d
from .ops.blur_pool import blur_pool2d as blur_pool2d
from .ops.blur_pool import blur_pool3d as blur_pool3d
from .ops.blur_pool import max_blur_pool2d as max_blur_pool2d
from .ops.conv import conv1d as conv1d
from .ops.conv import conv1d_input as conv1d_input
from .ops.conv import conv1d_weight as conv1d_weight
from .ops.conv import conv2d as conv2d
from .ops.conv import conv2d_input as conv2d_input
from .ops.conv import conv2d_weight as conv2d_weight
from .ops.conv import conv3d as conv3d
from .ops.conv import conv3d_input as conv3d_input
from .ops.conv import conv3d_weight as conv3d_weight
from .ops.conv_transpose import conv_transpose1d as conv_transpose1d
from .ops.conv_transpose import conv_transpose2d as conv_transpose2d
from .ops.conv_transpose import conv_transpose3d as conv_transpose3d

# deformable convolution
from .ops.deform_conv import active_conv2d as active_conv2d
from .ops.deform_conv import deform_aggregate2d as deform_aggregate2d
from .ops.deform_conv import deform_conv2d as deform_conv2d

# dropout
from .ops.dropout import dropout as dropout
from .ops.dropout import dropout2d as dropout2d
from .ops.dropout import stochastic_depth as stochastic_depth

# shapes and padding
from .ops.fold import fold as fold
from .ops.fold import unfold as unfold
from .ops.fractional_pool import fractional_max_pool2d as fractional_max_pool2d
from .ops.fractional_pool import fractional_max_pool3d as fractional_max_pool3d
from .ops.grid_sample import affine_grid as affine_grid
from .ops.grid_sample import grid_sample as grid_sample
from .ops.interpolate import interpolate as interpolate
from .ops.interpolate import upsample as upsample

# involution
from .ops.involution import involution2d as involution2d

# normalisation
from .ops.layer_norm import layer_norm as layer_norm

# linear
from .ops.linear import linear as linear
from .ops.local_response_norm import local_response_norm as local_response_norm
from .ops.locally_connected import locally_connected2d as locally_connected2d

# losses
from .ops.loss import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from .ops.loss import cross_entropy as cross_entropy
from .ops.loss import l1_loss as l1_loss
from .ops.loss import mse_loss as mse_loss
from .ops.loss import nll_loss as nll_loss
from .ops.loss import smooth_l1_loss as smooth_l1_loss
from .ops.lp_pool import lp_pool1d as lp_pool1d
from .ops.lp_pool import lp_pool2d as lp_pool2d
from .ops.lp_pool import lp_pool3d as lp_pool3d
from .ops.mixed_pool import gated_pool1d as gated_pool1d
from .ops.mixed_pool import gated_pool2d as gated_pool2d
from .ops.mixed_pool import gated_pool3d as gated_pool3d
from .ops.mixed_pool import mixed_pool1d as mixed_pool1d
from .ops.mixed_pool import mixed_pool2d as mixed_pool2d
from .ops.mixed_pool import mixed_pool3d as mixed_pool3d

# non-local
from .ops.non_local import non_local as non_local
from .ops.norm import batch_norm as batch_norm
from .ops.norm import group_norm as group_norm
from .ops.norm import instance_norm as instance_norm

# pooling
from .ops.pool import adaptive_avg_pool1d as adaptive_avg_pool1d
from .ops.pool import adaptive_avg_pool2d as adaptive_avg_pool2d
from .ops.pool import adaptive_avg_pool3d as adaptive_avg_pool3d
from .ops.pool import adaptive_max_pool1d as adaptive_max_pool1d
from .ops.pool import adaptive_max_pool2d as adaptive_max_pool2d
from .ops.pool import adaptive_max_pool3d as adaptive_max_pool3d
from .ops.pool import avg_pool1d as avg_pool1d
from .ops.pool import avg_pool2d as avg_pool2d
from .ops.pool import avg_pool3d as avg_pool3d
from .ops.pool import max_pool1d as max_pool1d
from .ops.pool import max_pool2d as max_pool2d
from .ops.pool import max_pool3d as max_pool3d
from .ops.pyramid_pool import spatial_pyramid_pool2d as spatial_pyramid_pool2d
from .ops.roi import roi_align as roi_align
from .ops.roi import roi_pool as roi_pool
from .ops.shape import cat as cat
from .ops.shape import flatten as flatten
from .ops.shape import pad as pad
from .ops.shape import split as split
from .ops.shape import stack as stack

# shift
from .ops.shift import active_shift2d as active_shift2d
from .ops.shift import shift2d as shift2d
from .ops.shift import shift_groups as shift_groups
from .ops.shift import sparse_shift2d as sparse_shift2d
from .ops.shuffle import channel_shuffle as channel_shuffle
from .ops.shuffle import channel_split as channel_split
from .ops.shuffle import pixel_shuffle as pixel_shuffle
from .ops.shuffle import pixel_unshuffle as pixel_unshuffle
from .ops.soft_pool import soft_pool1d as soft_pool1d
from .ops.soft_pool import soft_pool2d as soft_pool2d
from .ops.soft_pool import soft_pool3d as soft_pool3d
from .ops.stochastic_pool import stochastic_pool1d as stochastic_pool1d
from .ops.stochastic_pool import stochastic_pool2d as stochastic_pool2d
from .ops.stochastic_pool import stochastic_pool3d as stochastic_pool3d
from .ops.unpool import max_unpool1d as max_unpool1d
from .ops.unpool import max_unpool2d as max_unpool2d
from .ops.unpool import max_unpool3d as max_unpool3d
