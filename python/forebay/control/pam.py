"""Whether PAM takes a password for a user's. It blocks for as long as the modules of the service do."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_void_p
from ctypes.util import find_library
from typing import Final

_SUCCESS: Final = 0
_CONV_ERR: Final = 19
_PROMPT_ECHO_OFF: Final = 1
_RHOST: Final = 4
_SILENT: Final = 0x8000
_DISALLOW_NULL_AUTHTOK: Final = 1
# What says that the name, the password or the account is no good; anything else is a fault of the service.
_REFUSALS: Final = (6, 7, 8, 10, 11, 12, 13)
# Messages that one call of the conversation may bring (PAM_MAX_NUM_MSG).
_MESSAGES_MAX: Final = 32


class PamFailed(Exception):
    """PAM can't be asked. The text holds no secret."""


class _Message(Structure):
    _fields_ = (("style", c_int), ("text", c_char_p))


class _Response(Structure):
    _fields_ = (("text", c_void_p), ("code", c_int))


_Conversation = CFUNCTYPE(c_int, c_int, POINTER(POINTER(_Message)), POINTER(POINTER(_Response)), c_void_p)


class _Conv(Structure):
    _fields_ = (("converse", _Conversation), ("data", c_void_p))


class Pam:
    """The system's PAM. Raises PamFailed where there is none."""

    def __init__(self) -> None:
        name = find_library("pam") or "libpam.so.0"
        try:
            self._pam = ctypes.CDLL(name)
        except OSError as error:
            raise PamFailed(f"there is no PAM on this system: {error}") from error
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = c_void_p
        self._libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._libc.strdup.restype = c_void_p
        self._libc.strdup.argtypes = (c_char_p,)
        self._pam.pam_strerror.restype = c_char_p
        self._pam.pam_strerror.argtypes = (c_void_p, c_int)
        for function in (self._pam.pam_authenticate, self._pam.pam_acct_mgmt, self._pam.pam_end):
            function.argtypes = (c_void_p, c_int)
        self._pam.pam_set_item.argtypes = (c_void_p, c_int, c_char_p)
        self._pam.pam_start.argtypes = (c_char_p, c_char_p, POINTER(_Conv), POINTER(c_void_p))

    def is_right(self, service: str, user: str, password: str, *, host: str) -> bool:
        """Whether the service takes the password, and lets the account log in. Raises PamFailed.

        host: where the user comes from, for modules that look at it.
        """
        if not user or not password or "\0" in user + password:
            return False
        conversation = _Conv(_Conversation(self._answering(password.encode())), None)
        handle = c_void_p()
        code = self._pam.pam_start(service.encode(), user.encode(), conversation, ctypes.byref(handle))
        if code != _SUCCESS:
            raise PamFailed(f"service {service} can't be begun (PAM result {code})")
        try:
            self._pam.pam_set_item(handle, _RHOST, host.encode())
            code = self._pam.pam_authenticate(handle, _SILENT | _DISALLOW_NULL_AUTHTOK)
            if code == _SUCCESS:
                code = self._pam.pam_acct_mgmt(handle, _SILENT | _DISALLOW_NULL_AUTHTOK)
            if code not in (_SUCCESS, *_REFUSALS):
                words = (self._pam.pam_strerror(handle, code) or b"").decode(errors="replace")
                raise PamFailed(f"service {service}: {words} (PAM result {code})")
            return bool(code == _SUCCESS)
        finally:
            self._pam.pam_end(handle, code)

    def _answering(self, password: bytes):  # type: ignore[no-untyped-def]
        """A conversation that answers each question for a password with it. What it returns, PAM frees."""

        def converse(count: int, messages, responses, _: int | None) -> int:  # type: ignore[no-untyped-def]
            if not 0 < count <= _MESSAGES_MAX:
                return _CONV_ERR
            room = self._libc.calloc(count, ctypes.sizeof(_Response))
            if not room:
                return _CONV_ERR
            answers = ctypes.cast(room, POINTER(_Response))
            for index in range(count):
                if messages[index].contents.style == _PROMPT_ECHO_OFF:
                    answers[index].text = self._libc.strdup(password)
            responses[0] = answers
            return _SUCCESS

        return converse
