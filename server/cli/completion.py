"""``tidegate completion``: what makes a shell complete commands and options."""

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script for a shell: `source <(tidegate completion bash)`.

    Parameters
    ----------
    shell
        Which shell it is for.
    """
    from server.cli import app

    print(app.generate_completion(shell=shell))
