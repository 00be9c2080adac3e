def count_items(items):
    """a dict of how often each item occurs in `items`

    (["a", "b", "a"],), ([],), ([1, 1, 1],), ([1, 2, 3],), (["x", "y", "x", "y", "x"],)
    """
    counts = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


def invert(mapping):
    """a dict with keys and values of `mapping` exchanged

    ({"a": 1, "b": 2},), ({},), ({1: "x"},), ({"k": "v", "w": "z"},)
    """
    return {value: key for key, value in mapping.items()}


def merge(a, b):
    """a dict of all items of `a` and `b`; where both have a key, the value of `b` counts

    ({"x": 1, "y": 2}, {"y": 3}), ({}, {}), ({"a": 1}, {}), ({}, {"a": 1}), ({"a": 1}, {"b": 2})
    """
    return {**a, **b}


def add_counts(a, b):
    """a dict of the sums of the values of each key in `a` and `b`; a missing value is 0

    ({"x": 1, "y": 2}, {"y": 3, "z": 4}), ({}, {}), ({"a": 1}, {}), ({"a": 1}, {"a": 5}), ({}, {"b": 2})
    """
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


def group_by_length(words):
    """a dict from each length to the list of `words` that are so long, in order

    (["a", "bb", "c"],), ([],), (["one", "two", "four"],), (["x"],)
    """
    groups = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    return groups


def group_by_first_letter(words):
    """a dict from each first letter to the list of `words` that begin with it, in order

    (["ape", "bear", "ant"],), ([],), (["one", "two", "three"],), (["x"],)
    """
    groups = {}
    for word in words:
        groups.setdefault(word[0], []).append(word)
    return groups


def from_lists(keys, values):
    """a dict of `keys` with the `values` at the same place

    (["a", "b"], [1, 2]), ([], []), (["x"], [9]), ([1, 2, 3], ["a", "b", "c"])
    """
    return dict(zip(keys, values))


def word_lengths(words):
    """a dict from each of `words` to its length

    (["one", "three"],), ([],), (["a"],), (["ab", "abc", "ab"],)
    """
    return {word: len(word) for word in words}


def look_up(mapping, keys):
    """a list of the values of `keys` in `mapping`, None where there is no such key

    ({"a": 1, "b": 2}, ["b", "x"]), ({}, ["a"]), ({"a": 1}, []), ({"a": 1, "b": 2}, ["a", "a"])
    """
    return [mapping.get(key) for key in keys]


def best_key(scores):
    """the key with the largest value in `scores`, or None if it is empty

    ({"ann": 3, "bob": 7},), ({},), ({"x": 0},), ({"a": -1, "b": -2},), ({"a": 5, "b": 6, "c": 4},)
    """
    return max(scores, key=scores.get, default=None)


def worst_key(scores):
    """the key with the smallest value in `scores`, or None if it is empty

    ({"ann": 3, "bob": 7},), ({},), ({"x": 0},), ({"a": -1, "b": -2},), ({"a": 5, "b": 6, "c": 4},)
    """
    return min(scores, key=scores.get, default=None)


def sorted_by_value(scores):
    """a list of the keys of `scores`, that with the smallest value first

    ({"ann": 9, "bob": 7},), ({},), ({"x": 0},), ({"a": 2, "b": 3, "c": 1},)
    """
    return sorted(scores, key=scores.get)


def positions(items):
    """a dict from each item to the list of its indices in `items`

    (["a", "b", "a"],), ([],), ([5, 5],), (["x", "y", "z", "x"],)
    """
    found = {}
    for i, item in enumerate(items):
        found.setdefault(item, []).append(i)
    return found


def without_key(mapping, key):
    """a dict of all items of `mapping` but the one under `key`

    ({"a": 1, "b": 2}, "a"), ({}, "a"), ({"a": 1}, "b"), ({"a": 1, "b": 2, "c": 3}, "c")
    """
    return {k: v for k, v in mapping.items() if k != key}


def total_price(prices, basket):
    """the sum of the `prices` of all items in the list `basket`

    ({"tea": 3, "cake": 4}, ["tea", "cake", "tea"]), ({"tea": 3}, []), ({"a": 1, "b": 10}, ["b"]), ({"x": 2}, ["x", "x"])
    """
    return sum(prices[item] for item in basket)


def same_keys(a, b):
    """a sorted list of the keys that `a` and `b` share

    ({"x": 1, "y": 2}, {"y": 3, "z": 4}), ({}, {"a": 1}), ({"a": 1}, {"a": 2}), ({"b": 1, "a": 2}, {"a": 1, "b": 2})
    """
    return sorted(key for key in a if key in b)


def most_frequent(items):
    """the item that occurs most often in `items`, the first one of several

    (["a", "b", "b"],), ([1],), ([1, 2, 2, 1, 1],), ([3, 4, 4, 3],)
    """
    return max(items, key=items.count)


def sum_by_key(pairs):
    """a dict of the sums of the numbers of each key, from a list of `pairs` (key, number)

    ([("a", 1), ("b", 2), ("a", 3)],), ([],), ([("x", 5)],), ([("x", 5), ("x", -5), ("y", 0)],)
    """
    sums = {}
    for key, number in pairs:
        sums[key] = sums.get(key, 0) + number
    return sums


def squares_of(n):
    """a dict from each whole number from 1 to `n` to its square

    (3,), (0,), (1,), (5,)
    """
    return {i: i * i for i in range(1, n + 1)}


def letter_positions(word):
    """a dict from each letter of `word` to the index of its first occurrence

    ("banana",), ("",), ("abc",), ("zz",)
    """
    return {c: word.index(c) for c in word}
