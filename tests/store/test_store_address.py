"""Where a config or the environment says that finished work is shared, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from codelutra.config import load_config, to_yaml
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline.startable import require_startable
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir


@pytest.mark.parametrize("given", ["s3://team/codelutra", "s3://team", "s3://a.b-c/x_y/z.1", "/mnt/shared/store", "~/x", ""])
def test_a_bucket_or_an_absolute_folder_is_an_address(given: str) -> None:
    assert load_config("demo", (f"store={given!r}",)).store == given


def test_a_slash_at_the_end_makes_no_other_store() -> None:
    assert load_config("demo", ("store=s3://team/x/",)).store == "s3://team/x"


@pytest.mark.parametrize(
    "given",
    [
        "shared/store",
        "s3:/team",
        "s3://",
        "s3://A",
        "s3://te",
        "s3://team//x",
        "s3://team/../x",
        "gs://team/x",
        "s3://team/a b",
        "file:///mnt/x",
        "https://s3.amazonaws.com/team",
    ],
)
def test_other_addresses_are_refused_with_the_way_to_write_one(given: str) -> None:
    with pytest.raises(ConfigError, match=r"store = .*s3://bucket/prefix"):
        load_config("demo", (f"store={given}",))


@pytest.mark.parametrize("given", ["s3://AKIAKEY:hush@team/x", "s3://team/x?secret=hush", "https://u:hush@host/team"])
def test_credentials_in_an_address_are_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(ConfigError, match="a config holds none") as e:
        load_config("demo", (f"store={given!r}",))
    assert "hush" not in str(e.value)
    assert "AKIAKEY" not in str(e.value)


def test_the_environment_names_it_where_the_config_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CODELUTRA_STORE", "s3://team/x")
    assert load_config("demo").store == "s3://team/x"
    assert load_config("demo", ("store=s3://other/x",)).store == "s3://other/x"
    assert load_config("demo", ("store=''",)).store == ""
    monkeypatch.delenv("CODELUTRA_STORE")
    local = tmp_path / "run.yaml"
    local.write_text(to_yaml(load_config("demo")))
    monkeypatch.setenv("CODELUTRA_STORE", "s3://team/x")
    assert not load_config(local).store, "a run that began without one goes on so"


def test_a_run_and_its_next_start_cannot_name_two_stores(tmp_path: Path) -> None:
    first = load_config("demo", ("store=s3://team/x",))
    run = RunDir.create(tmp_path, first)
    (run.path / "base").mkdir()
    (run.path / "base" / "dev-scores").mkdir()
    assert RunDir.create(tmp_path, first).config("") == first.model_copy(update={"engine": run.config("").engine})  # type: ignore[union-attr]
    for other, said in (("s3://team/y", "names s3://team/y"), ("", "names none")):
        with pytest.raises(UserError, match=said) as e:
            RunDir.create(tmp_path, load_config("demo", (f"store={other!r}",)))
        assert "--set store=s3://team/x" in str(e.value)
        assert run.config("").store == "s3://team/x"  # type: ignore[union-attr]


def test_a_local_run_can_be_shared_from_its_next_start_on(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, load_config("demo"))
    (run.path / "base").mkdir()
    (run.path / "base" / "dev-scores").mkdir()
    now = load_config("demo", ("store=s3://team/x",))
    RunDir.create(tmp_path, now).settle(now)
    assert run.config("").store == "s3://team/x"  # type: ignore[union-attr]


def test_what_cannot_be_reached_is_told_before_anything_is_made(tmp_path: Path) -> None:
    config = load_config("demo", (f"store={tmp_path}/not-mounted",))
    with pytest.raises(UserError, match=r"there is no such folder; mount it .*CODELUTRA_STORE unset"):
        require_startable(config, tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_a_home_is_a_folder_and_no_bucket() -> None:
    with pytest.raises(UserError, match=r"is no folder of this machine.*CODELUTRA_STORE"):
        home_dir("s3://team/x")
