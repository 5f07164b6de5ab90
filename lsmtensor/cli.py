"""``lsmtensor …``: every command is a few lines over the library; nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .bench import WORKLOADS
from .errors import LsmTensorError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .bench.runner import Options
    from .config import RunConfig


class Group(click.Group):
    """Our errors become one sentence and exit code 1; a wrong figure too."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LsmTensorError, AssertionError) as why:
            raise click.ClickException(str(why) or type(why).__name__) from why


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lsmtensor")
def main() -> None:
    """A tensor database in a folder, and a laboratory for building one."""


def _settings(command: Any) -> Any:
    command = click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting, such as sstable.filter=none.")(command)
    return click.option("--config", "config_path", type=click.Path(exists=True, dir_okay=False), help="Settings from a TOML file.")(command)


def _config(path: str | None, settings: tuple[str, ...], seed: int | None = None) -> RunConfig:
    from pathlib import Path

    from .config import RunConfig

    config = RunConfig() if path is None else RunConfig.from_toml(Path(path).read_text(encoding="utf-8"))
    more = () if seed is None else (f"seed={seed}",)
    return config.with_set(*settings, *more)


def _words(text: str | None) -> tuple[str, ...]:
    """A list by commas; those inside brackets belong to a spec."""
    if not text:
        return ()
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return tuple(p for p in (*parts, current.strip()) if p)


def _working(what: str) -> AbstractContextManager[None]:
    """Tells of what takes over a second."""
    if not sys.stderr.isatty():
        return nullcontext()
    from .bench import show

    return show.working(what)


def _paths(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    words = [w for w in ("db", "manifest", "sst", "wal", "index") if incomplete and w.startswith(incomplete)]
    return [*map(CompletionItem, words), CompletionItem(incomplete, type="file")]


@main.command()
@click.option("--db", "path", default="debian.lsm", show_default=True, help="Where the database is made and left.")
@click.option("--out", default="runs", show_default=True, help="Folder for the record, the log of acknowledgements and the page.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder of the full data set, instead of the bundled part.")
@click.option("--kills", type=click.IntRange(1), default=3, show_default=True, help="Writer processes to kill.")
@click.option("--seed", type=int, help="Seed of all random choices.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Also write the plots as PNG.")
@_settings
def run(path: str, out: str, data: str | None, kills: int, seed: int | None, figure: str | None, config_path: str | None, settings: tuple[str, ...]) -> None:
    """The main job on real data: ingest, killed writers, search, the past, proofs, figures."""
    from pathlib import Path

    from rich.console import Console

    from .bench import main_job, page, plots, show

    console = Console()
    job = main_job.make(path, out, data, _config(config_path, settings, seed), console.print, lambda what, total: show.progress(console, what, total), kills)
    record = main_job.run(job)
    example = main_job.THREE_LINES.format(path=path, name=job.names(job.queries[:1])[0])
    report = Path(out) / "run.html"
    page.write(report, [record], example)
    if figure is not None:
        Path(figure).write_bytes(plots.png(plots.main_job(record["facts"])))
    show.main_job(console, record["facts"])
    console.print(f"done in {record['facts']['seconds']:.1f} s; page: {report}; record: {out}/run.jsonl; the database stays in {path}:\n")
    click.echo(example)


@main.command()
@click.argument("workload", metavar="WORKLOAD", type=click.Choice(WORKLOADS))
@click.option("--rounds", type=click.IntRange(1), help="Alternations; 9, or 3 with --quick.")
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="Small inputs, few rounds: a glance, not a figure.")
@click.option("--kernel", help="Backends, by commas.")
@click.option("--index", help="Index specs, by commas.")
@click.option("--peers", help="Peers, by commas, or 'none'; all installed ones by default.")
@click.option("--data", help="Vectors: a folder of the full data set, a generator such as 'clustered(rows=100000, dim=128)', a file or URL.")
@click.option("--folder", type=click.Path(file_okay=False), help="Where files are written; the disk that is measured.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Keep everything on one core.")
@click.option("--minutes", type=click.FloatRange(0), default=float("inf"), help="No round that would end later, inputs included; one at least.")
@click.option("--only", default="", metavar="PATTERN", help="The cases whose name it is found in.")
@click.option("--twice", is_flag=True, help="A/A: every case beside itself, to know the noise.")
@click.option("--vary", multiple=True, metavar="NAME=A,B", help="A run for each value of a setting, such as wal.sync=none,group.")
@click.option("--out", help="Append records to this folder; a run that was broken off goes on there.")
@_settings
def bench(workload: str, **given: Any) -> None:
    """Measure a workload beside its peers, alternating, with the spread."""
    from itertools import product

    from rich.console import Console

    from .bench import compare, runner, show

    console = Console()
    varied = [[f"{name}={value}" for value in _words(values)] for name, _, values in (text.partition("=") for text in given["vary"])]
    for chosen in product(*varied):
        title = f"{workload}, {', '.join(chosen)}" if chosen else workload
        options = _options({**given, "settings": (*given["settings"], *chosen)})
        result, path = runner.run_to(workload, options, given["out"], lambda text: console.print(f"[dim]{text}[/dim]"))
        show.bench(console, title, result.records)
        if options.twice:
            show.table(console, f"{title}: the same beside itself", compare.HEAD, compare.again(result.records), left=2)
        if result.drift:
            console.print(f"[yellow]{result.drift}.[/yellow]")
        if result.interrupted:
            raise click.exceptions.Exit(130)
    if path is not None:
        console.print(f"records: {path}; page: lsmtensor report {given['out']} -o report.html")


