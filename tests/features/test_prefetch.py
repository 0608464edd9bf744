import threading

import pytest

from mnprobe.core.runtime import prefetch


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 2), (2, 10)])
def test_order_is_kept_and_no_more_is_read_than_asked(threads, ahead):
    asked = []
    for used, (item, ready) in enumerate(
        prefetch(range(20), lambda i: asked.append(i) or i * i, threads=threads, ahead=ahead)
    ):
        assert (item, ready) == (used, used * used)
        assert len(asked) <= used + 1 + ahead


def test_the_next_item_is_prepared_while_the_present_one_is_used():
    begun = threading.Event()

    def prepare(item):
        if item == 1:
            begun.set()
        return item

    items = prefetch([0, 1], prepare)
    next(items)
    assert begun.wait(timeout=30)
    assert next(items) == (1, 1)


def test_an_error_comes_where_its_item_would_have_come():
    def prepare(item):
        if item == 2:
            raise ValueError("no image")
        return item

    items = prefetch([0, 1, 2, 3], prepare, threads=2, ahead=3)
    assert [next(items), next(items)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="no image"):
        next(items)


def test_leaving_early_stops_the_reading():
    asked = []
    items = prefetch(range(100), lambda i: asked.append(i) or i)
    next(items)
    items.close()
    assert len(asked) <= 3
