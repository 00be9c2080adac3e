def rotate(items, n):
    """`items` with its first `n` items moved to the end

    ([1, 2, 3, 4], 1), ([1, 2, 3], 0), ([], 0), ([1, 2, 3, 4, 5], 3), (["a", "b"], 2)
    """
    return items[n:] + items[:n]


def chunks(items, size):
    """a list of the pieces of `items`, each `size` long but for the last, which may be shorter

    ([1, 2, 3, 4, 5], 2), ([], 3), ([1, 2, 3], 3), ([1, 2, 3, 4], 3), (["a", "b"], 1)
    """
    return [items[i : i + size] for i in range(0, len(items), size)]


def flatten(lists):
    """one list of all items of `lists`, in order

    ([[1, 2], [], [3]],), ([],), ([[]],), ([["a"], ["b", "c"]],), ([[1], [2], [3, 4, 5]],)
    """
    return [item for items in lists for item in items]


def without_repeats(items):
    """a list of `items` with only the first of equal ones, order kept

    ([3, 1, 3, 2, 1],), ([],), ([1, 1, 1],), ([1, 2, 3],), (["b", "a", "b"],)
    """
    return list(dict.fromkeys(items))


def running_totals(numbers):
    """a list of the sums of the first one, two, three ... of `numbers`

    ([1, 2, 3],), ([],), ([5],), ([1, -1, 4],), ([0, 0, 7, 2],)
    """
    totals = []
    total = 0
    for n in numbers:
        total += n
        totals.append(total)
    return totals


def steps_between(numbers):
    """a list of the differences between each of `numbers` and the one before it

    ([1, 4, 9],), ([],), ([5],), ([3, 3],), ([10, 7, 8, 0],)
    """
    return [b - a for a, b in zip(numbers, numbers[1:])]


def second_largest(numbers):
    """the second largest of the different values in `numbers`

    ([4, 9, 7],), ([1, 2],), ([5, 5, 3],), ([-1, -2, -3],), ([9, 8, 9, 7],)
    """
    return sorted(set(numbers))[-2]


def position_of_largest(numbers):
    """the index of the largest of `numbers`, the first one of several

    ([4, 9, 7],), ([1],), ([5, 5, 3],), ([-3, -2, -1],), ([0, 8, 9, 9],)
    """
    return numbers.index(max(numbers))


def take_turns(a, b):
    """a list that takes its items from `a` and `b` in turn; both are equally long

    ([1, 3], [2, 4]), ([], []), (["x"], ["y"]), ([1, 2, 3], [0, 0, 0])
    """
    result = []
    for x, y in zip(a, b):
        result.append(x)
        result.append(y)
    return result


def is_sorted(numbers):
    """whether no number in `numbers` is smaller than the one before it

    ([1, 2, 2, 5],), ([],), ([3],), ([2, 1],), ([1, 3, 2],), ([1, 1],)
    """
    return all(a <= b for a, b in zip(numbers, numbers[1:]))


def halves(items):
    """a tuple of the first and the second half of `items`; the middle item of an odd number belongs to the second

    ([1, 2, 3, 4],), ([],), ([1],), ([1, 2, 3],), (["a", "b", "c", "d", "e"],)
    """
    half = len(items) // 2
    return items[:half], items[half:]


