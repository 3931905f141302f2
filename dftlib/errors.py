"""What is raised where the input is to blame, not the code."""


class DataError(Exception):
    """Bad input, said in one sentence with its remedy."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, by IPython's custom: the sentence (%debug leads to where it arose)."""
        return [str(self)]
