"""The models that can be measured: their shapes, where their weights come from, and how the weights are verified.

A model is one entry of the configuration's `registry`: a source (`hub`, `local` or `generated`) and a shape.
Importing this package needs the standard library only.
"""

from slidesparse.models.contents import check_files
from slidesparse.models.shape import describe
from slidesparse.models.store import check, ensure, fetch
from slidesparse.models.verified import verify

__all__ = ["check", "check_files", "describe", "ensure", "fetch", "verify"]