def median(numbers):
    """the middle one of `numbers` by size; there is an odd number of them

    ([5, 1, 3],), ([7],), ([9, 2, 8, 1, 5],), ([1, 1, 2],), ([-3, 0, -5],)
    """
    return sorted(numbers)[len(numbers) // 2]


def transpose(rows):
    """the columns of `rows` as a list of lists; all rows are equally long

    ([[1, 2], [3, 4]],), ([],), ([[1, 2, 3]],), ([[1], [2]],), ([[1, 2], [3, 4], [5, 6]],)
    """
    return [list(column) for column in zip(*rows)]


def row_sums(rows):
    """a list of the sums of each of `rows`

    ([[1, 2], [3]],), ([],), ([[]],), ([[5, -5], [1, 1, 1]],), ([[10]],)
    """
    return [sum(row) for row in rows]


def diagonal(square):
    """a list of the numbers on the diagonal of `square`, from the upper left to the lower right

    ([[1, 2], [3, 4]],), ([[7]],), ([[1, 2, 3], [4, 5, 6], [7, 8, 9]],), ([],)
    """
    return [square[i][i] for i in range(len(square))]


def common_items(a, b):
    """a sorted list of the values that are in both `a` and `b`

    ([3, 1, 2], [2, 3, 5]), ([], [1]), ([1, 1], [1]), ([1, 2], [3]), ([9, 8, 7], [7, 8, 9])
    """
    return sorted(set(a) & set(b))


def only_in_first(a, b):
    """a sorted list of the values that are in `a` but not in `b`

    ([3, 1, 2], [2, 5]), ([], [1]), ([1, 1], []), ([1, 2], [1, 2]), ([9, 8, 7], [8])
    """
    return sorted(set(a) - set(b))


def in_either(a, b):
    """a sorted list of the values that are in `a` or in `b` but not in both

    ([3, 1, 2], [2, 5]), ([], [1]), ([1, 1], []), ([1, 2], [1, 2]), ([9, 8, 7], [8, 6])
    """
    return sorted(set(a) ^ set(b))


def ends(items):
    """a list of the first and the last of `items`

    ([4, 5, 6],), ([1],), ([1, 2],), (["a", "b", "c", "d"],)
    """
    return [items[0], items[-1]]


def without_ends(items):
    """`items` without the first and the last one

    ([4, 5, 6, 7],), ([1, 2],), ([1, 2, 3],), (["a", "b", "c", "d", "e"],)
    """
    return items[1:-1]


def every_nth(items, n):
    """a list of every `n`-th item of `items`, beginning with the first

    ([1, 2, 3, 4, 5], 2), ([], 3), ([1, 2, 3], 1), ([1, 2, 3, 4, 5, 6, 7], 3)
    """
    return items[::n]


def last_items(items, n):
    """the last `n` of `items`, `n` being at least 1

    ([1, 2, 3, 4], 2), ([1, 2, 3], 1), ([1, 2], 2), (["a", "b", "c"], 5)
    """
    return items[-n:]


def largest_gap(numbers):
    """the largest minus the smallest of `numbers`

    ([4, 9, 7],), ([5],), ([-3, 3],), ([1, 1, 2],), ([10, -10, 0],)
    """
    return max(numbers) - min(numbers)


def average_of(numbers):
    """the average of `numbers`, or 0 if there are none

    ([1, 2, 6],), ([],), ([5],), ([1, 2],), ([-4, 4, 3],)
    """
    return sum(numbers) / len(numbers) if numbers else 0


def dot(a, b):
    """the sum of the products of each number in `a` with the one at the same place in `b`

    ([1, 2], [3, 4]), ([], []), ([5], [2]), ([1, 0, -1], [4, 5, 6]), ([2, 2], [2, 3])
    """
    return sum(x * y for x, y in zip(a, b))


def add_lists(a, b):
    """a list of the sums of the numbers at the same place in `a` and `b`

    ([1, 2], [3, 4]), ([], []), ([5], [2]), ([1, 0, -1], [4, 5, 6])
    """
    return [x + y for x, y in zip(a, b)]


def equal_places(a, b):
    """at how many places `a` and `b` have the same item

    ([1, 2, 3], [1, 5, 3]), ([], [1]), ([1], [1]), ([1, 2], [2, 1]), ("karolin", "kathrin")
    """
    return sum(x == y for x, y in zip(a, b))


def larger_of_each(a, b):
    """a list of the larger of the two numbers at each place of `a` and `b`

    ([1, 5], [3, 4]), ([], []), ([5], [2]), ([1, 0, -1], [4, -5, -6])
    """
    return [max(x, y) for x, y in zip(a, b)]


def appears_twice(items):
    """whether any item of `items` appears more than once

    ([1, 2, 1],), ([],), ([1],), ([1, 2, 3],), (["a", "a"],), ([3, 1, 2, 3],)
    """
    return len(set(items)) < len(items)


def with_numbers(items):
    """a list of pairs (number, item) for `items`, counted from 1

    (["a", "b"],), ([],), ([7],), (["x", "y", "z"],)
    """
    return list(enumerate(items, 1))


def count_inversions(numbers):
    """how many pairs in `numbers` have the larger number first

    ([2, 1, 3],), ([],), ([1, 2, 3],), ([3, 2, 1],), ([1, 1],), ([4, 1, 3, 2],)
    """
    n = len(numbers)
    return sum(numbers[i] > numbers[j] for i in range(n) for j in range(i + 1, n))


def sum_to(numbers, target):
    """whether two different places of `numbers` hold numbers that add up to `target`

    ([1, 4, 6], 10), ([5], 10), ([5, 5], 10), ([1, 2, 3], 7), ([], 0), ([3, 1, 2], 6), ([0, 1], 0)
    """
    n = len(numbers)
    return any(numbers[i] + numbers[j] == target for i in range(n) for j in range(i + 1, n))
