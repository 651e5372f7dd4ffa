from __future__ import annotations

import traceback

import pytest

from flwr_decaf.strategies.relay.replies import exception_line

RAY = """<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::run()\x1b[39m \
(pid=7, ip=127.0.0.1, actor_id=0c, repr=<flwr.simulation.ray_transport.ray_actor.ClientAppActor>)
  File "/env/flwr/simulation/ray_transport/ray_actor.py", line 60, in run
    out_message = app(message=message, context=context)
                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/env/app/client_app.py", line 12, in train
    rows = load()
           ^^^^^^
ValueError: no rows:
\ttext is empty

The above exception was the direct cause of the following exception:

\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=7, ip=127.0.0.1, actor_id=0c)
  File "/env/flwr/simulation/ray_transport/ray_actor.py", line 65, in run
    raise ClientAppException(str(ex)) from ex
flwr.clientapp.client_app.ClientAppException:\x20
Exception ClientAppException occurred. Message: no rows:
\ttext is empty'>"""


def chained():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError:
        return traceback.format_exc()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (RAY, "ValueError: no rows: text is empty"),
        ("<class 'ZeroDivisionError'>:<'division by zero'>", "ZeroDivisionError: division by zero"),
        ("no reply in time", "no reply in time"),
        (chained(), "RuntimeError: second"),
        (
            "<class 'ray.exceptions.ActorDiedError'>:<'The actor died.\n\tpid: 7'>",
            "ray.exceptions.ActorDiedError: The actor died. pid: 7",
        ),
        (
            "<class 'ray.exceptions.ActorDiedError'>:<'The actor died in its creation task,\n"
            '  File "a.py", line 1, in __init__\n    f()\nImportError: no module\'>',
            "ray.exceptions.ActorDiedError: The actor died in its creation task, "
            'File "a.py", line 1, in __init__ f() ImportError: no module',
        ),
        (
            'RuntimeError: Caught it in worker 0.\nTraceback:\n  File "a.py", line 1, in f\n'
            "    g()\nOSError: gone\n",
            "OSError: gone",
        ),
    ],
)
def test_only_the_last_exception_of_a_traceback_is_reported(text, line):
    assert exception_line(text) == line


def test_what_is_long_is_shortened():
    assert len(exception_line("ValueError: " + "word " * 1000)) <= 400
