"""What a worker advises about a failed task, from its policy and from what was raised."""

import pytest

from common.errors import Fail, Retry, TaskTimeout
from common.options import Backoff, Policy
from common.wire import Advice, ErrorKind
from worker_service.advice import advise

TWICE = Policy(retries=2, backoff=Backoff(base=5))


class Ours(LookupError):
    class Nested(ConnectionError): ...


@pytest.mark.parametrize("kind", [ErrorKind.EXCEPTION, ErrorKind.TIMEOUT])
def test_what_may_pass_by_itself_is_tried_again(kind: ErrorKind) -> None:
    assert advise(TWICE, kind, ValueError) == Advice(retries=2, backoff=Backoff(base=5))


@pytest.mark.parametrize("policy", [Policy(), Policy(retries=0), Policy(backoff=Backoff(base=5))])
def test_nothing_is_tried_again_unless_somebody_says_so(policy: Policy) -> None:
    assert advise(policy, ErrorKind.EXCEPTION, ValueError) is None


@pytest.mark.parametrize("kind", [ErrorKind.BAD_ARGUMENTS, ErrorKind.BAD_RESULT, ErrorKind.GAVE_UP])
def test_what_stays_wrong_is_not_tried_again(kind: ErrorKind) -> None:
    assert advise(TWICE, kind, Fail) is None


@pytest.mark.parametrize(
    ("names", "error", "tried"),
    [
        (("OSError",), OSError, True),
        (("OSError",), ConnectionResetError, True),
        (("builtins.OSError",), ConnectionResetError, True),
        (("ConnectionResetError",), OSError, False),
        (("Ours",), Ours, True),
        ((f"{__name__}.Ours",), Ours, True),
        (("LookupError",), Ours, True),
        (("elsewhere.Ours",), Ours, False),
        (("__main__.Ours",), Ours, True),
        (("Ours.Nested",), Ours.Nested, True),
        (("ValueError", "TypeError"), TypeError, True),
        ((), ValueError, False),
        (("TaskTimeout",), TaskTimeout, True),
    ],
)
def test_types_are_known_by_their_names(names: tuple[str, ...], error: type[Exception], tried: bool) -> None:
    kind = ErrorKind.TIMEOUT if error is TaskTimeout else ErrorKind.EXCEPTION
    assert (advise(Policy(retries=1, retry_on=names), kind, error) is not None) is tried
    assert (advise(Policy(retries=1, give_up_on=names), kind, error) is None) is tried
    assert advise(Policy(retries=1, retry_on=names, give_up_on=names), kind, error) is None


def test_who_asks_for_it_is_run_again_whatever_the_types_say() -> None:
    policy = Policy(retry_on=("OSError",), give_up_on=("Retry",))
    assert advise(policy, ErrorKind.RETRY, Retry, 7.0) == Advice(after=7.0)
    assert advise(TWICE, ErrorKind.RETRY, Retry) == Advice(retries=2, backoff=Backoff(base=5))


def test_a_crash_knows_how_many_there_may_be() -> None:
    assert advise(Policy(retries=5, max_crashes=4), ErrorKind.CRASHED, SystemError) == Advice(max_crashes=4)
    assert advise(Policy(retries=5), ErrorKind.CRASHED, SystemError) is None
