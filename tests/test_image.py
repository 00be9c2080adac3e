"""The image of codelutra and compose.yaml, as far as they can be checked without a build: what goes in, who reaches what."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[1]
SOCKET = "/var/run/docker.sock"
GIVEN = re.compile(r"\$\{(\w+)(?::([?-])[^}]*)?\}")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, a line an instruction."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def context() -> set[str]:
    """The files that a build is sent."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    return {path for path in exclude_paths(str(ROOT), ignored) if (ROOT / path).is_file()}


def test_a_build_is_sent_what_runs_and_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    folders = ("codelutra", "deploy", "flows", "requirements", "sandbox", "scripts", "tasks")
    files = ("LICENSE", "README.md", "prefect.yaml", "pyproject.toml")
    tracked = {f for f in listed.stdout.splitlines() if f.startswith(tuple(f"{x}/" for x in folders)) or f in files}
    sent = context()
    assert tracked <= sent
    assert not {f for f in sent if f.split("/")[0] not in {*folders, *files, "Dockerfile", ".dockerignore"}}
    assert not {f for f in sent if "__pycache__" in f or Path(f).name.startswith(".env")}


def test_the_dockerfile_copies_what_is_there_and_runs_as_no_root() -> None:
    steps = instructions()
    sent = context()
    for name, rest in steps:
        for source in rest.split()[:-1] if name == "COPY" else []:
            assert source == "." or any(f == source or f.startswith(f"{source}/") for f in sent), source
    assert [rest for name, rest in steps if name == "USER"] == ["codelutra"]
    assert [name for name, _ in steps][-2:] == ["USER", "CMD"], "the user holds for what runs"
    (kept,) = (dict(re.findall(r"(\w+)=(\S+)", rest)) for name, rest in steps if name == "ENV")
    assert {v for k, v in kept.items() if k.startswith("CODELUTRA_")} <= set(re.findall(r"/srv/codelutra/\w+", str(steps)))
    assert kept["PREFECT_HOME"].startswith("/srv/codelutra/"), "Prefect's records of cached tasks outlive a container"


def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_compose_shows_its_ports_to_this_host_alone_and_wants_every_secret() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        has_socket = any(volume.startswith(SOCKET) for volume in service.get("volumes", []))
        assert has_socket == ("group_add" in service) == (name == "worker"), name
    explained = text[: text.index("\nservices:")]
    wanted = {name for name, kind in GIVEN.findall(text) if kind == "?"}
    assert wanted == {"CODELUTRA_PASSWORD", "CODELUTRA_DATABASE_PASSWORD", "DOCKER_GROUP"}
    assert all(f"#   {name}=" in explained for name in wanted)
    assert {name for name, kind in GIVEN.findall(text) if not kind} <= wanted, "each of the others has a default"
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_compose_runs_is_in_the_image_and_its_pool_is_the_worker_s() -> None:
    scripts = services()
    assert scripts["deploy"]["command"].split()[0] in context()
    pool = re.search(r"--pool (\S+)", scripts["worker"]["command"])
    assert pool
    assert pool[1] == "codelutra-" + scripts["deploy"]["command"].split()[1]
    network = yaml.safe_load((ROOT / "compose.yaml").read_text())["networks"]["default"]["name"]
    assert scripts["deploy"]["environment"]["CODELUTRA_NETWORK"] == network, "or flow runs could not ask the server"


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    tools = ["docker", "compose"], ["docker-compose"]
    found = (t for t in tools if shutil.which(t[0]) and not subprocess.run([*t, "version"], capture_output=True).returncode)
    if not (tool := next(found, None)):
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    env = tmp_path / "env"
    env.write_text("CODELUTRA_PASSWORD=a:b\nCODELUTRA_DATABASE_PASSWORD=c\nDOCKER_GROUP=105\n")
    command = [*tool, "--env-file", str(env), "-f", str(ROOT / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    worker = yaml.safe_load(done.stdout)["services"]["worker"]
    assert [str(group) for group in worker["group_add"]] == ["105"]
    env.write_text("CODELUTRA_PASSWORD=a:b\n")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "write .env first" in done.stderr


def test_set_up_takes_the_word_for_which_packages_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy2(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CODELUTRA_PACKAGES": "tpu"}
    done = subprocess.run([tmp_path / "scripts/setup.sh", "python"], env=env, capture_output=True, text=True)
    assert (done.returncode, "CODELUTRA_PACKAGES=tpu is neither cpu nor gpu" in done.stderr) == (2, True), done
    assert sorted(p.name for p in tmp_path.iterdir()) == [".setup", "scripts"]
