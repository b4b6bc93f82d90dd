"""Private files are 0600 in folders of 0700, whatever the umask (am14)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.children import Child
from cli.stack.layout import Layout
from common.files import open_private, private_folder, write_private


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_nobody_else_reads_a_private_file_or_a_folder_that_was_made_for_it(umask: int, tmp_path: Path) -> None:
    write_private(tmp_path / "a" / "b" / "key", "secret")
    with open_private(tmp_path / "logs" / "one.log", "ab") as stream:
        stream.write(b"line\n")
    private_folder(tmp_path / "c" / "d")
    assert modes(tmp_path) == {
        "a": 0o700, "a/b": 0o700, "a/b/key": 0o600, "logs": 0o700, "logs/one.log": 0o600, "c": 0o700, "c/d": 0o700,
    }  # fmt: skip


def test_a_log_that_everybody_could_read_is_closed_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("before\n")
    log.chmod(0o644)
    tmp_path.chmod(0o755)
    with open_private(log, "ab") as stream:
        stream.write(b"after\n")
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("before\nafter\n", 0o600)
    assert tmp_path.stat().st_mode & 0o777 == 0o755, "a folder that was there is somebody's"
    with open_private(log, "wb"):
        pass
    assert log.read_text() == ""


def test_what_a_process_of_the_stack_says_is_private(umask: int, tmp_path: Path) -> None:
    layout = Layout(var=tmp_path / "var")
    layout.secret("primary", "master.key")
    child = Child("one", ["true"], {"PATH": os.environ["PATH"]}, layout.logs / "one.log", tmp_path)
    child.start()
    assert child.process is not None
    child.process.wait()
    assert not [name for name, mode in modes(tmp_path).items() if mode & 0o077], modes(tmp_path)
