"""What all attributions of the package tell Captum about themselves."""

from __future__ import annotations

import re

from captum.attr import Attribution


class BaseAttribution(Attribution):
    """Put this before Captum's own base class in the list of bases."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: an attribution says what matters, and is no score that was multiplied by the input."""
        return False

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @classmethod
    def get_name(cls) -> str:
        """The name of the class in words; acronyms stay whole."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__)
