"""What SET, RELOAD and a changed user list read of a pgbouncer.ini, and what is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from forebay.admin.backend import Refused
from forebay.control.source import Configuration, ConfigurationRefused
from forebay.dropin.source import TELL_AGAIN_S, IniSource
from forebay.failure import Failure

PLAIN = "[databases]\nshop = host=10.0.0.5\n[pgbouncer]\nauth_file = userlist.txt\n"
NOTHING: Mapping[str, str] = {}


def written(folder: Path, lines: str = "", *, name: str = "pgbouncer.ini") -> Path:
    path = folder / name
    path.write_text(PLAIN + lines)
    return path


def users(folder: Path, *names: str, changed_at: int) -> Path:
    """The user list, with a time of its last change that no other one has."""
    path = folder / "userlist.txt"
    path.write_text("".join(f'"{name}" "pw"\n' for name in names))
    path.chmod(0o600)
    os.utime(path, (changed_at, changed_at))
    return path


@pytest.fixture
def source(tmp_path: Path) -> IniSource:
    """One whose ini is in force."""
    users(tmp_path, "app", changed_at=1)
    made = IniSource(written(tmp_path, "query_timeout = 5\n"), environment=NOTHING)
    made.load().accepted()
    return made


def value(configuration: Configuration, name: str) -> str:
    assert configuration.process is not None
    return configuration.process.text(name)


def names(configuration: Configuration) -> set[str]:
    """The users of the configuration."""
    return set(configuration.config.draft.users)


def test_set_touches_one_value(source: IniSource, tmp_path: Path) -> None:
    """What an operator is still editing must not come into force by a SET of something else."""
    written(tmp_path, "query_timeout = 6\n")
    users(tmp_path, "app", "late", changed_at=2)
    read = source.load_with("default_pool_size", "7")
    assert (value(read, "default_pool_size"), value(read, "query_timeout"), names(read)) == ("7", "5", {"app"})


def test_set_needs_no_file(source: IniSource, tmp_path: Path) -> None:
    """A file that is faulty, or gone, is a matter of the next RELOAD."""
    written(tmp_path, "half = edited\n[pgb")
    (tmp_path / "userlist.txt").unlink()
    source.load_with("default_pool_size", "7").accepted()
    assert value(source.load_with("min_pool_size", "1"), "default_pool_size") == "7"


def test_an_auth_file_that_set_names_is_read(source: IniSource, tmp_path: Path) -> None:
    """And so is the first one, when SET names that again: it may have changed meanwhile."""
    (tmp_path / "others.txt").write_text('"other" "pw"\n')
    source.load_with("auth_file", "others.txt").accepted()
    users(tmp_path, "app", "late", changed_at=2)
    assert names(source.load_with("min_pool_size", "1")) == {"other"}
    assert names(source.load_with("auth_file", "userlist.txt")) == {"app", "late"}


def test_a_refused_load_swallows_no_change_of_the_user_list(source: IniSource, tmp_path: Path) -> None:
    """Else the new user could not log in until the list is changed once more."""
    users(tmp_path, "app", "late", changed_at=2)
    with pytest.raises(ConfigurationRefused):
        source.load_with("default_pool_size", "many")
    source.load()  # The engine refused it.
    source.load_with("min_pool_size", "1").accepted()
    assert source.have_users_changed(now_s=0.0)
    read = source.load_users()
    assert names(read) == {"app", "late"}
    read.accepted()
    assert not source.have_users_changed(now_s=2 * TELL_AGAIN_S)


def test_a_user_list_that_is_refused_is_told_now_and_then(source: IniSource, tmp_path: Path) -> None:
    """Not with every look, which would fill the log; a further change is told at once."""
    users(tmp_path, "app", "late", changed_at=2)
    told = [source.have_users_changed(now_s=now) for now in (0.0, 1.0, TELL_AGAIN_S, TELL_AGAIN_S + 1)]
    assert told == [True, False, True, False]
    users(tmp_path, "app", "later", changed_at=3)
    assert source.have_users_changed(now_s=TELL_AGAIN_S + 2)


def test_a_changed_user_list_is_no_reload(source: IniSource, tmp_path: Path) -> None:
    """The ini may be half edited, and what SET gave holds until a RELOAD."""
    source.load_with("query_timeout", "9").accepted()
    written(tmp_path, "half = edited\n")
    users(tmp_path, "late", changed_at=2)
    read = source.load_users()
    assert (names(read), value(read, "query_timeout")) == ({"late"}, "9")


@pytest.mark.parametrize("name", ["", "/typo.ini", "typo.ini", "folder", "a\0b"])
def test_a_conffile_that_cant_be_read_is_refused_by_set(source: IniSource, tmp_path: Path, name: str) -> None:
    """RELOAD, SIGHUP and SET would be of no use until a restart."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused, match="conffile can't be"):
        source.load_with("conffile", name)


def test_a_conffile_starts_from_the_folder_of_the_file(source: IniSource, tmp_path: Path) -> None:
    """Also once the file that it names is in another folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.ini").write_text("[databases]\nshop = host=10.0.0.5\n[pgbouncer]\nquery_timeout = 7\n")
    source.load_with("conffile", "sub/other.ini").accepted()
    assert value(source.load_with("min_pool_size", "1"), "query_timeout") == "5", "it is that of the next RELOAD"
    for _ in range(2):
        read = source.load()
        assert value(read, "query_timeout") == "7"
        read.accepted()


def test_a_conffile_of_the_ini_names_the_file_of_the_next_reload(tmp_path: Path) -> None:
    """A start reads the file twice, and serves what its command line names."""
    users(tmp_path, "app", changed_at=1)
    written(tmp_path, "query_timeout = 7\n", name="other.ini")
    source = IniSource(written(tmp_path, "query_timeout = 5\nconffile = other.ini\n"), environment=NOTHING)
    assert value(source.load(), "query_timeout") == "5"
    read = source.load()
    assert value(read, "query_timeout") == "5"
    read.accepted()
    assert value(source.load(), "query_timeout") == "7"


def test_a_reload_that_names_a_conffile_that_cant_be_read_is_refused(source: IniSource, tmp_path: Path) -> None:
    written(tmp_path, "conffile = typo.ini\n")
    with pytest.raises(Failure, match="there is no such file"):
        source.load()
    written(tmp_path, "query_timeout = 6\n")
    assert value(source.load(), "query_timeout") == "6", "it can be corrected"


def test_a_load_that_is_not_accepted_changes_nothing(source: IniSource, tmp_path: Path) -> None:
    """The engine may refuse what was read: values of SET, and the file's name, must outlive that."""
    written(tmp_path, name="other.ini")
    source.load_with("default_pool_size", "7").accepted()
    source.load_with("min_pool_size", "3")
    written(tmp_path, "query_timeout = 6\ndefault_pool_size = 9\nconffile = other.ini\n")
    source.load()
    read = source.load_with("query_wait_timeout", "1")
    assert [value(read, name) for name in ("default_pool_size", "min_pool_size", "query_timeout")] == ["7", "0", "5"]
    again = source.load()
    assert value(again, "query_timeout") == "6"
    again.accepted()
    assert value(source.load_with("query_wait_timeout", "1"), "default_pool_size") == "9"


def test_a_fault_of_what_set_gives_is_told_by_the_name_that_was_given(source: IniSource) -> None:
    """Who has a pgbouncer.ini has never heard of server_defaults.pool_size."""
    with pytest.raises(ConfigurationRefused, match="default_pool_size is a whole number") as told:
        source.load_with("default_pool_size", "many")
    assert "server_defaults" not in str(told.value)
