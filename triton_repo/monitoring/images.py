"""The versions of what watches a server, pinned."""

PROMETHEUS = "prom/prometheus:v2.55.1"
GRAFANA = "grafana/grafana:11.4.0"
