"""What stands before a server is asked for whole, is installed, and opens no port that was not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.flows.serving.front import companions_of, port_base_of, refuse_without_front
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from triton_repo.serve.local import first_of, number_of
from triton_repo.serve.security import Security


def test_options_of_the_front_without_it_are_refused_all_at_once() -> None:
    recipe = ServeRecipe(replicas=2, openai_port=9000, router="kv")
    with pytest.raises(
        UsageError,
        match="--openai-port, --replicas, --router: only with the front before the servers; give",
    ):
        refuse_without_front(recipe)
    refuse_without_front(ServeRecipe())
    refuse_without_front(recipe.model_copy(update={"openai": True}))


def test_kserve_is_refused_where_the_server_listens_on_one_address() -> None:
    with pytest.raises(UsageError, match=r"--kserve-port: .* all addresses .* --host is 127.0.0.1"):
        refuse_without_front(ServeRecipe(openai=True, kserve_port=9000))
    refuse_without_front(ServeRecipe(openai=True, kserve_port=9000, host="0.0.0.0"))


def test_a_front_that_is_not_installed_is_told_in_one_line_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(EnvironmentUnusable) as caught:
        companions_of(Places(tmp_path / "engine"), ServeRecipe(openai=True), security=Security())
    assert "NVIDIA Dynamo 1.6.1 is not installed" in str(caught.value)
    assert "tpforge setup openai" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_servers_of_one_engine_have_folders_and_ports_of_their_own() -> None:
    for engine in (Path("out/name/engine"), Path("/models/mine")):
        places = Places(engine)
        folders = [places.replica(number) for number in (1, 2, 11)]
        assert len(set(folders)) == 3
        assert [number_of(folder) for folder in folders] == [1, 2, 11]
        assert {first_of(folder) for folder in folders} == {places.server}
    recipe = ServeRecipe(port_base=8000)
    assert [port_base_of(recipe, number) for number in (1, 2, 11)] == [8000, 8010, 8100]