@main.command()
@click.argument("policy", metavar="POLICY")
@click.option("--flushes", type=click.IntRange(1), default=1000, show_default=True, help="Memtables written.")
@click.option("--rows", type=click.IntRange(1), default=100_000, show_default=True, help="Rows a memtable.")
@click.option("--row-bytes", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--keys", type=click.IntRange(1), help="Different keys that rows are drawn from; 10^9, or as many as a trace shows.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False), help="Flushes as lsmtensor.bench.trace recorded them, instead of equal ones.")
@click.option("--table", help="Of a trace of several tables.")
@_settings
def simulate(policy: str, flushes: int, rows: int, row_bytes: int, keys: int | None, trace: str | None, table: str | None, config_path: str | None, settings: tuple[str, ...]) -> None:
    """What a compaction policy would write, without writing: the engine's own class, by counting."""
    from .bench import trace as traces
    from .bench.simulate import Simulator
    from .lsm import compaction

    chosen = compaction.create(policy, _config(config_path, settings, 0).compaction)
    if trace is not None:
        found = traces.replay(traces.read(trace, table), chosen, keys)
        result = found.simulated
        click.echo(f"{policy}: {len(result.runs):,} flushes of {trace}, rows of {found.row_bytes} bytes, {result.user_rows * found.row_bytes / 1e9:.3f} GB given")
        click.echo(f"the engine that was recorded wrote {found.measured:.2f} bytes of table files for each flushed; replayed: {found.predicted:.2f}")
    else:
        simulator = Simulator(chosen, keys or 10**9, row_bytes)
        for _ in range(flushes):
            simulator.flush(rows)
        result = simulator.result
        click.echo(f"{policy}: {flushes:,} flushes of {rows:,} rows of {row_bytes} bytes, {result.user_rows * row_bytes / 1e9:.1f} GB given")
    click.echo(f"write amplification {result.write_amplification:.2f} (1 of it the flushes), space amplification {result.space_amplification:.2f}")
    click.echo(f"{result.merges} merges, {result.moves} moves, {result.levels + 1} levels, {result.mean_runs:.1f} runs to look into on average")


