"""What a chapter's cell shows, caught for the tests of figures, tables and shown code."""

from collections.abc import Callable, Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output


@pytest.fixture
def shown() -> Iterator[Callable[[Callable[[], None]], list[RichOutput]]]:
    """Calls a function and returns what it displayed. Without a shell, display would print."""
    InteractiveShell.instance()

    def outputs(call: Callable[[], None]) -> list[RichOutput]:
        with capture_output() as captured:
            call()
        return captured.outputs

    yield outputs
    InteractiveShell.clear_instance()
