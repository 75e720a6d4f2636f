"""``plenum apply``: make things as manifests say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.exits import NO
from plenum.cli.tables import clean

if TYPE_CHECKING:
    from plenum.adapters.client import Client
    from plenum.adapters.manifests.resources import Resource

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000


@click.command()
@click.option(
    "--file", "-f", "files", multiple=True, required=True, metavar="FILE|FOLDER|-",
    type=click.Path(), help="Manifests; of a folder every .yaml, .yml and .json; - reads standard input.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--diff", is_flag=True, help="Show what changes before it is changed.")
@click.option("--ask", is_flag=True, help="Show what changes and ask before changing it.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json", "name"]),
    default="text",
    show_default=True,
    help="For people or programs.",
)
@cloud_options
def command(
    files: tuple[str, ...],
    dry_run: bool,
    diff: bool,
    ask: bool,
    output: str,
    context: str | None,
    tenant: str | None,
) -> None:
    """Make, or change, what manifests describe.

    Everything is read and checked before anything is sent. A manifest that carries the resourceVersion it was read with is only
    applied if nobody has changed the thing since.

    \b
    plenum apply -f examples/jobs.yaml
    plenum apply -f cluster/ --diff
    plenum get task hello -o yaml | sed s/4/8/ | plenum apply -f - --dry-run
    """
    from plenum.adapters.manifests.turns import in_turn

    with connected(context) as client:
        resources = read_all(files, tenant_of(client, tenant))
        if tenant:
            _check_tenant(resources, tenant)
        resources = [each for each in in_turn(resources) if not _is_there(client, each)]
        if dry_run or diff or ask:
            changed = [_preview(client, resource, resources) for resource in resources]
            if dry_run:
                click.echo(f"{sum(changed)} of {len(resources)} would change; nothing was written")
                return
            if not any(changed):
                return
            if ask and not click.confirm("Apply?", err=True):
                sys.exit(NO)
        answers: dict[str, Any] = {}
        for resource in resources:
            answer, word = applied(client, resource)
            answers[label_of(resource)] = answer
            if output == "text":
                click.echo(f"{label_of(resource)} {word}")
            elif output == "name":
                click.echo(label_of(resource))
    if output == "json":
        from plenum.cli.console import write_json

        first, *more = answers.values()
        write_json({"items": [first, *more]} if more else first)


def read_all(files: tuple[str, ...], tenant: str) -> list[Resource]:
    """Read every manifest of files and folders, what others need first.

    Raises
    ------
    PlenumError
        One cannot be read, cannot be meant, or is given twice.
    """
    from plenum.adapters.manifests.resources import parse_manifests, read_manifests
    from plenum.adapters.manifests.turns import ORDER
    from plenum.control.commands import check_name
    from plenum.model.errors import FieldError

    found: list[Resource] = []
    for file in files:
        if file == "-":
            found += parse_manifests(_standard_input(), "standard input", tenant=tenant)
        else:
            for path in _paths(Path(file)):
                found += read_manifests(path, tenant=tenant)
    seen: dict[tuple[str, str, str], str] = {}
    for resource in found:
        try:
            check_name(resource.name)
        except FieldError as error:
            raise resource.document.wrong(("metadata", "name"), error.sentence) from None
        key = ("Job" if resource.tenant else resource.kind, resource.tenant, resource.name)
        if key in seen:
            raise resource.document.wrong(("metadata", "name"), f"{label_of(resource)} is given in {seen[key]} too")
        seen[key] = resource.document.file
    return sorted(found, key=lambda resource: ORDER.index(resource.kind))


def _is_there(client: Client, resource: Resource) -> bool:
    """Whether a resource that is only to be made where it is not there yet is there."""
    from plenum.adapters.manifests.resources import TenantResource

    return isinstance(resource, TenantResource) and resource.only_new and bool(_version(client, path_of(resource)))


def _standard_input() -> str:
    from plenum.adapters.manifests.document import MAX_BYTES
    from plenum.model.errors import FileError, Where

    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    where = Where(file="standard input")
    if len(raw) > MAX_BYTES:
        raise FileError(f"is larger than {MAX_BYTES // 2**20} MiB, the most that a manifest may be", where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text, so not a YAML manifest", where) from None


def _paths(path: Path) -> list[Path]:
    from plenum.model.errors import FileError, Where

    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())[: MAX_FILES + 1]
    if not found:
        raise FileError(f"holds no manifests: no file in it ends in {', '.join(SUFFIXES)}", Where(file=str(path)))
    if len(found) > MAX_FILES:
        raise FileError(f"holds more than {MAX_FILES:,} manifests; apply its parts", Where(file=str(path)))
    return found


def _check_tenant(resources: list[Resource], tenant: str) -> None:
    for resource in resources:
        if resource.tenant and resource.tenant != tenant:
            raise resource.document.wrong(
                ("metadata", "tenant"), f"is {resource.tenant}, and --tenant says {tenant}; leave one of them out"
            )


def label_of(resource: Resource) -> str:
    """Return kind and name, as ``-o name`` writes them."""
    whose = f"{resource.tenant}/" if resource.tenant else ""
    return f"{resource.kind.lower()}/{whose}{resource.name}"


def path_of(resource: Resource) -> str:
    """Return where a resource is on the server."""
    from plenum.adapters.client import part
    from plenum.cli.kinds import job_path

    plural = f"{resource.kind.lower()}s"
    return job_path(plural, resource.tenant, resource.name) if resource.tenant else f"/{plural}/{part(resource.name)}"


def applied(client: Client, resource: Resource) -> tuple[Any, str]:
    """Send a resource; returns what came back, and ``created``, ``changed`` or ``unchanged``.

    Raises
    ------
    PlenumError
        It was refused; says in which file and line.
    """
    before = _version(client, path_of(resource))
    answer = _sent(client, resource)
    found = answer.json()
    after = found.get("metadata", {}).get("resourceVersion", "")
    word = "created" if answer.status_code == 201 or not before else "unchanged" if before == after else "changed"
    return found, word


def _version(client: Client, path: str) -> str:
    from plenum.adapters.client import ProblemError

    try:
        return client.get(path)["metadata"]["resourceVersion"]
    except ProblemError as problem:
        if problem.status in (403, 404):
            return ""
        raise


def _sent(client: Client, resource: Resource, **params: object) -> Any:
    from plenum.adapters.client import ProblemError
    from plenum.model.errors import Where

    try:
        return client.put(path_of(resource), resource.manifest, version=resource.version, **params)
    except ProblemError as problem:
        document, field = resource.document, problem.where.field
        steps = _steps(field)
        if field and steps[0] not in document.value:
            steps = ("spec", *steps)  # some are named by what stands in the spec
        line = document.line_of(steps) if field else document.value.line
        problem.where = Where(file=document.file, line=line, field=field or label_of(resource))
        problem.args = (str(problem),)
        raise


def _steps(field: str) -> tuple[int | str, ...]:
    steps: list[int | str] = []
    for step in field.split("."):
        name, *indices = step.replace("]", "").split("[")
        steps += [name, *(int(index) for index in indices if index.isdigit())]
    return tuple(steps)


# -- what would change ------------------------------------------------------------------------------


def _preview(client: Client, resource: Resource, among: list[Resource]) -> bool:
    """Print what applying a resource would change; returns whether anything."""
    from plenum.adapters.client import ProblemError

    try:
        told = _sent(client, resource, dryRun=True).json()
    except ProblemError as problem:
        # It may want a tenant that comes into being just before it.
        if problem.status not in (404, 422) or not any(other.kind == "Tenant" for other in among):
            raise
        click.echo(f"{click.style('?', fg='yellow')} {label_of(resource)} cannot be tried yet: {problem.sentence}")
        return True
    lines = diff_lines(told.get("diff", []))
    changes = bool(told.get("changes"))
    if not changes:
        click.echo(f"{click.style('=', dim=True)} {label_of(resource)} is so already")
        return False
    is_new = any(entry["path"] == "" for entry in told.get("diff", []))
    mark = click.style("+", fg="green") if is_new else click.style("~", fg="yellow")
    click.echo(f"{mark} {label_of(resource)} {'is new' if is_new else 'changes'}")
    for line in lines:
        click.echo(f"  {line}")
    sys.stdout.flush()
    return True


def diff_lines(diff: list[dict[str, Any]]) -> list[str]:
    """Return a difference over the fields of a manifest as lines: ``-`` what goes, ``+`` what comes."""
    lines = []
    for entry in sorted(diff, key=lambda entry: entry["path"]):
        for sign, colour, value in (("-", "red", entry.get("from")), ("+", "green", entry.get("to"))):
            for path, leaf in _leaves(entry["path"], value):
                if path not in ("apiVersion", "kind"):
                    lines.append(click.style(f"{sign} {path}: {_flow(leaf)}", fg=colour))
    return lines


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return what a value is made of, by path; nothing of what is not there."""
    if value is None or (value in ({}, []) and path.count(".") < 2):
        return []
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(f"{path}.{key}" if path else key, item)]
    return [(path, value)]


def _flow(value: Any) -> str:
    import json

    return clean(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))