def _options(given: dict[str, Any]) -> Options:
    from .bench.runner import Options

    peers = None if given["peers"] is None else (() if given["peers"] == "none" else _words(given["peers"]))
    return Options(
        config=_config(given["config_path"], given["settings"], given["seed"]), rounds=given["rounds"] or (3 if given["quick"] else 9),
        warmup=given["warmup"], quick=given["quick"], seed=given["seed"], kernels=_words(given["kernel"]), indexes=_words(given["index"]),
        peers=peers, data=given["data"], folder=given["folder"], pin=given["pin"], twice=given["twice"],
        only=given["only"], minutes=given["minutes"],
    )  # fmt: skip


@main.command()
@click.argument("records", type=click.Path(exists=True))
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(dir_okay=False))
def report(records: str, output: str) -> None:
    """Tables and plots from records (a folder or a .jsonl file): one page as .html, Markdown tables as .md, figures as .pdf or .png."""
    from pathlib import Path

    from .bench import page, record

    page.write(Path(output), record.read(records))
    click.echo(output)


@main.command()
@click.argument("a", type=click.Path(exists=True))
@click.argument("b", type=click.Path(exists=True))
def compare(a: str, b: str) -> None:
    """The medians of B over those of A, case by case, with a bootstrap interval; says which differences are noise."""
    from rich.console import Console

    from .bench import compare as comparing
    from .bench import record, show

    before, after = list(record.read(a)), list(record.read(b))
    show.table(Console(), f"{b} over {a}", comparing.HEAD, comparing.rows(before, after), left=2)
    if told := comparing.machines(before, after):
        click.echo(told)


@main.command()
def kernels() -> None:
    """Kernel backends, what each holds, and the instruction set that runs."""
    from rich.console import Console
    from rich.table import Table

    from . import kernels as backends
    from .kernels.contract import KERNELS

    found = backends.available()
    there = [name for name, what in found.items() if not what.startswith("unavailable")]
    table = Table("group", "kernel", *there)
    held = {name: set(backends.choose(name).names()) for name in there}
    for name, declared in sorted(KERNELS.items(), key=lambda item: item[1].group):
        table.add_row(declared.group, name, *("yes" if name in held[backend] else "" for backend in there))
    Console().print(table)
    for name, what in found.items():
        click.echo(f"{name:8} {what}")
    if "cython" in there:
        from .kernels.cython_backend import compiled

        sets = ", ".join(name if runs else f"{name} (not on this processor)" for name, runs in compiled().items())
        click.echo(f"         instruction sets compiled: {sets}; chosen: {backends.choose('cython').isa.split()[-1]}, LSMTENSOR_ISA overrides")
    if "cupy" in there:
        from .kernels.cupy_backend import DEVICE

        click.echo("         " + ", ".join(f"{name} {value:,.0f}" for name, value in DEVICE.memory().items() if name != "fragmentation") + " bytes")
    click.echo(f"chosen unless named: {backends.choose().backend}; storage kernels: {backends.storage().backend}")


@main.command()
def indexes() -> None:
    """Vector indexes by name."""
    from . import indexes as there

    for name in there.names():
        first = (there.REGISTRY.get(name).__doc__ or "").strip().splitlines()[:1]
        click.echo(f"{name:8} {first[0] if first else ''}")


@main.command()
def codecs() -> None:
    """Codecs of chunks by name."""
    from . import codecs as there

    _listed(there.REGISTRY)


@main.command()
def quantizers() -> None:
    """Quantizers of vectors by name."""
    from . import quant as there

    _listed(there.REGISTRY)


def _listed(registry: Any) -> None:
    for name in registry.names():
        made = registry.get(name)
        text = (made.__doc__ or sys.modules[made.__module__].__doc__ or "").strip()
        click.echo(f"{name:12} {text.splitlines()[0] if text else ''}")


