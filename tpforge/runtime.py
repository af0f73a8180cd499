"""The names of the runtimes that execute engines."""

from __future__ import annotations

from typing import Literal

Runtime = Literal["reference", "tensorrt", "pytorch"]
