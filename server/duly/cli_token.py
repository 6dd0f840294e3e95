"""`duly token`: makes tokens, and says what a token is good for."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from duly.access.errors import AccessError, NotAuthenticated
from duly.access.evidence import Evidence
from duly.access.judge import Judge, Judged
from duly.access.listeners import Listener
from duly.access.policy import read_policy
from duly.access.tokens import id_of, new_token, policy_lines

_DAYS = click.option("--days", type=click.IntRange(1, 36_500), help="How long it is good.  [default: for ever]")


@click.group()
def token() -> None:
    """Make tokens that clients prove themselves with. The policy of `duly serve` holds their hashes alone."""


@token.command()
@click.option("--file", "path", type=click.Path(path_type=Path), help="Write the token there, for its owner alone.")
@_DAYS
def new(path: Path | None, days: int | None) -> None:
    """Make a token and print what belongs into the policy file, below its [[principal]]. Without --file the token
    itself is printed, too, on standard error; it is shown this once.
    """
    made = new_token()
    if path is None:
        click.echo(f"token: {made}", err=True)
    else:
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise click.ClickException(f"{path} is there already; choose another path, or remove it") from None
        with os.fdopen(file, "w", encoding="ascii") as opened:
            opened.write(made + "\n")
    click.echo(policy_lines(made, days))


@token.command("hash")
@_DAYS
def hash_(days: int | None) -> None:
    """Print what belongs into the policy file for the token on standard input."""
    given = _read(None)
    if not id_of(given):
        raise click.ClickException("standard input should hold one token that `duly token new` has made")
    click.echo(policy_lines(given, days))


@token.command()
@click.option("--policy", "policy", type=click.Path(path_type=Path), required=True, help="The server's policy file.")
@click.option("--file", "path", type=click.Path(path_type=Path), help="File of the token.  [default: standard input]")
def check(policy: Path, path: Path | None) -> None:
    """Say whose a token is by a policy, and what it may do. It may be one of duly's or a JWT."""
    try:
        judged = asyncio.run(_judged(policy, _read(path)))
    except NotAuthenticated as error:
        raise click.ClickException(f"the token is refused: {error}") from None
    rights = judged.rights
    until = "for ever"
    if judged.expires_unix_s:
        until = f"until {datetime.fromtimestamp(judged.expires_unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    click.echo(f"principal: {rights.principal}")
    click.echo(f"may: {', '.join(sorted(rights.may)) or 'nothing'}")
    click.echo(f"models: {', '.join(rights.models) or 'none'}")
    click.echo(f"classes: {', '.join(cls.name for cls in sorted(rights.classes)) or 'none'}")
    click.echo(f"good: {until}")


async def _judged(policy: Path, given: str) -> Judged:
    judge = Judge(read_policy(policy))
    if judge.keys is not None:
        await judge.keys.start()
    return await judge.judge(Evidence("this command", token=given), Listener(admin=True))


def _read(path: Path | None) -> str:
    if path is None:
        return sys.stdin.readline(64 * 1024).strip()
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise AccessError(f"{path}: can't be read: {error.strerror}") from None