@main.command()
@click.argument("what", metavar="[db|manifest|sst|wal|index] PATH", nargs=-1, required=True, shell_complete=_paths)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
def inspect(what: tuple[str, ...], as_json: bool) -> None:
    """What is in a database, or in one file of it: manifest, table file, log, index segment."""
    from . import inspecting
    from .env.local import LocalEnv

    *kind, path = what
    if len(kind) > 1 or not set(kind) <= set(inspecting.KINDS):
        raise click.UsageError(f"give a path, or one of {', '.join(inspecting.KINDS)} and a path")
    said = inspecting.describe(LocalEnv(), path, kind[0] if kind else None)
    if as_json:
        click.echo(json.dumps(said, indent=1, default=str))
    elif said["kind"] == "db":
        _say_database(path)
    else:
        for name, value in said.items():
            if isinstance(value, list):
                click.echo(f"{name}: {len(value):,}")
                for item in value:
                    click.echo("  " + json.dumps(item, default=str))
            elif isinstance(value, dict):
                click.echo(f"{name}:")
                for inner, text in value.items():
                    click.echo(f"  {inner}: {text if isinstance(text, str) else json.dumps(text, default=str)}")
            else:
                click.echo(f"{name}: {f'{value:,}' if isinstance(value, int) and name != 'kind' else value}")


def _say_database(path: str) -> None:
    import lsmtensor as lt

    with lt.open(path, mode="r") as opened:
        stats = opened.stats()
        click.echo(f"{path}: version {opened.version}, readable since version {opened.oldest_version}")
        for name in opened.tables:
            table, about = opened[name], stats["tables"][name]
            click.echo(f"\n{name}: {len(table):,} rows, key {', '.join(table.schema.primary_key)}")
            for column in table.schema.columns:
                click.echo(f"  {column.name:24} {column.type}")
            for index, what in table.indexes.items():
                click.echo(f"  index {index:18} {what}")
            click.echo(f"  {about['runs']} runs, {about['file_rows']:,} rows in files of {about['file_bytes']:,} bytes, {about['memtable_rows']:,} in memory")


@main.command()
@click.argument("db", metavar="DB")
@click.argument("table", metavar="TABLE")
@click.argument("output", metavar="FILE")
@click.option("--columns", help="Names by commas; all by default.")
@click.option("--format", "form", type=click.Choice(["parquet", "arrow", "csv"]), help="By the ending of FILE unless given.")
@click.option("--version", type=int, help="As it was at a version.")
def export(db: str, table: str, output: str, columns: str | None, form: str | None, version: int | None) -> None:
    """Write a table to a Parquet, Arrow or CSV file."""
    import lsmtensor as lt

    with lt.open(db, mode="r") as opened, opened.snapshot() if version is None else opened.at(version=version) as then, _working(f"export to {output}"):
        rows = then[table].export(output, columns=list(_words(columns)) or None, format=form)
    click.echo(f"{output}: {rows:,} rows")


@main.command("import")
@click.argument("db", metavar="DB")
@click.argument("table", metavar="TABLE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--key", help="Key columns by commas; makes the table, from the columns of the first file.")
@click.option("--sorted", "in_order", is_flag=True, help="The keys rise through all files: load in memory of a batch.")
@click.option("--format", "form", type=click.Choice(["parquet", "arrow", "csv"]), help="By the ending of FILE unless given.")
def import_(db: str, table: str, files: tuple[str, ...], key: str | None, in_order: bool, form: str | None) -> None:
    """Load Parquet, Arrow or CSV files into a table, in one commit; rows whose key is there are replaced."""
    import lsmtensor as lt

    with lt.open(db) as opened, _working(f"import into {table}"):
        if key is None:
            opened[table].load(list(files), sorted=in_order, format=form)
        else:
            opened.import_table(table, files, _words(key), sorted=in_order, format=form)
        click.echo(f"{table}: {len(opened[table]):,} rows")


