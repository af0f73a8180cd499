"""The gRPC client of the contract."""
