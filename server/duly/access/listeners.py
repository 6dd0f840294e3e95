"""Where calls come in, and what that alone allows."""

from dataclasses import dataclass

from duly.addresses import is_local


@dataclass(frozen=True, slots=True)
class Listener:
    """One address at which the server listens."""

    admin: bool
    """Whether admin acts are taken here, from whoever has the right to them."""
    why_no_admin: str = ""
    """Why they are not, for those who try, with what would be right."""


def main_listener(listen: str, admin_listen: str | None, has_policy: bool) -> Listener:
    """Returns what is allowed at `listen`. Without a policy nothing proves who calls, so that admin acts are taken from
    this machine alone: not at all where others can connect, too.
    """
    if admin_listen is not None:
        return Listener(False, "admin acts are taken at the server's admin address alone (admin_listen)")
    if has_policy or is_local(listen):
        return Listener(True)
    return Listener(
        False,
        "others than this machine can connect here, and nothing proves who calls: start the server with admin_listen "
        "(such as unix:/run/duly/admin.sock) or with a policy",
    )
