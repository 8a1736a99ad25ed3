"""Downloads from a server of this machine: whole, in parts, and not at all."""

import os
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.core import download as module
from robustbench_bcos.core.download import ATTEMPTS, discard, download
from tests.loopback import Site, served
from tests.refusals import refused

CONTENT = random.Random(0).randbytes(1 << 20)


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def site() -> Iterator[Site]:
    with served(Site(CONTENT)) as one:
        yield one


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def get(site: Site, file: Path, **arguments: Any) -> bytes:
    partial = download(site.url, file, lambda done, total: None, **arguments)
    assert partial.name == "weights.pt.partial"
    assert not file.exists()
    return partial.read_bytes()


def refusal(site: Site, file: Path, **arguments: Any) -> str:
    said = refused(get, site, file, **arguments)
    assert not file.exists()
    return said


class TestWholeFiles:
    def test_a_file_comes_as_it_is_and_progress_is_told(self, site: Site, file: Path) -> None:
        told: list[tuple[int, int | None]] = []
        partial = download(site.url, file, lambda done, total: told.append((done, total)))
        assert partial.read_bytes() == CONTENT
        assert told[0] == (0, len(CONTENT))
        assert told[-1] == (len(CONTENT), len(CONTENT))
        assert sorted(told) == told
        assert site.asked[0]["User-Agent"].startswith("robustbench_bcos/")

    def test_a_server_need_not_say_how_much_there_is(self, site: Site, file: Path) -> None:
        site.length = False
        assert get(site, file) == CONTENT

    def test_an_empty_file_comes(self, site: Site, file: Path) -> None:
        site.content = b""
        assert get(site, file) == b""

    def test_redirects_are_followed(self, site: Site, file: Path) -> None:
        site.redirects = {"/weights.pt": "/s/elsewhere", "/s/elsewhere": f"http://localhost:{site.port}/blob?dl=1"}
        assert get(site, file) == CONTENT
        assert [request["path"] for request in site.asked] == ["/weights.pt", "/s/elsewhere", "/blob?dl=1"]

    @pytest.mark.parametrize("place", ["http://example.org/weights.pt", "ftp://127.0.0.1/x"])
    def test_a_redirect_to_an_unencrypted_place_is_not(self, site: Site, file: Path, place: str) -> None:
        site.redirects = {"/weights.pt": place}
        assert "which is not encrypted: get the file from elsewhere" in refusal(site, file)

    def test_a_redirect_into_this_machines_files_is_not(self, site: Site, file: Path) -> None:
        site.redirects = {"/weights.pt": "file:///etc/hostname"}
        assert "Redirection to url 'file:///etc/hostname' is not allowed" in refusal(site, file)

    def test_a_redirect_in_a_circle_is_refused(self, site: Site, file: Path) -> None:
        site.redirects = {"/weights.pt": "/weights.pt"}
        assert "127.0.0.1 answers 302 " in refusal(site, file)

    def test_what_is_left_of_a_download_can_be_forgotten(self, site: Site, file: Path, tmp_path: Path) -> None:
        discard(download(site.url, file, lambda done, total: None))
        assert list(tmp_path.iterdir()) == []


