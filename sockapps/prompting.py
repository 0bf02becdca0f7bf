"""
A prompt for a person who talks to an app: history, completion, and hidden passwords.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from sockapps.clientprotocol import ClientProtocol


async def prompted(app: str, client: type[ClientProtocol]) -> AsyncIterator[bytes]:
    """
    Ask a person for messages until Ctrl+D or Ctrl+C.

    It needs the reactor to run on asyncio's event loop.

    @param client: The app's client protocol, which knows its words, what to ask for in their
        place, and whether messages are secret.
    """
    history = InMemoryHistory() if client.secret else _history(app)
    session: PromptSession[str] = PromptSession(
        history=history,
        auto_suggest=AutoSuggestFromHistory(),
        completer=WordCompleter(list(client.words), sentence=True),
        complete_while_typing=False,
    )
    # With an output of its own it does not fall back to a plain prompt, which would show what is
    # typed, on a terminal that can do little.
    hidden: PromptSession[str] = PromptSession(is_password=True, output=create_output())
    while True:
        answers = []
        for question, secret in (client.asks or {f"{app}>": False}).items():
            answer = await _answer(hidden if secret else session, f"{question} ")
            if answer is None:
                return
            answers.append(answer)
        if client.asks:
            yield client.compose(*answers)
        else:
            yield answers[0].encode(errors="surrogateescape")


async def _answer(session: PromptSession[str], question: str) -> str | None:
    """Ask once; C{None} is the end of the asking."""

    async def ask() -> str | None:
        try:
            return await session.prompt_async(question)
        except (EOFError, KeyboardInterrupt):
            # Here, not outside: a KeyboardInterrupt that leaves a task ends the event loop.
            return None

    return await Deferred.fromFuture(asyncio.ensure_future(ask()))


def _history(app: str) -> History:
    """What was typed at this app's prompt before, for this user only; without a home, nothing."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(state).expanduser() / "sockapps"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / f"history-{app}"
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))
