def is_palindrome(text):
    """whether `text` reads the same backwards

    ("level",), ("levels",), ("",), ("a",), ("ab",), ("abba",), ("abca",)
    """
    return text == text[::-1]


def is_anagram(a, b):
    """whether `a` and `b` are made of the same letters

    ("listen", "silent"), ("ab", "abb"), ("aab", "abb"), ("", ""), ("cat", "act"), ("cat", "car")
    """
    return sorted(a) == sorted(b)


def count_words(text):
    """how many words `text` has

    ("one two three",), ("",), ("a",), ("  two  words ",), ("to be or not to be",)
    """
    return len(text.split())


def reverse_words(text):
    """`text` with its words in reverse order

    ("one two three",), ("",), ("a",), ("b a",), ("to be or not",)
    """
    return " ".join(reversed(text.split()))


def acronym(text):
    """the first letters of all words of `text`, in capitals and without blanks

    ("portable network graphics",), ("",), ("a b",), ("One two",), ("read the fine manual",)
    """
    return "".join(word[0].upper() for word in text.split())


def unique_letters(text):
    """`text` with only the first of every repeated letter, order kept

    ("banana",), ("",), ("abc",), ("aabbcc",), ("mississippi",), ("abab",)
    """
    return "".join(dict.fromkeys(text))


def first_repeated(text):
    """the first letter of `text` that occurred before, or None if there is none

    ("abcab",), ("abc",), ("",), ("aab",), ("abba",), ("xyzzy",)
    """
    seen = set()
    for c in text:
        if c in seen:
            return c
        seen.add(c)
    return None


def most_common_letter(text):
    """the letter that occurs most often in `text`, the first one of several

    ("banana",), ("a",), ("abc",), ("hello",), ("abbaab",), ("zzyy",)
    """
    return max(text, key=text.count)


def shorten(text, size):
    """`text` if it has at most `size` letters, else its first `size` letters followed by "..."

    ("umbrella", 4), ("cat", 3), ("cats", 3), ("", 2), ("a", 1), ("giraffe", 6)
    """
    return text if len(text) <= size else text[:size] + "..."


def common_prefix(a, b):
    """the longest text that both `a` and `b` begin with

    ("flower", "flow"), ("a", "b"), ("", "x"), ("same", "same"), ("interview", "internet"), ("abc", "xbc")
    """
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n]


def caesar(text, shift):
    """`text` (small letters) with every letter moved on by `shift` in the alphabet, "a" after "z"

    ("xyz", 2), ("abc", 1), ("", 3), ("hello", 0), ("hello", 13), ("zoo", 26)
    """
    return "".join(chr((ord(c) - 97 + shift) % 26 + 97) for c in text)


def swap_ends(text):
    """`text` with its first and last letter exchanged; shorter than two letters it stays as it is

    ("house",), ("",), ("a",), ("ab",), ("abc",), ("aba",)
    """
    return text if len(text) < 2 else text[-1] + text[1:-1] + text[0]


def repeat_letters(text, times):
    """`text` with every letter written `times` times

    ("abc", 2), ("", 3), ("a", 1), ("xy", 3), ("no", 0)
    """
    return "".join(c * times for c in text)


def is_pangram(text):
    """whether every letter from a to z occurs in `text`, in capitals or not

    ("The quick brown fox jumps over the lazy dog",), ("abc",), ("",), ("zyxwvutsrqponmlkjihgfedcba",),
    ("ABCDEFGHIJKLMNOPQRSTUVWXY",)
    """
    return set("abcdefghijklmnopqrstuvwxyz") <= set(text.lower())


def count_text(text, part):
    """how often `part` occurs in `text` without overlap

    ("banana", "an"), ("aaaa", "aa"), ("", "a"), ("abc", "d"), ("xyxyx", "xyx"), ("hello", "l")
    """
    return text.count(part)


def every_other(text):
    """every second letter of `text`, beginning with the first

    ("abcdef",), ("",), ("a",), ("ab",), ("abc",), ("python",)
    """
    return text[::2]


def middle_letter(text):
    """the letter in the middle of `text`, whose length is odd

    ("abcde",), ("a",), ("cat",), ("kitchen",), ("level",)
    """
    return text[len(text) // 2]


def snake_case(text):
    """`text` in small letters with "_" in place of every blank

    ("Two Words",), ("",), ("one",), ("A b C",), ("Number of Days",)
    """
    return text.lower().replace(" ", "_")


def camel_case(text):
    """`text`, words joined by "_", as one word in which every word after the first begins with a capital

    ("my_first_word",), ("one",), ("a_b",), ("to_be_or_not",), ("snake_case",)
    """
    first, *rest = text.split("_")
    return first + "".join(word.capitalize() for word in rest)


def without_part(text, part):
    """`text` with every `part` taken out

    ("banana", "an"), ("abc", "d"), ("", "a"), ("aaa", "a"), ("hello world", "o")
    """
    return text.replace(part, "")


def initials(name):
    """the capitals that the words of `name` begin with, each followed by "."

    ("Ada Lovelace",), ("Plato",), ("Johann Sebastian Bach",), ("A B",)
    """
    return "".join(word[0] + "." for word in name.split())


def mask(text):
    """`text` with all but its last four characters replaced by "*"

    ("12345678",), ("1234",), ("12345",), ("123",), ("",)
    """
    return "*" * (len(text) - 4) + text[-4:]


def run_lengths(text):
    """a list of pairs (letter, how often it stands there in a row) for `text`

    ("aabccc",), ("",), ("a",), ("ab",), ("aaaa",), ("abba",)
    """
    runs = []
    for c in text:
        if runs and runs[-1][0] == c:
            runs[-1] = (c, runs[-1][1] + 1)
        else:
            runs.append((c, 1))
    return runs


def same_ends(text):
    """whether `text` is not empty and its first and last letter are the same

    ("radar",), ("",), ("a",), ("ab",), ("aba",), ("abca",), ("abcd",)
    """
    return text != "" and text[0] == text[-1]


def longest_word(text):
    """the longest word of `text`, the first one of several

    ("a green house",), ("one two",), ("word",), ("to be or nought",), ("abc abcd ab abce",)
    """
    return max(text.split(), key=len)


def letters_apart(text, gap):
    """the letters of `text` with `gap` between each two

    ("abc", "-"), ("", "-"), ("a", "."), ("ab", ", "), ("hello", " ")
    """
    return gap.join(text)


def balanced(text):
    """whether every "(" in `text` is closed by a later ")" and none is closed that was not opened

    ("(a(b))",), ("",), (")(",), ("(()",), ("())",), ("()()",), ("abc",)
    """
    depth = 0
    for c in text:
        if c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0
