"""What GPUs, the server's metrics and this host say while a load runs, read once a second on a thread.

Metrics are kept as text and parsed at the end, so that reading takes nothing from the stamping of tokens.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import psutil

from tpforge.errors import EnvironmentUnusable
from tpforge.measure.runs.run import SeriesSummary, Telemetry
from triton_repo.client.metrics import fetch_metrics
from triton_repo.load.gpus import Gpus, GpuSeries, NoGpus, uneven_gpus
from triton_repo.load.prometheus import summarize_metrics
from triton_repo.load.series import gauge

PERIOD_S = 1.0
_BUSY_CLIENT = 90.0
_HOST_UNITS = {"cpu": "%", "memory_used": "B", "load_average": "processes", "client_cpu": "%"}


@dataclass
class _Readings:
    """What one level has brought so far."""

    gpus: list[GpuSeries] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    host: dict[str, list[float]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


class Recorder:
    """Reads beside a load, from `start` to `stop`, again and again.

    `metrics_url` None is a server without known metrics. With `is_local` false, GPUs and host are not the
    server's, and only this client's own load is read. `no_metrics` says why there is no URL.
    """

    def __init__(
        self,
        *,
        metrics_url: str | None,
        is_local: bool = True,
        no_metrics: str = "no metrics URL is known; give --metrics-url",
        period_s: float = PERIOD_S,
    ) -> None:
        self._metrics_url, self._is_local, self._no_metrics = metrics_url, is_local, no_metrics
        self._period_s = period_s
        self._process = psutil.Process()
        self._host_read = 0.0
        self._readings = _Readings()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._gpus: Gpus | None = None

    def start(self) -> None:
        """Begin a level: forget the last one, read once, and go on on a thread."""
        self._readings = _Readings()
        if self._metrics_url is None:
            self._readings.unavailable["server"] = self._no_metrics
        self._open_gpus()
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._read(first=True)
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> Telemetry:
        """End the level; what was read."""
        assert self._thread is not None, "stop() without start()"
        self._ended.set()
        self._thread.join()
        self._read(first=False)
        if self._gpus is not None:
            self._gpus.close()
            self._gpus = None
        return self._telemetry()

    def _open_gpus(self) -> None:
        if not self._is_local:
            self._readings.unavailable["gpu"] = "the server is on another machine"
            return
        try:
            self._gpus = Gpus()
            self._readings.gpus = self._gpus.begin()
        except NoGpus as reason:
            self._readings.unavailable["gpu"] = str(reason)

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._read(first=False)

    def _read(self, *, first: bool) -> None:
        readings = self._readings
        if self._gpus is not None:
            self._gpus.read(readings.gpus)
        if self._metrics_url is not None:
            try:
                readings.metrics.append(fetch_metrics(self._metrics_url))
                readings.unavailable.pop("server", None)
            except OSError as error:
                readings.unavailable["server"] = f"{self._metrics_url}: {error}"
        # Percentages are of the time since the last reading: the first, or one just after another, has none.
        since, self._host_read = time.monotonic() - self._host_read, time.monotonic()
        if first or (since < self._period_s / 2 and readings.host):
            return
        values = {"client_cpu": self._process.cpu_percent()}
        if self._is_local:
            values |= {
                "cpu": psutil.cpu_percent(),
                "memory_used": float(psutil.virtual_memory().used),
                "load_average": psutil.getloadavg()[0],
            }
        for name, value in values.items():
            readings.host.setdefault(name, []).append(value)

    def _telemetry(self) -> Telemetry:
        readings = self._readings
        gpus = tuple(series.telemetry() for series in readings.gpus)
        host = {name: gauge(values, unit=_HOST_UNITS[name]) for name, values in sorted(readings.host.items())}
        if not self._is_local:
            readings.unavailable["host"] = "the server is on another machine; client_cpu is this one's"
        return Telemetry(
            gpus=gpus,
            server=self._server_metrics(),
            host=host,
            unavailable=readings.unavailable,
            notes=(*uneven_gpus(gpus), *_busy_client(host)),
        )

    def _server_metrics(self) -> dict[str, SeriesSummary]:
        if self._metrics_url is None:
            return {}
        try:
            return summarize_metrics(self._readings.metrics, source=self._metrics_url)
        except EnvironmentUnusable as error:
            self._readings.unavailable["server"] = str(error)
            return {}


def _busy_client(host: dict[str, SeriesSummary]) -> tuple[str, ...]:
    if "client_cpu" not in host or host["client_cpu"].avg < _BUSY_CLIENT:
        return ()
    return (f"this client used {host['client_cpu'].avg:.0f} % of a core: it may be what limits the result",)
