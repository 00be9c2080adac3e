"""Records from where problems lie: a file of lines.py's kinds, parquet, a folder of `datasets`, or a data set on the hub.

    questions.csv .tsv .json .jsonl         read_records in lines.py
    questions.parquet                       pyarrow
    folder/                                 datasets: what save_to_disk wrote, or a folder of parquet, CSV or JSON files
    hf:owner/name[/config][@revision]       datasets, streamed; with :split behind it (as behind a folder), that split alone

The splits of a data set become the problems' splits where there are several. Nothing in a file, folder or data set raises
anything but ConfigError.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from codelutra.errors import ConfigError
from codelutra.reading.keys import shown
from codelutra.reading.text import Unreadable, absent, missing, require_file, require_plain
from codelutra.suites.folder import expand
from codelutra.suites.lines import Cell, Record, Records, Wrong, folded, read_records
from codelutra.suites.shapes import SPLITS_AS

MOST_ROWS = 100_000  # of a table: more are no problems that somebody means to run
_BATCH = 1000  # rows
_TABLES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_HUB = re.compile(
    r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[\w.-]+))?"
)


class Source(NamedTuple):
    where: str
    """As messages name it."""
    records: Records
    file: Path | None
    """The file, where suites can read it as it lies; else None."""


def read_source(given: str) -> Source:
    """What `given` names. Raises ConfigError with why it cannot be read."""
    if given.startswith("hf:"):
        return Source(given, _tables(_from_hub(given), given), None)
    path = expand(given).absolute()
    if split := _split_of(path):
        path = path.with_name(path.name.removesuffix(f":{split}"))
    if path.is_dir():
        where = f"{path}:{split}" if split else str(path)
        return Source(where, _tables(_from_folder(path, split), where), None)
    if _is_parquet(path):
        return Source(str(path), _tables({"": _rows(_parquet(path), str(path))}, str(path)), None)
    return Source(str(path), read_records(path), path)


def _split_of(path: Path) -> str:
    """The split that is named behind a folder, `folder:train`, or ""."""
    name, _, split = path.name.rpartition(":")
    return split if name and not os.path.lexists(path) and path.with_name(name).is_dir() else ""


def _is_parquet(path: Path) -> bool:
    try:
        require_file(path)
        with path.open("rb") as file:
            return file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"
    except (OSError, Unreadable):
        return False


# ---- tables to records ------------------------------------------------------------------------------------------------

Tables = Mapping[str, Iterable[Any]]
"""Splits ("" where there is none) and the rows that each holds: cells by their columns, or why one cannot be read."""


def _tables(tables: Tables, where: str) -> Records:
    """The rows of all splits, numbered from 1; empty cells and rows are left out."""
    sides = _sides(tuple(tables), where)
    found, number = list[Record](), 0
    for split, rows in tables.items():
        for row in rows:
            number += 1
            if number > MOST_ROWS:
                raise ConfigError(
                    f"{where} has more than {MOST_ROWS:,} rows; that is the most that is read. Name one split (NAME:train), "
                    "or write the rows that are meant to a file"
                )
            value = _filled(row) if isinstance(row, dict) else row
            if sides and isinstance(value, dict) and value and not any(folded(key) == "split" for key in value):
                value["split"] = sides[split]
            found += [Record(number, value)] if value else []
    return Records("row", found, where)


def _sides(names: tuple[str, ...], where: str) -> dict[str, str]:
    """What each split of a data set is here; {} where there is one alone, whose rows are dealt."""
    if len(names) < 2:
        return {}
    sides = {name: SPLITS_AS.get(name.lower(), "") for name in names}
    wrong = [name for name, side in sides.items() if not side]
    if wrong or {"train", "dev"} - {*sides.values()}:
        what = f"{', '.join(wrong)} is none of train, dev, test" if wrong else "train and dev are needed, or one alone"
        raise ConfigError(
            f"{where} has the splits {', '.join(names)}: {what}. Name one split, and its rows are dealt: {where}:{names[0]}"
        )
    return sides


def _rows(parts: Iterable[Any], where: str) -> Iterator[dict[str, Any]]:
    with _told(f"{where} cannot be read", "write it again, or as CSV or JSONL"):
        for table in parts:
            table.validate(full=True)
            names = table.column_names
            if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
                raise ConfigError(f"{where}: the column {shown(twice)} is there twice; keep one")
            columns = [_cells(column) for column in table.columns]
            for row in range(table.num_rows):
                yield {name: cells[row] for name, cells in zip(names, columns, strict=True)}


def _cells(column: Any) -> list[Any]:
    """The cells of a pyarrow column, with a Wrong in the place of one that Python or JSON cannot hold."""
    try:
        return [_cell(value) for value in column.to_pylist()]
    except (ValueError, OverflowError, LookupError) as e:  # a time that Python does not have
        return [Wrong([f"a cell cannot be read: {_first_line(e)}"])] * len(column)


def _cell(value: Any) -> Any:
    try:
        plain = _plain(value)
        require_plain(plain)
    except ValueError as e:
        return Wrong([str(e)])
    return Cell(plain.replace("\r\n", "\n")) if isinstance(plain, str) else plain


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row that are not empty."""
    return {key: v for key, v in row.items() if not (absent(v) if isinstance(v, str) else missing(v))}


