"""One connection of the front to a worker: frames are lost by nobody's leaving, and not read ahead of who takes them."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator.node.lanes import Lane, Lanes, Link, Lost, Process, Talk
from orchestrator.node.wire import Answered, Asked, Peer, Piece, Ping, Pong, Questions, WireBroken, packed

ASKED = Asked("GET", b"/", b"", [], b"", Peer("127.0.0.1", 1))


def answered(more: bool = False) -> Answered:
    return Answered(200, "OK", [], b"x", more)


def beside_a_worker(use: Callable[[Link, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """Run with a link and the worker's end of it."""

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="mv-") as folder:
            path, ends = Path(folder) / "w.sock", asyncio.Queue[asyncio.StreamWriter]()
            server = await asyncio.start_unix_server(lambda _, writer: ends.put_nowait(writer), str(path))
            async with server, asyncio.timeout(20):
                link = await Link.opened(path)
                await use(link, await ends.get())
                link.close()

    asyncio.run(run())


def test_a_frame_that_comes_in_the_turn_in_which_its_reader_leaves_is_the_next_ones() -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        reader = asyncio.ensure_future(link.reply())
        await asyncio.sleep(0)
        link._heard(link._frames, Pong())
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await link.reply() == Pong()
        reader = asyncio.ensure_future(link.reply())
        await asyncio.sleep(0)
        reader.cancel()
        worker.write(packed(Pong()))
        assert await link.reply() == Pong()

    beside_a_worker(use)


def test_what_nobody_takes_stays_with_the_worker() -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        piece = Piece(b"p" * 100_000, more=True)
        sending = asyncio.ensure_future(_send(worker, [piece] * 200))
        await asyncio.sleep(0.3)
        assert not sending.done() and len(link._unread) < 20
        for _ in range(200):
            assert await link.reply() == piece
        await sending
        assert not link._unread

    beside_a_worker(use)


async def _send(worker: asyncio.StreamWriter, pieces: list[Piece]) -> None:
    for piece in pieces:
        worker.write(packed(piece))
        await worker.drain()


def test_who_waits_and_who_comes_later_hears_of_an_end() -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        reader = asyncio.ensure_future(link.reply())
        await asyncio.sleep(0)
        worker.close()
        with pytest.raises(WireBroken):
            await reader
        assert not link.is_open
        link.say(Ping())
        with pytest.raises(WireBroken):
            await link.reply()

    beside_a_worker(use)


def test_a_talk_whose_listener_leaves_gives_its_slot_back_when_the_worker_is_done() -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        process = Process("people", "people", Path("/nowhere"))
        lane = Lane("people", "people", 1, 1, 5.0)
        lanes = Lanes([lane], [process])
        process.busy["people"] = 1
        talk = Talk(lanes, lane, process, link)
        begun = asyncio.ensure_future(talk.begin(ASKED))
        await asyncio.sleep(0.01)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        talk.close()
        await asyncio.sleep(0.05)
        assert process.busy["people"] == 1, "the worker's thread is not free yet"
        worker.write(packed(answered(more=True)) + packed(Piece(b"y", more=False)))
        while process.busy["people"]:
            await asyncio.sleep(0.01)
        assert process.idle["people"] == [link] and link.is_open

    beside_a_worker(use)


def test_a_worker_reads_questions_however_they_are_cut_and_hears_of_a_front_that_left_within_one() -> None:
    here, there = socket.socketpair()
    sent = packed(ASKED) + packed(Ping()) + packed(Asked("PUT", b"/", b"", [], b"b" * 300_000, Peer("::1", 2)))

    def send() -> None:
        for begin, end in itertools.pairwise([0, 1, 5, len(packed(ASKED)) + 2, len(sent) - 1, len(sent)]):
            here.sendall(sent[begin:end])
            time.sleep(0.01)
        here.sendall(packed(ASKED)[:-1])
        here.close()

    sender = threading.Thread(target=send)
    sender.start()
    questions = Questions(there)
    assert (questions.next(), questions.next()) == (ASKED, Ping())
    long = questions.next()
    assert isinstance(long, Asked) and len(long.body) == 300_000
    with pytest.raises(WireBroken):
        questions.next()
    sender.join()
    here, there = socket.socketpair()
    here.close()
    assert Questions(there).next() is None


def one_slot(link: Link) -> tuple[Talk, Lanes, Process]:
    process, lane = Process("people", "people", Path("/nowhere")), Lane("people", "people", 1, 1, 5.0)
    lanes = Lanes([lane], [process])
    process.busy["people"] = 1
    return Talk(lanes, lane, process, link), lanes, process


async def given_back(process: Process) -> None:
    while process.busy["people"]:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("frames", [[answered()], [answered(more=True), Piece(b"secret", more=False)]])
def test_nobody_gets_a_frame_of_the_answer_to_somebody_else(frames: list[Answered | Piece]) -> None:
    """All frames come in one turn of the loop, and who asked leaves in it."""

    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        talk, _, process = one_slot(link)
        begun = asyncio.ensure_future(talk.begin(ASKED))
        await asyncio.sleep(0.01)
        for frame in frames:
            link._heard(link._frames, frame)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        talk.close()
        await given_back(process)
        for kept in process.idle.get("people", []):
            assert kept.is_clean
            reader = asyncio.ensure_future(kept.reply())
            worker.write(packed(answered()))
            assert await reader == answered()

    beside_a_worker(use)


def test_frames_are_taken_in_the_order_of_their_coming() -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        reader = asyncio.ensure_future(link.reply())
        await asyncio.sleep(0)
        link._heard(link._frames, answered(more=True))
        link._heard(link._frames, Piece(b"2", more=False))
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not link.is_clean
        assert (await link.reply(), await link.reply()) == (answered(more=True), Piece(b"2", more=False))
        assert link.is_clean

    beside_a_worker(use)


@pytest.mark.parametrize("last", [Piece(b"", more=False, broken=True), Pong()])
@pytest.mark.parametrize("leaves", [False, True], ids=["is told", "has left"])
def test_an_answer_that_breaks_off_gives_its_slot_back_and_ends_its_connection(last: Piece | Pong, leaves: bool) -> None:
    async def use(link: Link, worker: asyncio.StreamWriter) -> None:
        talk, _, process = one_slot(link)
        worker.write(packed(answered(more=True)))
        assert (await talk.begin(ASKED)).more
        if leaves:
            talk.close()
        worker.write(packed(last))
        if not leaves:
            with pytest.raises(Lost):
                await talk.piece()
            talk.close()
        await given_back(process)
        assert not process.idle.get("people") and not link.is_open

    beside_a_worker(use)


def test_of_two_that_connect_at_once_to_what_carries_many_only_one_stays_open() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="mv-") as folder:
            path, ends = Path(folder) / "w.sock", list[asyncio.StreamReader]()
            server = await asyncio.start_unix_server(lambda reader, _: ends.append(reader), str(path))
            async with server, asyncio.timeout(20):
                process = Process("machine", "machine", path)
                lanes = Lanes([Lane("urgent", "machine", 9, 9, 5.0, shared=True)], [process])
                links = await asyncio.gather(*(lanes._shared_link(process) for _ in range(5)))
                assert len(set(map(id, links))) == 1
                while sum(not reader.at_eof() for reader in ends) > 1:
                    await asyncio.sleep(0.01)
                links[0].close()

    asyncio.run(run())