@main.command()
@click.argument("db", metavar="DB")
@click.argument("path", metavar="NEW")
def checkpoint(db: str, path: str) -> None:
    """A copy of a database as it is now, by hard links."""
    import lsmtensor as lt

    with lt.open(db, mode="r") as opened:
        opened.checkpoint(path)
    click.echo(f"{path}: a database of its own")


@main.command()
@click.argument("db", metavar="DB")
@click.argument("folder", metavar="FOLDER")
def backup(db: str, folder: str) -> None:
    """Add a backup to a folder; only files that the last backup lacks are copied."""
    import lsmtensor as lt

    with lt.open(db, mode="r") as opened, _working(f"backup to {folder}"):
        made = opened.backup(folder)
    click.echo(f"{folder}: backup {made['number']} of version {made['version']}, {made['copied_files']} of {made['files']} files copied, {made['copied_bytes']:,} bytes")


@main.command()
@click.argument("folder", metavar="FOLDER")
@click.argument("path", metavar="NEW", required=False)
@click.option("--number", type=int, help="Which backup; the last by default.")
def restore(folder: str, path: str | None, number: int | None) -> None:
    """Restore a backup to a new database; without NEW, list the backups."""
    import lsmtensor as lt

    if path is None:
        for made in lt.backups(folder):
            click.echo(f"{made['number']}: version {made['version']}")
        return
    with _working(f"restore to {path}"):
        version = lt.restore(folder, path, number=number)
    click.echo(f"{path}: version {version}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell: eval "$(lsmtensor completion bash)"."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "lsmtensor", "_LSMTENSOR_COMPLETE").source())


@main.command()
@click.argument("db", metavar="DB")
def verify(db: str) -> None:
    """Check every byte against its checksums and hash trees."""
    import lsmtensor as lt

    with lt.open(db, mode="r") as opened, _working(f"verify {db}"):
        counts = opened.verify()
    click.echo(f"{db}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()) + ": all right")


@main.command()
@click.argument("db", metavar="DB")
@click.option("--rate", default=20.0, show_default=True, help="Megabytes a second; 0: as fast as can be.")
def scrub(db: str, rate: float) -> None:
    """Check every byte slowly, beside a writer, and name every damaged file."""
    import lsmtensor as lt

    with lt.open(db, mode="r") as opened, _working(f"scrub {db}"):
        made = opened.scrub(rate * 1e6)
        found = made.wait()
    for why in found:
        click.echo(str(why))
    click.echo(f"{db}: {made.done:,} bytes, {len(found)} damaged files")
    if found:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("db", metavar="DB")
@click.argument("new", metavar="NEW")
def repair(db: str, new: str) -> None:
    """Salvage what verifies of a damaged database to a new one, and list the rest."""
    import lsmtensor as lt

    with _working(f"repair to {new}"):
        made = lt.repair(db, new)
    for lost in made["lost"]:
        rows = "" if lost["rows"] is None else f" ({lost['rows']:,} rows)"
        click.echo(f"lost: {lost['path']} at offset {lost['offset']}: {lost['what']}{rows}")
    click.echo(f"{new}: version {made['version']}, {made['tables']} tables, {made['rows']:,} rows, {len(made['lost'])} losses")


@main.command()
@click.argument("db", metavar="DB")
@_settings
def compact(db: str, config_path: str | None, settings: tuple[str, ...]) -> None:
    """Merge every table into one run and build its indexes."""
    import os

    import lsmtensor as lt

    if not os.path.isdir(db):
        raise click.ClickException(f"{db} holds no database to compact")
    with lt.open(db, config=_config(config_path, settings)) as opened:
        with _working(f"compact {db}"):
            opened.compact()
        for name, about in opened.stats()["tables"].items():
            click.echo(f"{name}: {about['runs']} runs, {about['file_rows']:,} rows, {about['file_bytes']:,} bytes")


if __name__ == "__main__":
    main()
