"""Errors get out of a pool's process, and can be copied."""

import copy
import pickle

import pytest

from common.errors import (
    ResultTimeout,
    Retry,
    SettingsError,
    SubmissionUnknown,
    TaskCancelled,
    TaskFailed,
    UnknownTask,
    WarrenError,
)


@pytest.mark.parametrize(
    "error",
    [
        TaskFailed("id", "exception", "ValueError", "no", "Traceback ..."),
        TaskCancelled("cancelled", "id"),
        UnknownTask("unknown", "id"),
        ResultTimeout("over", "id"),
        SubmissionUnknown("no confirm", ["a", "b"]),
        SettingsError(["one", "two"]),
        Retry(after=30, message="busy"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_pickled_or_copied_is_the_same(error: WarrenError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