def _plain(value: Any) -> Any:
    """A cell as JSON has it: dates as SQLite writes them, bytes that are UTF-8 as text, whole decimals as integers."""
    match value:
        case list() | tuple():
            return [_plain(v) for v in value]
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime.date() | datetime.time() | datetime.timedelta():
            return str(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError as e:
                raise ValueError(f"a cell holds bytes that are no text (0x{value[e.start]:02x})") from e
    return value


# ---- parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Any]:
    """The tables of a parquet file. pyarrow refuses a damaged file; polars may end the process."""
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise _wanting("pyarrow", str(path)) from e
    with _told(f"{path} is no whole parquet file", "write it again, or as CSV or JSONL"):
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_BATCH):
            yield pyarrow.Table.from_batches([batch])


# ---- datasets ---------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, split: str) -> Tables:
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if not saved and not any(map(_is_readable, folder.rglob("*"))):
        raise ConfigError(
            f"{folder} is a folder without a data set: neither what `save_to_disk` of datasets writes, nor parquet, CSV or "
            "JSON files; give a file, or such a folder"
        )
    return _opened(str(folder), str(folder), split, saved=saved)


def _is_readable(file: Path) -> bool:
    return Path(file.name.lower().removesuffix(".gz")).suffix in _TABLES


def _read(file: Path) -> Iterator[Any]:
    if _is_parquet(file):
        return _rows(_parquet(file), str(file))
    return (value for _, value in read_records(file).found)


def _from_hub(given: str) -> Tables:
    named = _HUB.fullmatch(given.removeprefix("hf:"))
    if not named:
        raise ConfigError(f"{given!r} is not hf:owner/name[/config][@revision][:split], e.g. hf:xlangai/spider:train")
    more = {key: value for key, value in (("name", named["config"]), ("revision", named["revision"])) if value}
    return _opened(named["name"], given, named["split"] or "", more=more)


def _opened(name: str, where: str, split: str, *, saved: bool = False, more: Mapping[str, str] | None = None) -> Tables:
    try:
        import datasets
    except ImportError as e:
        raise _wanting("datasets", where) from e
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    hub = "check the name, its config (hf:owner/name/config), and HF_TOKEN"
    with _told(f"{where} cannot be opened by datasets", hub if where.startswith("hf:") else "or give one of its files"):
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset_builder(name, **(more or {}))
        files = {} if saved else {str(part): [*map(Path, of)] for part, of in (found.config.data_files or {}).items()}
        own = bool(files) and all(file.is_file() and _is_readable(file) for of in files.values() for file in of)
        if own:  # datasets would guess types: 007 would be 7
            parts: Mapping[str, Any] = files
        else:
            found = found if saved else found.as_streaming_dataset()
            parts = found if isinstance(found, dict) else {"": found}
        if split and split not in parts:
            raise ConfigError(f"{where}: there is no split {split}; there are {', '.join(parts)}")
        chosen = {split: parts[split]} if split else parts
        if own:
            return {key: chain.from_iterable(map(_read, of)) for key, of in chosen.items()}
        return {key: _rows(part.with_format("arrow").iter(batch_size=_BATCH), where) for key, part in chosen.items()}


@contextmanager
def _told(what: str, way_out: str) -> Iterator[None]:
    """Raises ConfigError for whatever pyarrow and datasets raise of damaged files, absent names and closed networks."""
    try:
        yield
    except ConfigError:
        raise
    except ConnectionError as e:
        raise ConfigError(
            f"{what}: it is not in the local cache and the hub cannot be reached ({_first_line(e)}); set HF_ENDPOINT or "
            "HTTPS_PROXY, or download it elsewhere and give the folder"
        ) from e
    except Exception as e:  # a damaged file leads these libraries to any exception
        raise ConfigError(f"{what}: {_first_line(e)}; {way_out}") from e


def _wanting(library: str, where: str) -> ConfigError:
    return ConfigError(f"{where} needs the library {library}: `make setup` installs it; or write the rows as CSV or JSONL")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
