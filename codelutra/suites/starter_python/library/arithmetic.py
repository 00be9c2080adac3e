def factorial(n):
    """the product of all whole numbers from 1 to `n` (1 for 0)

    (5,), (0,), (1,), (2,), (3,), (7,), (10,)
    """
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


def gcd(a, b):
    """the greatest common divisor of `a` and `b`

    (12, 18), (7, 5), (9, 3), (3, 9), (100, 75), (0, 4), (48, 36)
    """
    while b:
        a, b = b, a % b
    return a


def is_prime(n):
    """whether `n` is a prime number

    (7,), (1,), (2,), (4,), (9,), (25,), (29,), (49,), (97,), (0,)
    """
    return n > 1 and all(n % d != 0 for d in range(2, int(n**0.5) + 1))


def fibonacci(n):
    """the `n`-th Fibonacci number, where the 0th is 0 and the 1st is 1

    (6,), (0,), (1,), (2,), (3,), (10,), (15,)
    """
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def clamp(x, low, high):
    """`x`, or the nearer of `low` and `high` if `x` is outside of them

    (12, 1, 9), (5, 1, 9), (0, 1, 9), (1, 1, 9), (-7, -3, 3), (9, 1, 9)
    """
    return max(low, min(x, high))


def sign(x):
    """-1 for a negative `x`, 1 for a positive one and 0 for 0

    (-8,), (5,), (0,), (1,), (-1,)
    """
    if x > 0:
        return 1
    return -1 if x < 0 else 0


def fizz(n):
    """ "Fizz" if `n` is divisible by 3, else "Buzz" if it is divisible by 5, else `n` itself

    (9,), (10,), (7,), (15,), (1,), (4,), (6,), (25,)
    """
    if n % 3 == 0:
        return "Fizz"
    if n % 5 == 0:
        return "Buzz"
    return n


def is_square(n):
    """whether `n` is the square of a whole number

    (16,), (15,), (0,), (1,), (2,), (25,), (26,), (144,)
    """
    return int(n**0.5) ** 2 == n


def divisors(n):
    """a list of all divisors of `n`, smallest first

    (12,), (1,), (2,), (7,), (16,), (30,)
    """
    return [d for d in range(1, n + 1) if n % d == 0]


def count_divisors(n):
    """how many divisors `n` has

    (12,), (1,), (2,), (7,), (16,), (36,)
    """
    return sum(1 for d in range(1, n + 1) if n % d == 0)


def collatz_steps(n):
    """how many steps `n` takes to reach 1 if even numbers are halved and odd ones become 3 * n + 1

    (6,), (1,), (2,), (3,), (7,), (9,)
    """
    steps = 0
    while n > 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def reverse_digits(n):
    """the number whose digits are those of `n` in reverse order

    (120,), (7,), (123,), (900,), (4321,), (1001,)
    """
    return int(str(n)[::-1])


def to_binary(n):
    """`n` in binary, as text without a prefix

    (10,), (0,), (1,), (2,), (7,), (255,)
    """
    return format(n, "b")


def is_power_of_two(n):
    """whether `n` is a power of two

    (8,), (1,), (2,), (3,), (6,), (0,), (64,), (100,)
    """
    return n > 0 and n & (n - 1) == 0


def least_common_multiple(a, b):
    """the smallest positive number that both `a` and `b` divide

    (4, 6), (3, 5), (2, 8), (7, 7), (10, 15), (1, 9)
    """
    m = max(a, b)
    while m % a or m % b:
        m += 1
    return m


def to_fahrenheit(celsius):
    """the temperature `celsius` in degrees Fahrenheit

    (100,), (0,), (-40,), (37,), (20,)
    """
    return celsius * 9 / 5 + 32


def hours_and_minutes(minutes):
    """a tuple of the whole hours in `minutes` and the minutes left over

    (135,), (0,), (59,), (60,), (61,), (600,)
    """
    return minutes // 60, minutes % 60


def digital_root(n):
    """the single digit that is left when the digits of `n` are added up again and again

    (987,), (0,), (9,), (10,), (38,), (12345,)
    """
    while n > 9:
        n = sum(int(d) for d in str(n))
    return n


def is_armstrong(n):
    """whether the cubes of the digits of `n` add up to `n`

    (153,), (154,), (1,), (10,), (370,), (371,), (100,)
    """
    return sum(int(d) ** 3 for d in str(n)) == n


def triangular(n):
    """the sum of all whole numbers from 1 to `n`

    (4,), (0,), (1,), (10,), (100,), (7,)
    """
    return n * (n + 1) // 2


def average(a, b, c):
    """the average of `a`, `b` and `c`

    (1, 2, 6), (0, 0, 0), (3, 3, 3), (-1, 0, 4), (10, 20, 31)
    """
    return (a + b + c) / 3


def middle(a, b, c):
    """the middle one of the three numbers `a`, `b` and `c` by size

    (5, 1, 3), (1, 2, 3), (3, 2, 1), (2, 9, 4), (7, 7, 1), (0, -5, 5)
    """
    return sorted([a, b, c])[1]


def is_leap(year):
    """whether `year` is a leap year

    (2024,), (2023,), (1900,), (2000,), (2100,), (1996,)
    """
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def round_up(n, step):
    """the smallest multiple of `step` that is not smaller than `n`

    (13, 5), (10, 5), (0, 3), (1, 4), (11, 10), (99, 100)
    """
    return (n + step - 1) // step * step


def count_bits(n):
    """how many ones `n` has in binary

    (13,), (0,), (1,), (8,), (255,), (1022,)
    """
    return bin(n).count("1")


def grade(points):
    """ "A" for at least 90 `points`, "B" for at least 75, "C" for at least 60, else "F"

    (80,), (90,), (89,), (75,), (74,), (60,), (59,), (100,)
    """
    if points >= 90:
        return "A"
    if points >= 75:
        return "B"
    return "C" if points >= 60 else "F"
