"""The state folder of `forebay up`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from forebay.control.embedded import account
from forebay.control.embedded.account import Account, may_enter
from forebay.control.embedded.state import default_folder, open_state, write_private
from forebay.failure import Failure


def test_the_password_is_private_and_stays_the_same(tmp_path: Path) -> None:
    """A second start finds the data, and must still get in."""
    state = open_state(tmp_path / "state")
    password = state.password()
    assert len(password) >= 32
    assert open_state(tmp_path / "state").password() == password
    assert stat.S_IMODE(state.password_file.stat().st_mode) == 0o600


def test_the_passfile_is_one_that_libpq_accepts(tmp_path: Path) -> None:
    """It is passed over when others can read it, and colons end a field."""
    state = open_state(tmp_path / "state")
    state.write_passfile(user="a:b", password="p\\w")
    assert stat.S_IMODE(state.passfile.stat().st_mode) == 0o600
    assert "127.0.0.1:*:*:a\\:b:p\\\\w" in state.passfile.read_text().splitlines()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two servers on one data folder would destroy it."""
    state = open_state(tmp_path / "state")
    with state.locked(), pytest.raises(Failure, match="another `forebay up`"), open_state(tmp_path / "state").locked():
        pass
    with state.locked():
        pass


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """It is the user's, not ours."""
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o750)
    folder.chmod(0o750)
    open_state(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_private_file_that_is_replaced_is_never_half_written(tmp_path: Path) -> None:
    """Nor readable by others in between."""
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("uid", "state_home", "expected"),
    [
        (1000, "/x/state", "/x/state/forebay"),
        (1000, "relative", "/home/me/.local/state/forebay"),
        (1000, "", "/home/me/.local/state/forebay"),
        (0, "/x/state", "/var/lib/forebay"),
    ],
)
def test_the_folder_follows_the_xdg_specification(
    uid: int, state_home: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's is the system's, since the server runs as another user."""
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setenv("XDG_STATE_HOME", state_home)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path(expected)


def test_an_account_may_enter_by_the_bits_that_concern_it(tmp_path: Path) -> None:
    """The answer decides whether programs are copied, and whether a folder is refused."""
    owner, group = tmp_path.stat().st_uid, tmp_path.stat().st_gid
    stranger, friend = Account("s", owner + 1, group + 1, True), Account("f", owner + 1, group, True)
    tmp_path.chmod(0o710)
    assert (may_enter(stranger, tmp_path), may_enter(friend, tmp_path)) == (False, True)
    tmp_path.chmod(0o701)
    assert (may_enter(stranger, tmp_path), may_enter(friend, tmp_path)) == (True, False)
    tmp_path.chmod(0o700)


def test_an_ordinary_user_runs_the_server_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other user is looked for or made."""
    monkeypatch.setattr("os.geteuid", lambda: 1)
    monkeypatch.setattr(account, "_created", lambda: pytest.fail("a user was about to be created"))
    assert account.server_account(tmp_path / "data").is_switched is False


def test_root_without_any_other_user_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with root alone."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(account, "_named", lambda _: None)
    monkeypatch.setattr(account, "_created", lambda: None)
    with pytest.raises(Failure, match="does not run as root"):
        account.server_account(tmp_path / "data")
