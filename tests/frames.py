"""Tables held against each other, to the last digit and without the walk through every category that pandas takes."""

from __future__ import annotations

import pandas as pd
from pandas.testing import assert_frame_equal, assert_index_equal


def assert_same(here: pd.DataFrame, there: pd.DataFrame) -> None:
    """Two tables have the same columns, dtypes, index and values, and the same categories in the same order."""
    assert here.dtypes.to_dict() == there.dtypes.to_dict()
    for name in _categorical(here):
        assert_index_equal(here[name].cat.categories, there[name].cat.categories)
    assert_frame_equal(_coded(here), _coded(there), check_exact=True)


def _categorical(frame: pd.DataFrame) -> pd.Index:
    return frame.select_dtypes("category").columns


def _coded(frame: pd.DataFrame) -> pd.DataFrame:
    """With numbers for categories."""
    return frame.assign(**{name: frame[name].cat.codes for name in _categorical(frame)})
