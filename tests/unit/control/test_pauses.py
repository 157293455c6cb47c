"""Who holds what is paused."""

from __future__ import annotations

from forebay.control.pauses import KILL, Pauses


def test_the_last_who_gives_up_ends_it() -> None:
    pauses, one, two = Pauses(), object(), object()
    pauses.begin("app", one, is_held=False)
    pauses.begin("app", two, is_held=True)
    assert not pauses.give_up("app", two)
    assert not pauses.give_up("app", two), "once"
    assert pauses.give_up("app", one)


def test_what_was_held_before_anybody_here_asked_is_not_given_up() -> None:
    """By the process that ran before an online restart."""
    pauses, one = Pauses(), object()
    pauses.begin(None, one, is_held=True)
    assert not pauses.give_up(None, one)
    pauses.begin("app", KILL, is_held=False)
    pauses.begin("app", one, is_held=True)
    assert not pauses.give_up("app", one)


def test_resume_ends_those_of_its_name_or_all() -> None:
    pauses, one, two = Pauses(), object(), object()
    for name in ("app", "wide", None):
        pauses.begin(name, one, is_held=False)
    pauses.resumed("app")
    pauses.begin("app", two, is_held=False)
    assert not pauses.give_up("app", one), "its pause is over; this one is another's"
    pauses.resumed(None)
    assert not pauses.give_up("wide", one)
    assert not pauses.give_up(None, one)
    assert not pauses.give_up("app", two)
