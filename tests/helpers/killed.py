"""Run a stage in a child process that is killed at a chosen moment, as kill -9 would."""

import importlib
import os
import signal
from collections.abc import Callable


def killed_at(owner: str, name: str, count: int, stage: Callable, when: Callable = lambda *args: True) -> bool:
    """Fork, and kill the child when it calls a function for the count-th time, before the call does anything.

    Args:
        owner, name: module and name of the function.
        stage: what the child runs.
        when: arguments of a call to whether it counts.
    Returns:
        whether the child was killed; False when it finished first.
    """
    child = os.fork()
    if child == 0:
        try:
            module = importlib.import_module(owner)
            real, calls = getattr(module, name), 0

            def counted(*args, **named):
                nonlocal calls
                calls += when(*args)
                if calls == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **named)

            setattr(module, name, counted)
            stage()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the stage failed by itself, status {status}"
    return status == signal.SIGKILL
