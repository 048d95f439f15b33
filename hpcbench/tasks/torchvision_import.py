"""Makes torchvision importable beside a torch of another build, whose operators its compiled extension
cannot register.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def make_torchvision_importable() -> None:
    """Declare the two schemas that torchvision's import needs, where its extension cannot."""
    global _library
    if _library is not None or _extension_loads():
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _library.define(f"{name}{NMS_SCHEMA}")


def _extension_loads() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True  # then the import itself says what is missing
    extensions = list(Path(found.origin).parent.glob("_C*.so"))
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError:
        return False
    return bool(extensions)
