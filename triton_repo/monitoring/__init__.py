"""How a server is watched: Prometheus rules and a Grafana dashboard, made from one table of queries."""
