"""From one server to the next without losing a request: a router here, kubectl on a cluster."""
