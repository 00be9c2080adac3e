"""The query families, in the order they are drawn, with their difficulty and how many problems a world gets of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from codelutra.suites.starter_sql import joins, single
from codelutra.suites.starter_sql.tell import Draft, Teller


class Family(NamedTuple):
    draw: Callable[[Teller], Draft]
    difficulty: str
    share: int  # problems a world


FAMILIES = (
    Family(single.filtered, "easy", 11),
    Family(single.filtered_twice, "easy", 9),
    Family(single.columns, "easy", 6),
    Family(single.counted, "easy", 7),
    Family(single.aggregated, "easy", 6),
    Family(single.two_aggregates, "easy", 3),
    Family(single.extreme, "easy", 6),
    Family(single.top, "medium", 4),
    Family(single.sorted_list, "medium", 5),
    Family(single.distinct, "medium", 3),
    Family(single.grouped, "medium", 5),
    Family(single.having, "medium", 3),
    Family(single.commonest, "medium", 3),
    Family(single.starting, "medium", 3),
    Family(single.against_average, "hard", 3),
    Family(single.against_other, "hard", 2),
    Family(single.sharing, "hard", 1),
    Family(joins.joined, "medium", 7),
    Family(joins.joined_both, "medium", 3),
    Family(joins.joined_count, "medium", 4),
    Family(joins.joined_aggregate, "hard", 3),
    Family(joins.per_parent, "hard", 2),
    Family(joins.parent_having, "hard", 2),
    Family(joins.parent_most, "hard", 2),
    Family(joins.extreme_childs_parent, "hard", 2),
    Family(joins.grouped_by_parent, "hard", 1),
    Family(joins.childless, "hard", 2),
    Family(joins.having_child, "hard", 2),
    Family(joins.bridged, "hard", 2),
)