class TestBrokenConnections:
    @pytest.mark.parametrize("length", [True, False], ids=["length told", "length not told"])
    def test_a_connection_that_dies_is_continued_where_it_died(self, site: Site, file: Path, length: bool) -> None:
        site.dies_after, site.length = [300_000, 200_000], length
        # Without a length nobody can tell a cut from an end: the size on the card does.
        if length:
            assert get(site, file) == CONTENT
            asked = [request.get("Range") for request in site.asked]
            assert asked == [None, "bytes=300000-", "bytes=500000-"]
            assert [request.get("If-Range") for request in site.asked[1:]] == ['"one"', '"one"']
        else:
            assert "has 300,000 bytes and 1,048,576 are published" in refusal(site, file, size=len(CONTENT))
            assert not list(file.parent.iterdir())

    def test_the_next_command_continues_what_the_last_one_left(self, site: Site, file: Path) -> None:
        site.dies_after = [400_000] + ATTEMPTS * [0]
        said = refusal(site, file)
        assert said.startswith("127.0.0.1 broke off after 400,000 bytes of http://127.0.0.1:")
        assert said.endswith("(the connection was lost): repeat the command to continue")
        site.asked.clear()
        assert get(site, file) == CONTENT
        assert [request.get("Range") for request in site.asked] == ["bytes=400000-"]

    @pytest.mark.parametrize("ranges", [True, False])
    def test_a_file_that_was_all_here_is_not_fetched_again(self, site: Site, file: Path, ranges: bool) -> None:
        get(site, file)
        site.ranges = ranges
        sent: list[int] = []
        download(site.url, file, lambda done, total: sent.append(done))
        assert (file.parent / "weights.pt.partial").read_bytes() == CONTENT
        assert bool(sent) is not ranges

    def test_a_server_that_cannot_continue_sends_all_of_it(self, site: Site, file: Path) -> None:
        site.dies_after, site.ranges = [300_000], False
        assert get(site, file) == CONTENT

    @pytest.mark.parametrize("heedless", [False, True], ids=["as the server sees", "as only we see"])
    def test_a_file_that_has_changed_meanwhile_begins_anew(self, site: Site, file: Path, heedless: bool) -> None:
        site.dies_after = [300_000] + ATTEMPTS * [0]
        refusal(site, file)
        site.content, site.version, site.heedless = CONTENT[::-1], '"two"', heedless
        assert get(site, file) == CONTENT[::-1]

    def test_a_file_that_has_become_shorter_begins_anew(self, site: Site, file: Path) -> None:
        get(site, file)
        site.content = CONTENT[:5000]
        assert get(site, file) == CONTENT[:5000]

    @pytest.mark.parametrize("version", [None, 'W/"weak"'])
    def test_a_version_that_promises_nothing_is_not_continued(
        self, site: Site, file: Path, version: str | None
    ) -> None:
        site.version, site.dies_after = version, [300_000]
        assert get(site, file) == CONTENT
        assert [request.get("Range") for request in site.asked] == [None, None]

    def test_a_date_serves_where_there_is_no_tag(self, site: Site, file: Path) -> None:
        site.version, site.modified, site.dies_after = None, "Wed, 21 Oct 2015 07:28:00 GMT", [300_000]
        assert get(site, file) == CONTENT
        assert site.asked[1]["If-Range"] == site.modified

    def test_a_part_of_another_url_is_not_continued(self, site: Site, file: Path) -> None:
        file.with_name("weights.pt.partial").write_bytes(CONTENT[:7])
        file.with_name("weights.pt.partial.json").write_text('{"url": "https://example.org/x", "version": "\\"one\\""}')
        assert get(site, file) == CONTENT

    @pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 3}'])
    def test_a_part_that_nobody_knows_of_is_not_continued(self, site: Site, file: Path, note: str) -> None:
        file.with_name("weights.pt.partial").write_bytes(b"nonsense")
        file.with_name("weights.pt.partial.json").write_text(note)
        assert get(site, file) == CONTENT

    def test_a_part_from_the_wrong_place_is_not_appended(self, site: Site, file: Path) -> None:
        site.dies_after, site.shift = [300_000], 5
        assert get(site, file) == CONTENT
        assert [request.get("Range") for request in site.asked] == [None, "bytes=300000-", None]

    def test_a_busy_server_is_asked_again(self, site: Site, file: Path) -> None:
        site.statuses = [503, 429, 500]
        assert get(site, file) == CONTENT

    def test_a_silent_server_counts_as_lost(self, site: Site, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
        monkeypatch.setattr(module, "ATTEMPTS", 2)
        site.content, site.pause = CONTENT[:1024], 0.5
        assert "broke off after 0 bytes" in refusal(site, file)


class TestRefusals:
    def test_a_file_that_is_not_there_is_one_sentence(self, site: Site, file: Path) -> None:
        site.statuses = [404]
        said = refusal(site, file)
        assert (
            said == f"127.0.0.1 answers 404 Not Found to {site.url}: get the file from elsewhere and put it at {file}"
        )

    def test_a_machine_without_a_connection_is_told_what_to_put_where(self, file: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            site = Site(b"", port=taken.getsockname()[1])
            said = refusal(site, file)
        assert said.startswith("127.0.0.1 cannot be reached (Connection refused): on a machine that can, get http://")
        assert said.endswith(f", and put it at {file}")

    def test_a_web_page_is_not_taken_for_a_file(self, site: Site, file: Path) -> None:
        site.kind = "text/html; charset=utf-8"
        assert "is a web page and no file of weights: open it in a browser" in refusal(site, file)

    def test_another_size_than_the_published_is_refused(self, site: Site, file: Path) -> None:
        assert "has 1,048,576 bytes and 7 are published: nothing is kept" in refusal(site, file, size=7)
        assert not list(file.parent.iterdir())

    def test_a_disk_without_room_is_told_before_anything_is_written(
        self, site: Site, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
        assert "has 1,000 bytes free and 1,048,576 are needed: free some space" in refusal(site, file)
        assert not list(file.parent.iterdir())

    def test_a_disk_that_fills_up_is_one_sentence_and_what_is_here_is_kept(self, site: Site, file: Path) -> None:
        # No file may grow beyond this: to a program that is what a full disk looks like.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 14, limits[1]))
        try:
            said = refusal(site, file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "cannot be written (File too large): free some space, then repeat the command" in said
        assert file.with_name("weights.pt.partial").read_bytes() == CONTENT[: 3 << 14]
        assert get(site, file) == CONTENT

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_one_sentence(self, site: Site, file: Path) -> None:
        file.parent.chmod(0o500)
        assert "cannot be written (Permission denied): choose another folder" in refusal(site, file)
