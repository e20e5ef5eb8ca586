"""`kdsweep cache`: what this machine keeps of teachers, and how to be rid of it."""

from argparse import Namespace
from datetime import datetime

from orchestrator.commands.printing import print_table

_MB = 1e6


def cache(options: Namespace) -> int:
    from trainables.teachers.orbit_file import TableKey
    from trainables.teachers.table_folder import (
        cache_limit,
        clear_tables,
        list_tables,
        table_folder,
    )

    folder = table_folder()
    if options.action == "clear":
        freed = sum(table.disk_bytes for table in clear_tables(folder, options.names or None))
        print(f"{freed / _MB:.1f} MB freed in {folder}")
        return 0
    tables = list_tables(folder)
    rows = []
    for table in tables:
        key = table.key
        if key is None:
            facts = (f"damaged: {table.problem}", "", "", "")
        else:
            share = table.count_filled() / key.entries
            views = key.views if isinstance(key, TableKey) else 1
            facts = (key.what, key.dtype, f"{key.images:,} x {views}", f"{100 * share:.1f} %")
        used = datetime.fromtimestamp(table.last_used).isoformat(" ", "minutes")
        size = f"{table.disk_bytes / _MB:.1f} MB"
        rows.append((table.path.name, *facts, size, used))
    print_table(("table", "holds", "as", "images x views", "filled", "on disk", "last used"), rows)
    held = sum(table.disk_bytes for table in tables)
    print(f"\n{held / _MB:.1f} of {cache_limit() / _MB:.0f} MB (KDSWEEP_CACHE_GB) in {folder}")
    return 0
