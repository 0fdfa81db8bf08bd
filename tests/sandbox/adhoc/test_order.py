"""The options of the command line, checked as strictly as the configuration."""

import pytest

from sandbox.adhoc.order import profile_of
from sandbox.config import KeeperConfig
from sandbox.errors import ConfigError


def test_what_cannot_be_is_told_in_words_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"^memory: must be at least 256MiB, .*, not 1\.$"):
        profile_of(KeeperConfig(), "default", memory=1)
    with pytest.raises(ConfigError, match="There is no profile big"):
        profile_of(KeeperConfig(), "big")
