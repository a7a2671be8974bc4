"""Whatever text stands in an index.csv, the two readers of it give cases or refuse it by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from covtoken.data.readers.folder import read
from covtoken.errors import CovtokenError
from covtoken.maps.inputs.listing import list_inputs

CELLS = st.sampled_from(
    [
        *(
            "a.png",
            "b.png",
            "m.png",
            "../a.png",
            "/etc/passwd",
            "C:\\a.png",
            "loop",
            ".",
            "",
            "~",
            "0",
            "nan",
            "-1",
            "1e999",
        ),
        *("ct", "malignant", "\0", '"', ",", ";", "\r", "\u2028", "x" * 300, "²", "1 1"),
    ]
) | st.text(max_size=5)
HEADS = st.sampled_from(
    [
        *("image", "mask", "patient", "spacing", "modality", "organ", "organ_name", "slice", "diagnosis"),
        *("lesion_value", "mask_at_least", "Image", "", "\ufeffimage"),
    ]
)
ROWS = st.lists(st.lists(CELLS, max_size=5), max_size=3)
LISTS = st.tuples(st.lists(HEADS, max_size=4).map(lambda more: ["image", "mask", *more]) | st.lists(HEADS), ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two pictures, a mask and a link to itself."""
    root = tmp_path_factory.mktemp("own")
    for name in ("a", "b", "m"):
        values = np.random.default_rng(list(name.encode())).integers(0, 255, (40, 40)).astype(np.uint8)
        Image.fromarray(values if name != "m" else np.uint8(255) * (values > 128)).save(root / f"{name}.png")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(LISTS, st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-16", "latin-1"]))
def test_any_list_is_read_or_refused(folder, rows, separator, encoding):
    head, cells = rows
    text = "\n".join(separator.join(row) for row in [head, *cells])
    (folder / "index.csv").write_bytes(text.encode(encoding, "replace"))
    for reader in (read, list_inputs):
        try:
            reader(folder)
        except CovtokenError as error:
            assert str(error)
