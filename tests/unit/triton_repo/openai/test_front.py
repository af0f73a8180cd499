"""The processes of Dynamo that are started: where they listen, what they fetch, what proves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from triton_repo.openai.front import FrontPlace, kserve_front, openai_front, worker
from triton_repo.serve.companions import Companion

PLACE = FrontPlace(
    host="127.0.0.1",
    shown_host="localhost",
    openai_port=8003,
    discovery=Path("/own/discovery"),
    kserve_port=8005,
)
PYTHON, LOG = Path("/dynamo/bin/python"), Path("/out/front.log")


def value_of(companion: Companion, option: str) -> str:
    return companion.words[companion.words.index(option) + 1]


def test_the_front_listens_where_it_is_told_and_is_proven_by_a_token_of_the_model() -> None:
    front = openai_front(PLACE, python=PYTHON, log=LOG, model="tiny")
    assert (value_of(front, "--http-host"), value_of(front, "--http-port")) == ("127.0.0.1", "8003")
    assert front.address == "http://localhost:8003/v1"
    assert front.proof is not None and front.proof.url == "http://localhost:8003/v1/completions"
    assert front.proof.body is not None and front.proof.body["model"] == "tiny"
    assert not front.follows


def test_every_process_meets_the_others_on_this_machine_alone_and_fetches_nothing() -> None:
    everyone = (
        openai_front(PLACE, python=PYTHON, log=LOG, model="tiny"),
        kserve_front(PLACE, python=PYTHON, log=LOG),
        worker(Path("/own/worker.json"), python=PYTHON, log=LOG, discovery=PLACE.discovery),
    )
    for companion in everyone:
        found = companion.environment
        assert found["DYN_FILE_KV"] == "/own/discovery"
        assert found["HF_HUB_OFFLINE"] == "1"
        hosts = {key: value for key, value in found.items() if key.endswith("_HOST")}
        assert set(hosts.values()) == {"127.0.0.1"} and len(hosts) == 3


def test_a_worker_ends_with_its_server_and_a_front_does_not() -> None:
    found = worker(Path("/own/worker.json"), python=PYTHON, log=LOG, discovery=PLACE.discovery)
    assert found.follows and found.words[-1] == "/own/worker.json"
    assert not kserve_front(PLACE, python=PYTHON, log=LOG).follows


def test_certificates_make_it_https_with_the_same_roots_for_its_proof() -> None:
    place = replace(
        PLACE, certificate=Path("/tls.pem"), private_key=Path("/tls.key"), client_roots=Path("/ca.pem")
    )
    front = openai_front(place, python=PYTHON, log=LOG, model="tiny", is_provable=True)
    assert front.address == "https://localhost:8003/v1"
    assert front.proof is not None and front.proof.roots == Path("/tls.pem")
    assert value_of(front, "--tls-cert-path") == "/tls.pem"
    assert value_of(front, "--tls-key-path") == "/tls.key"
    assert value_of(front, "--tls-client-ca-cert-path") == "/ca.pem"


def test_a_kv_aware_router_predicts_what_triton_does_not_tell() -> None:
    front = openai_front(replace(PLACE, router="kv"), python=PYTHON, log=LOG, model="tiny")
    assert value_of(front, "--router-mode") == "kv"
    assert "--no-router-kv-events" in front.words
    assert "--no-router-kv-events" not in openai_front(PLACE, python=PYTHON, log=LOG, model="tiny").words
