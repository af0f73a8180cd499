"""Ports: what a base means, what is refused and by whose name."""

from __future__ import annotations

import os
import socket

import pytest

from tests.support.ports import free_ports
from tpforge.errors import EnvironmentUnusable, UsageError
from triton_repo.serve.ports import Ports, find_free_base, refuse_used


def test_base_gives_http_then_grpc_then_metrics() -> None:
    assert Ports.from_base(9000).named() == (("HTTP", 9000), ("gRPC", 9001), ("metrics", 9002))


@pytest.mark.parametrize("base", [0, -1, 65534, 70000])
def test_base_without_three_ports_is_refused(base: int) -> None:
    with pytest.raises(UsageError, match=str(base)):
        Ports.from_base(base)


def test_every_port_in_use_is_named_with_its_process_and_the_remedy() -> None:
    ports = free_ports()
    with socket.socket() as http, socket.socket() as metrics:
        for taken, port in ((http, ports.http), (metrics, ports.metrics)):
            taken.bind(("127.0.0.1", port))
            taken.listen()
        with pytest.raises(EnvironmentUnusable) as caught:
            refuse_used(ports, host="127.0.0.1")
    message = str(caught.value)
    assert f"port {ports.http} (HTTP) is in use by process {os.getpid()} (" in message
    assert f"port {ports.metrics} (metrics) is in use by process {os.getpid()} (" in message
    assert "gRPC" not in message
    assert "--port-base" in message


def test_port_taken_on_all_addresses_is_in_use_on_one() -> None:
    ports = free_ports()
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", ports.grpc))
        taken.listen()
        with pytest.raises(EnvironmentUnusable, match=f"port {ports.grpc} "):
            refuse_used(ports, host="127.0.0.1")


def test_free_ports_pass_and_are_free_again_afterwards() -> None:
    base = free_ports().http
    refuse_used(Ports.from_base(base), host="127.0.0.1")
    refuse_used(Ports.from_base(base), host="127.0.0.1")


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(EnvironmentUnusable, match=r"no address 192\.0\.2\.1"):
        refuse_used(free_ports(), host="192.0.2.1")


def test_free_base_skips_a_base_with_one_port_taken() -> None:
    base = free_ports().http
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        assert find_free_base(start=base) > base
