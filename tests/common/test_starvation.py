"""Who waited for a processor is starved; who waited for anything else stands still, and is found in the promised time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from common import progress, starvation
from common.progress import Progress
from common.starvation import EXCUSED_AT_MOST, OwnWatch, all_waited, longest_wait, own_waited, waited, waited_of


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which this thread's waiting can be said."""
    monkeypatch.setattr(starvation, "PROC", tmp_path)
    monkeypatch.setattr(starvation, "watch", OwnWatch())
    return tmp_path


def say(proc: Path, seconds: float, thread: int | None = None, process: str = "self") -> None:
    task = proc / process / "task" / str(thread or threading.get_native_id())
    task.mkdir(parents=True, exist_ok=True)
    (task / "schedstat").write_text(f"12345 {int(seconds * 1e9)} 7\n")


@pytest.mark.parametrize(("line", "seconds"), [("5 2500000000 9", 2.5), ("", 0.0), ("0", 0.0), ("5 x 9", 0.0)])
def test_the_second_number_counts(line: str, seconds: float) -> None:
    assert waited_of(line) == seconds


def test_what_stands_still_is_late_in_the_promised_time(proc: Path) -> None:
    say(proc, 3.0)
    loops = Progress()
    loops.moved("lease", 10.0, now=0.0)
    assert not loops.late(10.0) and list(loops.late(10.1)) == ["lease"], "what it waited before does not count"


def test_what_waited_for_a_processor_has_so_much_longer_and_no_more(proc: Path) -> None:
    loops = Progress()
    loops.moved("lease", 10.0, now=0.0)
    say(proc, 6.0)
    assert not loops.late(16.0) and loops.late(16.1)
    say(proc, 1000.0)
    assert not loops.late(10.0 + EXCUSED_AT_MOST * 10.0) and loops.late(10.1 + EXCUSED_AT_MOST * 10.0)


def test_a_watch_that_came_late_itself_excuses_everybody(proc: Path) -> None:
    loops = Progress()
    loops.moved("lease", 10.0, now=0.0)
    starvation.watch.came(0.6, 0.5)
    assert loops.late(10.1), "a little late is nothing"
    starvation.watch.came(4.5, 0.5)
    assert not loops.late(14.0) and loops.late(14.1)


def test_the_longest_waiting_of_all_threads_counts_since_the_look_before(proc: Path) -> None:
    say(proc, 5.0, thread=1, process="77")
    say(proc, 1.0, thread=2, process="77")
    before = all_waited(77)
    say(proc, 5.5, thread=1, process="77")
    say(proc, 3.0, thread=2, process="77")
    assert longest_wait(before, all_waited(77)) == 2.0
    assert all_waited(78) == {} and longest_wait(before, {}) == 0.0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not count")
def test_this_system_counts_no_waiting_of_a_thread_that_sleeps() -> None:
    before = waited(threading.get_native_id())
    time.sleep(0.3)
    assert 0 <= waited(threading.get_native_id()) - before < 0.3
    assert str(os.getpid()) in all_waited(os.getpid()) and progress.waited(0) == starvation.watch.late


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not count it")
def test_each_thread_and_each_fork_reads_its_own_line() -> None:
    assert own_waited() == pytest.approx(waited(threading.get_native_id()), abs=0.2)
    seen = list[Path]()

    def look() -> None:
        own_waited()
        seen.append(Path(f"/proc/self/fd/{starvation._own.descriptor()}").readlink())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    look()
    assert len(set(seen)) == 2 and seen[1].parts[-2] == str(threading.get_native_id())
    child = os.fork()
    if child == 0:
        os._exit(Path(f"/proc/self/fd/{starvation._own.descriptor()}").readlink().parts[-2] != str(os.getpid()))
    assert os.waitpid(child, 0)[1] == 0
