"""Named arrays in files: safetensors, npz and, to read only, PyTorch's .pth."""

from .files import load_state, save_state

__all__ = ["load_state", "save_state"]
