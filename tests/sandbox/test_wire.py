from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.runner import wire


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.integers(1, 7))
def test_frames_survive_any_way_of_being_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    buffer, seen = bytearray(), []
    for at in range(0, len(stream), step):
        buffer += stream[at : at + step]
        seen += wire.take_frames(buffer)
    assert seen == frames
    assert not buffer


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 6), st.binary(), st.binary(), st.binary())))
def test_results_come_back_as_they_were_packed(results: list[tuple[int, int, bytes, bytes, bytes]]) -> None:
    packed = b"".join(wire.pack_result(t, s, 0.5, value, out, err) for t, s, value, out, err in results)
    assert [(r.token, r.status, r.value, r.stdout, r.error) for r in wire.unpack_results(packed)] == results


@pytest.mark.parametrize("cut", [1, wire.RESULT.size - 1, wire.RESULT.size + 1])
def test_a_result_that_is_cut_off_is_a_broken_frame(cut: int) -> None:
    with pytest.raises(wire.BrokenFrame):
        list(wire.unpack_results(wire.pack_result(1, 0, 0.0, b"value")[:cut]))


def test_an_unknown_status_and_an_absurd_length_are_broken_frames() -> None:
    with pytest.raises(wire.BrokenFrame):
        list(wire.unpack_results(wire.pack_result(1, 99, 0.0)))
    with pytest.raises(wire.BrokenFrame):
        list(wire.take_frames(bytearray(b"\xff\xff\xff\xffR")))
