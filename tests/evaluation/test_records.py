"""Records: what goes in comes out; damage, strings and files too large to commit are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from covtoken.errors import CovtokenError
from covtoken.evaluation.records import MAX_BYTES, Records, load_records, records_path, save_records

HEADER = {"cohort": "toy", "gate": 2, "split": "test", "units": ["a1", "ß"], "nested": {"ratio": 0.25, "none": None}}


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    arrays = {
        "rho": rng.standard_normal((3, 5)),
        "mu": rng.standard_normal(5).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "met": np.array([True, False, True]),
        "k": np.arange(-3, 3),
        "counts": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "undefined": np.array([np.nan, np.inf, -0.0]),
        "none": np.zeros((0, 4)),
    }
    return Records(arrays, HEADER)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gate_reports" / "toy" / "gate2.safetensors"


def same(found: Records, wanted: Records):
    assert found.header == wanted.header and set(found.arrays) == set(wanted.arrays)
    for name, array in wanted.arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def test_round_trip(records, path):
    assert save_records(records, path) == path
    same(load_records(path), records)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "a temporary file was left"


def test_the_same_records_give_the_same_bytes(records, path, tmp_path):
    other = Records(dict(reversed(records.arrays.items())), dict(reversed(records.header.items())))
    first, second = save_records(records, path), save_records(other, tmp_path / "b.safetensors")
    assert load_records(first).arrays.keys() == load_records(second).arrays.keys()
    digests = []
    for file in (first, second):
        with safe_open(file, framework="numpy") as opened:
            digests.append(opened.metadata()["sha256"])
    assert digests[0] == digests[1]


def test_views_are_recorded_as_they_read(path):
    whole = np.arange(24.0).reshape(4, 6)
    wanted = Records({"t": whole.T, "every": whole[::2, ::-1], "f": np.asfortranarray(whole)}, HEADER)
    same(load_records(save_records(wanted, path)), wanted)


def test_one_number_stays_one_number(path):
    found = load_records(save_records(Records({"one": np.array(3.5)}, HEADER), path))
    assert found["one"].shape == () and found["one"] == 3.5


def test_another_byte_order_is_recorded_by_value(path):
    wanted = np.arange(5, dtype=">f8")
    found = load_records(save_records(Records({"a": wanted}, HEADER), path))
    assert (found["a"] == wanted).all() and found["a"].dtype.isnative


def test_no_arrays_and_no_header(path):
    same(load_records(save_records(Records({}, {}), path)), Records({}, {}))


def test_saving_again_replaces(records, path):
    save_records(records, path)
    new = Records({"k": np.array([1])}, {"cohort": "other"})
    same(load_records(save_records(new, path)), new)


def test_truncation_is_refused(records, path):
    save_records(records, path)
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CovtokenError, match=r"gate2\.safetensors: truncated"):
            load_records(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CovtokenError, match=r"gate2\.safetensors"):
        load_records(path)


def test_any_changed_byte_of_the_content_is_refused(records, path):
    save_records(records, path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CovtokenError, match=r"does not fit its digest|truncated"):
            load_records(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"gate\\": 2', b'\\"gate\\": 3'),
        (b'\\"split\\": \\"test\\"', b'\\"split\\": \\"best\\"'),
        (b'"rho":', b'"rhp":'),
        (b'"shape":[3,5]', b'"shape":[5,3]'),
        (b'"dtype":"F32"', b'"dtype":"I32"'),
    ],
)
def test_an_edited_header_is_refused(records, path, old, new):
    whole = save_records(records, path).read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_records(path)


def test_swapped_columns_are_refused(path):
    a, b = np.arange(4.0), np.arange(4.0) + 1
    save_records(Records({"a": a, "b": b}, HEADER), path)
    with safe_open(path, framework="numpy") as file:
        meta = file.metadata()
    save_file({"a": b, "b": a}, path, metadata=meta)
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_records(path)


def test_strangers_are_refused(path, tmp_path):
    with pytest.raises(CovtokenError, match=r"no records at .*gate2\.safetensors.*covtoken gate 2 "):
        load_records(path)
    with pytest.raises(CovtokenError, match=r"covtoken gate negative_result "):
        load_records(records_path(tmp_path, "toy", "negative_result"))
    path.parent.mkdir(parents=True)
    save_file({"a": np.arange(3)}, path)
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_records(path)
    save_file({"a": np.arange(3)}, path, metadata={"header": json.dumps(HEADER)})
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_records(path)
    path.write_text("no safetensors at all\n")
    with pytest.raises(CovtokenError, match="truncated or no safetensors file"):
        load_records(path)
    with pytest.raises(CovtokenError, match="truncated or no safetensors file"):
        load_records(path.parent)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["patient 7"]),
        np.array([b"bytes"]),
        np.array([{"a": 1}], dtype=object),
        np.array([1 + 2j]),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    ],
    ids=lambda array: str(array.dtype.kind),
)
def test_only_numbers_are_recorded(records, path, array):
    save_records(records, path)
    before = path.read_bytes()
    with pytest.raises(CovtokenError, match=r"names is .*, expected numbers"):
        save_records(Records(records.arrays | {"names": array}, HEADER), path)
    assert path.read_bytes() == before


def test_nan_in_the_header_is_refused_before_anything_is_written(records, path):
    with pytest.raises(ValueError, match="JSON"):
        save_records(Records(records.arrays, {"value": float("nan")}), path)
    assert not path.exists()


def test_too_large_is_refused_and_the_old_file_left(records, path):
    save_records(records, path)
    before = path.read_bytes()
    large = Records({"a": np.zeros(MAX_BYTES // 8)}, HEADER)
    with pytest.raises(CovtokenError, match=r"at most 2000000: record fewer columns"):
        save_records(large, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name], "a temporary file was left"
    same(load_records(path), records)


def test_the_limit_itself_is_allowed(path):
    empty = save_records(Records({"a": np.zeros(1_000_000, np.uint8)}, {}), path).stat().st_size - 1_000_000
    room = MAX_BYTES - empty
    assert save_records(Records({"a": np.zeros(room, np.uint8)}, {}), path).stat().st_size == MAX_BYTES
    with pytest.raises(CovtokenError, match="at most"):
        save_records(Records({"a": np.zeros(room + 1, np.uint8)}, {}), path)


def test_a_missing_column_is_named(records):
    with pytest.raises(CovtokenError, match="no 'kk': they have counts, half, k, met"):
        records["kk"]


def test_where_they_lie(tmp_path):
    assert records_path(tmp_path, "busi", 3) == tmp_path / "gate_reports" / "busi" / "gate3.safetensors"
    assert records_path(tmp_path, "busi", "3") == records_path(tmp_path, "busi", 3)
    assert records_path(tmp_path, "busi", "negative_result").name == "negative_result.safetensors"
