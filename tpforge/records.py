"""The base of every record that is written to or read from a file: frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen value; unknown keys are errors, so that a typo in a file cannot pass.

    Numbers are finite: what compares with nothing keeps every limit, and JSON cannot hold it. A record that
    means infinity says so, by `allow_inf_nan`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
