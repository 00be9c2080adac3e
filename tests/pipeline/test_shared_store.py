"""Two machines, each with a home of its own, share the work of one config through an S3 server: the real flow, from answers
that are put into the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.pipeline.run import Run
from codelutra.pipeline.stages import problems
from codelutra.pipeline.startable import require_startable
from codelutra.store.run_dir import RunDir
from tests.helpers.commands import codelutra
from tests.helpers.http import Asked, Raw, answering
from tests.helpers.runs import answer, without_dev
from tests.helpers.s3 import S3, s3_server
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


def stages_of(home: Path, event: str) -> set[str]:
    return {e["stage"] for e in RunDir(home / "runs" / "nodev").events() if e["event"] == event}


def test_two_hosts_share_the_work_of_a_run(s3: S3, prefect: dict[str, str], tmp_path: Path) -> None:
    weights, store = write_tiny_model(tmp_path / "weights"), s3.bucket()
    file = without_dev(
        tmp_path, *["train", "train"], *["test"] * 4, iterations=0, warm_start={}, model=f"path:{weights}", store=store
    )
    a, b, c = (tmp_path / name for name in "abc")
    with Run(a, load_config(file)) as run:
        answer(run, weights, right=3)
    done = codelutra("run", str(file), "--home", str(b), "--json", **prefect)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"]["value"] == 0.75
    assert "reused 4 finished artifacts from the store, 4 of them made by other hosts" in done.stderr
    start = {"problems", "references", "warm-start", "sample"}
    assert stages_of(a, "made") == stages_of(b, "fetched") == start
    assert stages_of(b, "made") == {"execute", "score"}
    with Run(c, load_config(file)) as run:
        answer(run, weights, right=0)
    assert stages_of(c, "fetched") == start
    assert not stages_of(c, "made"), "its own answers are not asked for: those of the first are there"
    published = {name.split("/")[1] for name in s3.objects(store) if name.endswith("/manifest.json")}
    assert published == start | {"execute", "score"}
    assert not [name for name in s3.objects(store) if name.startswith("leases/")]


def test_a_run_is_opened_while_the_store_is_away_and_says_so_once(s3: S3, tmp_path: Path) -> None:
    file = without_dev(tmp_path, *["test"] * 2, iterations=0, store=s3.bucket())
    s3.stop()
    try:
        require_startable(load_config(file), tmp_path / "home")
        with Run(tmp_path / "home", load_config(file)) as run:
            made = run.make(problems(run))
            assert Path(made.path).is_dir()
            told = [e["text"] for e in run.dir.events() if e["event"] == "note"]
    finally:
        s3.start()
    assert len([text for text in told if "no answer at http://127.0.0.1" in text]) == 1


def test_a_run_that_cannot_share_its_work_is_not_opened(tmp_path: Path) -> None:
    file = without_dev(tmp_path, *["test"] * 2, iterations=0, store=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere: there is no such folder; mount it .* start without it"):
        Run(tmp_path / "home", load_config(file))
    assert not (tmp_path / "home" / "runs").exists()


def repeating(asked: Asked) -> Raw:
    """Refuses everything, and repeats what it was sent: the key, the signature, a string to sign."""
    said = f"{asked.authorization} AKIAMYKEYMYKEYMYKEY1 hush/hush/hush"
    return Raw(
        403,
        f"<Error><Code>SignatureDoesNotMatch</Code><Message>{said}</Message>"
        f"<AWSAccessKeyId>AKIAMYKEYMYKEYMYKEY1</AWSAccessKeyId><StringToSign>{said}</StringToSign></Error>",
    )


def test_refused_credentials_are_one_message_and_nowhere_to_be_read(tmp_path: Path) -> None:
    file = without_dev(tmp_path, *["test"] * 2, iterations=0)
    with answering(repeating, "") as url:
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "AKIAMYKEYMYKEYMYKEY1",
            "AWS_SECRET_ACCESS_KEY": "hush/hush/hush",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
        }
        done = codelutra("run", str(file), "--home", str(tmp_path / "home"), "--store", "s3://team/x", **environment)
    assert done.returncode == 2, done.stderr
    assert "store s3://team/x: the credentials are not allowed to do this (403)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "AKIA" not in done.stdout + done.stderr
    assert "hush" not in done.stdout + done.stderr
    assert not (tmp_path / "home" / "runs").exists()
