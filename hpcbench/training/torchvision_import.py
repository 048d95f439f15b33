"""Makes `import torchvision` work next to a torch of another build.

torchvision's wheels are built against CUDA. Beside a CPU-only torch their extension does not load, and the
import dies with "operator torchvision::nms does not exist", because fake kernels are registered for operators
that nobody has declared. Declaring the schemas is all it needs; models, datasets and transforms then work.
Where torch and torchvision match, the operators come with the extension and nothing happens here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def make_importable() -> None:
    """Declare the two schemas that torchvision's import needs, where its extension cannot."""
    global _library
    if _library is not None or _extension_loads():
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _library.define(f"{name}{SCHEMA}")


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
