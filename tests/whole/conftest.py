"""Marks what is in this folder: commands, guides and programs as users run them."""

import pytest

_MARKED_OTHERWISE = ("slow", "bench", "tpu_compile")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leaves the tests of this folder to ``-m whole``; see CONTRIBUTING.md."""
    if not any(item.get_closest_marker(name) for name in _MARKED_OTHERWISE):
        item.add_marker("whole")
