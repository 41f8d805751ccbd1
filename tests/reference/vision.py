"""torchvision's networks, beside a build of torch that cannot load its compiled operators."""

import torch

try:
    from torchvision import models
except RuntimeError:  # operator torchvision::nms does not exist
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "() -> ()")
    from torchvision import models

__all__ = ["models"]
