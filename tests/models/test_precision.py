from __future__ import annotations

import pytest

from flowercnn import ConfigurationError
from flowercnn.models.precision import choose_precision


def test_precision_is_chosen_by_the_machine_or_the_user() -> None:
    assert choose_precision("float32") == "float32"
    assert choose_precision("bfloat16") == "bfloat16"
    assert choose_precision("auto") in ("float32", "bfloat16")
    with pytest.raises(ConfigurationError, match="precision must be"):
        choose_precision("float64")  # type: ignore[arg-type]  # that is the point
