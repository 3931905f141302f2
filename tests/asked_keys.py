"""The keys that work asks artefacts by, without any being made."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dftlib import artefacts


class AskedError(Exception):
    """Ends the work at its first artefact; its text is the key."""


def asked_key(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of the first artefact that `work` asks for; it must ask for one."""
    digest = artefacts.digest

    def stop(kind: str, version: int, key: Mapping[str, Any]) -> str:
        raise AskedError(digest(kind, version, key))

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "digest", stop)
        with pytest.raises(AskedError) as asked:
            work()
    return str(asked.value)
